"""Parts of the report that need no run: the figures of the skills, the bins of the scores, the script's data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lifelong.account.curves import Curves
from lifelong.account.plots import plot_average, plot_gain, relative_gains
from lifelong.report.accuracy import drawing, headlines, in_short, skill_rows
from lifelong.report.decided import Decided
from lifelong.report.page import ASSETS, _as_script
from lifelong.report.scores import BINS, distributions
from stores.ledger import Evaluation

RISING = np.array([[0.0, 0.2], [0.8, 0.3], [0.6, 0.9]])
NAN = np.nan


def curves_of(matrix: np.ndarray, skills: str = "ab", **introduced: int) -> Curves:
    """Curves with a column of the matrix for each letter, NaN = not tested."""
    places = zip(*np.nonzero(~np.isnan(matrix)), strict=True)
    rows = [Evaluation(int(t), skills[s], "exact_match", float(matrix[t, s]), 0.01, 50) for t, s in places]
    return Curves.from_rows(rows, introduced)


def rising() -> Curves:
    return curves_of(RISING, a=1, b=2)


def test_a_row_of_the_matrix_for_each_skill() -> None:
    first, second = skill_rows(rising())
    assert [cell["value"] for cell in first.cells] == ["0.0", "80.0", "60.0"]
    assert [cell["share"] for cell in second.cells] == [0.2, 0.3, 0.9]
    assert [cell["arrived"] for cell in first.cells] == [False, True, False]
    assert (first.forgetting, first.first_minus_last, second.forward_transfer) == ("+20.0", "+20.0", "+10.0")


def test_headlines_are_over_the_skills_that_arrived() -> None:
    average, forgotten, transferred = headlines(rising())
    assert average.value == "75.0 %"
    assert "2 skills" in average.told
    assert "stood at 10.0 %" in average.told
    assert (
        forgotten.value == "+20.0 points"
    )  # of a; b came with the last timestep, which leaves nothing to forget
    assert "1 skills" not in forgotten.told
    assert transferred.value == "+5.0 points"


def test_what_happened_in_short() -> None:
    told = in_short(rising())
    assert told.startswith(
        "Taught so far: 2 skills. The model scores 75.0 % on average over them, from 10.0 %"
    )
    assert told.endswith("it has forgotten most on a: 20.0 points below the best score it had there.")
    assert "forgotten nothing" in in_short(curves_of(np.array([[0.0], [0.5], [0.6]]), a=1))
    assert in_short(curves_of(np.array([[0.0], [0.5]]), a=1)).endswith("from 0.0 % before any training.")
    assert in_short(curves_of(np.array([[0.5, NAN]]))) == ""


def test_headlines_before_any_data() -> None:
    found = headlines(curves_of(np.array([[0.5, NAN]])))
    assert [each.value for each in found] == ["not defined yet"] * 3
    assert "0 skills" in found[0].told


def test_the_drawing_has_every_run_of_a_skill_and_no_nan() -> None:
    gaps = curves_of(np.array([[0.1, NAN], [NAN, 0.4]]), "ca", c=1)
    found = drawing({"one": rising(), "two": gaps})
    assert [(skill["name"], [line["run"] for line in skill["runs"]]) for skill in found["skills"]] == [
        ("a", ["one", "two"]),
        ("b", ["one"]),
        ("c", ["two"]),
    ]
    assert found["skills"][0]["runs"][1]["R"] == [None, 0.4]
    assert found["skills"][0]["runs"][1]["introduced"] is None
    averages = {each["run"]: (each["value"], each["all"]) for each in found["average"]}
    assert averages["two"] == ([None, None], [None, None])
    seen, over_all = averages["one"]
    assert seen != over_all
    np.testing.assert_allclose(over_all, RISING.mean(1))
    json.dumps(found, allow_nan=False)


def scored(scores: list[float]) -> Decided:
    table = pd.DataFrame({"score_x": scores, "selected": np.arange(len(scores)) % 2 == 0})
    return Decided(1, table)


@pytest.mark.parametrize(
    "scores",
    [
        [0.0, 1.0, 2.0, 3.0],
        [5.0] * 4,
        [1e20] * 4,
        [-3.0],
        [0.0, 5e-324],
        [1.0, 1.0 + 1e-15],
        [*np.linspace(0, 1, 300), 1e9],
        [float("nan"), 2.0, 3.0, float("nan")],
    ],
    ids=["spread", "constant", "huge", "one", "subnormal", "close", "far out", "gaps"],
)
def test_every_score_is_in_a_bin(scores: list[float]) -> None:
    (found,) = distributions(scored(scores))
    known = np.isfinite(scores)
    assert (found.judged, found.unjudged) == (known.sum(), (~known).sum())
    assert sum(found.every) == known.sum()
    assert sum(found.selected) == known[::2].sum()
    assert len(found.every) == len(found.selected) == BINS
    assert found.start < found.end
    assert (found.low, found.high) == (np.nanmin(scores), np.nanmax(scores))


def test_a_score_far_out_does_not_squeeze_the_rest_into_a_bin() -> None:
    (found,) = distributions(scored([*np.linspace(0, 1, 300), 1e9]))
    assert found.high == 1e9
    assert found.end <= 1
    assert max(found.every) < 30


def test_an_expert_that_judged_nothing() -> None:
    (found,) = distributions(scored([float("nan")] * 3))
    assert (found.judged, found.unjudged, found.every) == (0, 3, [])


def test_data_cannot_leave_its_script() -> None:
    data = {"text": "</script><!--<script>&\u2028\u2029", "ü": "中"}
    text = _as_script(data)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == data


def test_relative_gains_are_over_what_both_tested_and_the_reference_learned() -> None:
    run = curves_of(np.array([[0.0, 0.2, 0.7], [0.5, 0.4, 0.7]]), "abc", a=1)
    full = curves_of(np.array([[0.0, 0.0, 0.1], [0.5, 0.0, 0.8]]), "adb", a=1)
    assert relative_gains(run, full) == pytest.approx([100 * (0 + 0.25) / 2, 100 * (1 + 0.5) / 2])
    assert np.isnan(relative_gains(run, curves_of(np.ones((2, 1)), "z", z=1))).all()


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_figures_hold_their_text_and_no_date(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `report`")
    for name in ("a", "b"):
        plot_average({"run": rising(), "half": curves_of(RISING / 2, a=1, b=2)}, tmp_path / f"{name}{suffix}")
    drawn = (tmp_path / f"a{suffix}").read_bytes()
    assert drawn == (tmp_path / f"b{suffix}").read_bytes()
    words = {".svg": b">average accuracy", ".pdf": b"/Subtype /Type0"}
    assert words[suffix] in drawn


def test_the_gain_says_against_what_and_without_what(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `report`")
    full = curves_of(np.array([[0.1, 0.0], [0.5, 0.0]]), a=1)
    plot_gain({"run": rising()}, {"multitask": full}, tmp_path / "gain.svg")
    drawing = (tmp_path / "gain.svg").read_text("utf-8")
    assert "relative gain, % of multitask; without b" in drawing
    never = curves_of(np.zeros((2, 2)), a=1)
    with pytest.raises(ValueError, match="multitask has no accuracy above 0"):
        plot_gain({"run": rising()}, {"multitask": never}, tmp_path / "gain.svg")


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    levels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_is_legible_in_light_in_dark_and_on_paper() -> None:
    sheet, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "base.js"))
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", sheet, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ground in ("surface", "raised", "heat"):
            assert contrast(theme["text"], theme[ground]) >= 4.5
        for ink in ("quiet", "link"):
            assert min(contrast(theme[ink], theme[ground]) for ground in ("surface", "raised")) >= 4.5
    for name, theme in (("LIGHT", themes[0]), ("DARK", themes[1])):
        (lines,) = re.findall(rf"const {name} = \[(.*?)\];", script)
        assert all(contrast(line, theme["surface"]) >= 3 for line in re.findall(r"#\w{6}", lines))
