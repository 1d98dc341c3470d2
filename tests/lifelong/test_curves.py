"""The curves against a matrix worked out by hand, their outputs, and the drawings."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lifelong.account import curves as c
from lifelong.account.curves import FORMULAS, Curves
from lifelong.account.plots import plot_curves, sparkline_table
from stores.ledger import Evaluation

NAN = np.nan
# Timestep 1 brings skill a, 2 brings b, nothing has brought z; a was not evaluated after timestep 2.
R = np.array([[0.1, 0.2, 0.3], [0.8, 0.3, 0.2], [NAN, 0.9, 0.2], [0.5, 0.6, 0.4]])
INTRODUCED = np.array([1.0, 2.0, NAN])


def make_curves(matrix: np.ndarray = R, skills: str = "abz") -> Curves:
    rows = [
        Evaluation(t, skills[s], "exact_match", float(matrix[t, s]), 0.01, 50)
        for t, s in zip(*np.nonzero(~np.isnan(matrix)), strict=True)
    ]
    return Curves.from_rows(rows, {"b": 2, "a": 1})


def test_average_accuracy_of_the_seen_and_of_all() -> None:
    np.testing.assert_allclose(c.average_accuracy(R, INTRODUCED), [NAN, 0.8, NAN, 0.55])
    np.testing.assert_allclose(c.average_accuracy_all(R), [0.2, 1.3 / 3, NAN, 0.5])


def test_forgetting_is_from_the_best_of_all_earlier_timesteps() -> None:
    expected = [[NAN, NAN, NAN], [-0.7, -0.1, 0.1], [NAN, -0.6, 0.1], [0.3, 0.3, -0.1]]
    np.testing.assert_allclose(c.forgetting(R), expected)


def test_backward_transfer_counts_from_the_skills_own_timestep() -> None:
    expected = [[NAN, NAN, NAN], [0.0, NAN, NAN], [NAN, 0.0, NAN], [-0.3, -0.3, NAN]]
    np.testing.assert_allclose(c.backward_transfer(R, INTRODUCED), expected)
    np.testing.assert_allclose(c.first_minus_last(R, INTRODUCED), [0.3, 0.3, NAN])


def test_forward_transfer_is_the_gain_before_the_skills_own_data() -> None:
    np.testing.assert_allclose(c.forward_transfer(R, INTRODUCED), [0.0, 0.1, NAN])


def test_relative_gain_in_percent() -> None:
    assert c.relative_gain(np.array([0.5, 0.6]), np.array([1.0, 0.5])) == pytest.approx(85.0)
    with pytest.raises(ValueError, match=r"skills \[1\]"):
        c.relative_gain(np.array([0.5, 0.6]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="against"):
        c.relative_gain(np.array([0.5, 0.6]), np.array([1.0]))


@pytest.mark.parametrize("introduced", [[1.0, 4.0, NAN], [0.0, 2.0, NAN], [1.5, 2.0, NAN], [1.0, 2.0]])
def test_impossible_arrivals_are_refused(introduced: list[float]) -> None:
    with pytest.raises(ValueError, match="introduced"):
        c.forward_transfer(R, np.array(introduced))


@given(
    arrays(np.float64, (5, 4), elements=st.floats(0, 1)),
    arrays(np.float64, 4, elements=st.sampled_from([1.0, 2.0, 3.0, 4.0, NAN])),
    st.permutations(range(4)),
)
def test_formulas_do_not_depend_on_the_order_of_skills(
    matrix: np.ndarray, introduced: np.ndarray, order: list[int]
):
    shuffled, arrivals = matrix[:, order], introduced[order]
    np.testing.assert_array_equal(c.forgetting(shuffled), c.forgetting(matrix)[:, order])
    for formula in (c.backward_transfer, c.first_minus_last, c.forward_transfer):
        np.testing.assert_array_equal(formula(shuffled, arrivals), formula(matrix, introduced)[..., order])
    for mean, same in (
        (c.average_accuracy(shuffled, arrivals), c.average_accuracy(matrix, introduced)),
        (c.average_accuracy_all(shuffled), c.average_accuracy_all(matrix)),
    ):
        np.testing.assert_allclose(mean, same, rtol=1e-12)


@given(
    arrays(np.float64, (5, 4), elements=st.floats(0, 1)),
    arrays(np.float64, 4, elements=st.sampled_from([1.0, 2.0, 3.0, 4.0, NAN])),
)
def test_identities_between_formulas(matrix: np.ndarray, introduced: np.ndarray) -> None:
    gained = c.backward_transfer(matrix, introduced)
    np.testing.assert_array_equal(c.first_minus_last(matrix, introduced), -gained[-1])
    before_last = introduced < 4
    assert (c.forgetting(matrix)[-1, before_last] >= -gained[-1, before_last]).all()
    averages = c.average_accuracy(matrix, introduced)
    assert ((averages[~np.isnan(averages)] >= 0) & (averages[~np.isnan(averages)] <= 1 + 1e-12)).all()


def test_json_is_the_stable_form() -> None:
    result = json.loads(make_curves().to_json())
    assert result["skills"] == ["a", "b", "z"]
    assert result["timesteps"] == [0, 1, 2, 3]
    assert result["R"] == [[0.1, 0.2, 0.3], [0.8, 0.3, 0.2], [None, 0.9, 0.2], [0.5, 0.6, 0.4]]
    assert result["stderr"][2] == [None, 0.01, 0.01]
    assert result["n"] == [50, 50, 50]
    assert result["average_accuracy"] == [None, 0.8, None, pytest.approx(0.55)]
    assert result["average_accuracy_all"][2] is None
    assert result["forgetting"] == pytest.approx({"a": 0.3, "b": 0.3, "z": -0.1})
    assert result["first_minus_last"] == {"a": pytest.approx(0.3), "b": pytest.approx(0.3), "z": None}
    assert result["backward_transfer"] == {"a": pytest.approx(-0.3), "b": pytest.approx(-0.3), "z": None}
    assert result["forward_transfer"] == {"a": 0.0, "b": pytest.approx(0.1), "z": None}
    assert result["introduced"] == {"a": 1, "b": 2, "z": None}
    assert result["metrics"] == dict.fromkeys("abz", "exact_match")
    assert result["formulas"] == FORMULAS
    assert set(FORMULAS) - {"relative_gain"} <= set(result)


def test_rows_in_another_order_give_the_same_curves() -> None:
    shuffled = make_curves(R[:, [2, 1, 0]], "zba")
    assert shuffled.to_dict() == make_curves().to_dict()


def test_csv_and_frame_hold_every_evaluation() -> None:
    curves = make_curves()
    rows = list(csv.DictReader(io.StringIO(curves.to_csv())))
    assert len(rows) == np.count_nonzero(~np.isnan(R))
    last_b = next(row for row in rows if (row["timestep"], row["skill"]) == ("3", "b"))
    assert (last_b["R"], last_b["n"], last_b["introduced"]) == ("0.6", "50", "2")
    assert float(last_b["backward_transfer"]) == pytest.approx(-0.3)
    assert rows[0]["forgetting"] == ""
    frame = curves.to_frame()
    assert list(frame.columns) == list(rows[0])
    assert frame.set_index(["timestep", "skill"]).loc[(2, "b"), "R"] == 0.9


def test_a_run_under_way_counts_the_unevaluated_arrival_as_not_yet() -> None:
    curves = Curves.from_rows([Evaluation(0, "a", "anls", 0.25, NAN, 1)], {"a": 1})
    assert curves.to_dict()["introduced"] == {"a": None}
    assert curves.to_dict()["stderr"] == [[None]]


def test_a_run_without_evaluations_has_empty_curves() -> None:
    curves = Curves.from_rows([], {"a": 1})
    assert curves.to_dict()["R"] == [[]]
    assert curves.to_csv() == ""
    assert "no skill" in curves.table()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (Evaluation(1, "a", "anls", 0.5, 0.1, 9), "evaluated twice"),
        (Evaluation(2, "a", "choice", 0.5, 0.1, 9), "by 'choice'"),
        (Evaluation(2, "a", "anls", 0.5, 0.1, 0), "on 0 samples"),
    ],
)
def test_contradicting_rows_are_refused(row: Evaluation, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Curves.from_rows([Evaluation(1, "a", "anls", 0.5, 0.1, 9), row], {"a": 1})


@pytest.mark.parametrize("width", [50, 200])
def test_table_shows_values_arrivals_changes_and_formulas(width: int) -> None:
    text = make_curves().table(width)
    assert "80.0 ±1.0*" in text
    assert "90.0 ±1.0*" in text
    assert max(map(len, text.splitlines()[1:])) <= width
    assert text.count("timestep  ") == (2 if width == 50 else 1)
    footer = [line for line in text.splitlines() if line.startswith("forgetting ")]
    assert [cell for line in footer for cell in line.split()[1:]] == ["+30.0", "+30.0", "-10.0"]
    assert all(f"{name}: " in text for name in ("forgetting", "backward_transfer", "forward_transfer"))


def test_sparklines_show_every_timestep_of_every_run() -> None:
    text = sparkline_table({"one": make_curves(), "two": make_curves(np.ones((2, 2)), "ab")})
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["skill", "run", "R", "first", "last", "forgetting"]
    assert lines[1] == ["a", "one", "▁▇·▅", "10.0", "50.0", "+30.0"]
    assert lines[2] == ["a", "two", "██", "100.0", "100.0", "+0.0"]
    assert len(lines) == 1 + 3 + 2


def test_plot_has_a_line_per_run_and_a_panel_per_skill(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="plots need the extra `report`")
    runs = {"adapt-inf": make_curves(), "sequential": make_curves(R / 2)}
    plot_curves(runs, tmp_path / "curves.png")
    pixels = image.imread(tmp_path / "curves.png")[..., :3]
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        near = np.abs(pixels - np.array(colour) / 255).max(axis=-1) < 0.02
        assert near.sum() > 200
    plot_curves(runs, tmp_path / "curves.svg")
    drawing = (tmp_path / "curves.svg").read_text("utf-8")
    assert drawing.count('id="axes_') == 3
    assert drawing.count("stroke: #707070") == 2  # the arrivals of a and b; nothing brought z
    plot_curves(runs, tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_plot_refuses_what_it_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"curves\.xls"):
        plot_curves({"one": make_curves()}, tmp_path / "curves.xls")
    with pytest.raises(ValueError, match="no curves"):
        plot_curves({"one": Curves.from_rows([], {})}, tmp_path / "curves.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"lifelong\[report\]"):
        plot_curves({"one": make_curves()}, tmp_path / "curves.png")
