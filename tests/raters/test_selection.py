"""mmSSR as a method and as an expert: what is selected, why, and that nothing but its content decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.config import RunConfig
from lifelong.errors import UsageError
from lifelong.raters import rater_of
from lifelong.raters.rater import Rater
from lifelong.raters.tune import write_rater
from lifelong.recipes.method import method
from policies.scorers.mmssr import CAPABILITIES, STYLES
from tests.conftest import Loader, disturb
from tests.raters.rule import Known, known, write_mixed, write_ratings
from tests.runs.small import decisions, small_entry

ROOT = Path(__file__).resolve().parents[2]
ROWS = 20
MAIN = "import sys; from lifelong.cli import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def samples() -> list[Known]:
    return known(rows=ROWS)


@pytest.fixture(scope="module")
def mixed(samples: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(samples, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def ratings(samples: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(samples, tmp_path_factory.mktemp("ratings") / "r.jsonl")


def command(data: Path, out: Path, budget: str, *settings: object, name: str = "mmssr") -> list[str]:
    options = [part for setting in settings for part in ("--set", setting)]
    parts = ["select", data, "--method", name, "--budget", budget, "--out", out, "--quiet", *options]
    return [str(part) for part in parts]


def select(data: Path, out: Path, budget: str, *settings: object) -> list[dict[str, Any]]:
    """The decisions about every sample, in order."""
    assert invoke(command(data, out, budget, *settings)) == 0
    rows = pq.read_table(f"{out}.decisions.parquet").to_pylist()
    assert len(out.read_text().splitlines()) == sum(row["selected"] for row in rows)
    return rows


def test_the_budget_is_exact_and_every_style_and_capability_is_filled(
    mixed: Path, samples: list[Known], ratings: Path, tmp_path: Path
) -> None:
    rows = select(mixed, tmp_path / "out.jsonl", "15%", f"rater.ratings={ratings}")
    assert len(rows) == 200
    chosen = [each for each, row in zip(samples, rows, strict=True) if row["selected"]]
    assert len(chosen) == 30
    assert {style for each in chosen for style in each.styles()} == set(STYLES)
    useful = {c for each in samples for c in CAPABILITIES if each.rating(c)}
    assert {c for each in chosen for c in CAPABILITIES if each.rating(c)} == useful
    scores = [sum(each.rating(c) for c in CAPABILITIES) / 14 for each in samples]
    np.testing.assert_allclose([row["score_mmssr"] for row in rows], scores, rtol=1e-6)
    by_score = np.argsort([-score for score in scores], kind="stable")[:30]
    missed = set(STYLES) - {style for i in by_score for style in samples[i].styles()}
    assert missed  # the thirty of highest score leave some styles out


def test_the_decisions_tell_the_capability_and_the_bin(
    mixed: Path, samples: list[Known], ratings: Path, tmp_path: Path
) -> None:
    names = {name: key for key, name in CAPABILITIES.items()}
    styles = {name: key for key, name in STYLES.items()}
    rows = select(mixed, tmp_path / "out.jsonl", "15%", f"rater.ratings={ratings}")
    for each, row in zip(samples, rows, strict=True):
        if not row["selected"]:
            assert row["stratum"] is None
            continue
        _, _, told = row["reason"].partition("by mmssr, for ")
        capability, _, style = told.partition(", from its source's bin of style ")
        assert each.rating(names[capability]) > 0
        assert styles[style] in each.styles()


def test_ratings_of_other_samples_are_refused(
    mixed: Path, samples: list[Known], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_ratings(samples[:1], tmp_path / "one.jsonl")
    other = tmp_path / "other.jsonl"
    line = json.loads(one.read_text())
    line = {key: value for key, value in line.items() if not key.endswith("_id")}
    other.write_text(json.dumps(line | {"source_id": "of another dataset"}) + "\n")
    assert invoke(command(mixed, tmp_path / "out.jsonl", "20", f"rater.ratings={other}")) == 1
    assert f"{other} rates none of the rows; " in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert invoke(command(mixed, tmp_path / "out.jsonl", "20", f"rater.ratings={one}")) == 0


def test_samples_without_a_rating_fill_what_is_left_and_say_so(
    mixed: Path, samples: list[Known], tmp_path: Path
) -> None:
    half = write_ratings(samples[::2], tmp_path / "half.jsonl")
    rows = select(mixed, tmp_path / "out.jsonl", "120", f"rater.ratings={half}")
    chosen = [row for row in rows if row["selected"]]
    assert len(chosen) == 120
    assert all(row["selected"] for row in rows[::2])
    unrated = [row for row in chosen if row["score_mmssr"] is None]
    assert len(unrated) == 20
    assert all("rated high enough (it has no rating)" in row["reason"] for row in unrated)
    assert min(row["rank"] for row in unrated) == 100
    other = select(mixed, tmp_path / "other.jsonl", "120", f"rater.ratings={half}", "seed=1")
    assert [row["selected"] for row in other] != [row["selected"] for row in rows]


@pytest.fixture(scope="module")
def rater_folder(
    load_tiny: Loader, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A rater that has learned nothing, but whose adapter is not the model's."""
    vlm = load_tiny("qwen2_5_vl")
    disturb(vlm)
    config = RunConfig.model_validate(
        {"model": {"path": str(model_folders["qwen2_5_vl"])}, "lora": {"rank": 4, "alpha": 8}}
    )
    folder = tmp_path_factory.mktemp("rater") / "rater"
    write_rater(folder, vlm.save_adapter, config)
    return folder


def test_neither_process_nor_batch_size_changes_what_a_rater_selects(
    samples: list[Known], rater_folder: Path, tmp_path: Path
) -> None:
    data = write_mixed(samples[::5], tmp_path)
    settings = [f"rater.model={rater_folder}", "model.device=cpu"]
    here = select(data, tmp_path / "here.jsonl", "25%", *settings)
    select(data, tmp_path / "one.jsonl", "25%", *settings, "rater.batch_size=1")
    there = [sys.executable, "-c", MAIN, *command(data, tmp_path / "there.jsonl", "25%", *settings)]
    subprocess.run(there, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    expected = (tmp_path / "here.jsonl").read_bytes()
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes() == expected
    assert sum(row["selected"] for row in here) == 10
    assert all(0 < row["score_mmssr"] < 5 for row in here)


def test_a_sample_is_rated_once_in_its_life(
    samples: list[Known], rater_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_mixed(samples[::20], tmp_path)
    settings = [f"rater.model={rater_folder}", "model.device=cpu", f"encoder.cache={tmp_path / 'cache'}"]
    first = select(data, tmp_path / "a.jsonl", "40%", *settings)
    monkeypatch.delattr(Rater, "__call__")
    again = select(data, tmp_path / "b.jsonl", "40%", *settings)
    assert again == first


def test_without_a_rater_the_method_says_what_to_set(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(command(mixed, tmp_path / "out.jsonl", "15%")) == 2
    assert "set rater.model or rater.ratings" in capsys.readouterr().err
    built = method({"recipe": "adapt-inf", "router": "entropy[el2n mmssr]"}, RunConfig())
    assert list(built.scorers) == ["el2n"]
    assert "rater.ratings" in built.skipped["mmssr"]
    with pytest.raises(UsageError, match="not both"):
        rater_of(RunConfig.model_validate({"rater": {"model": "a", "ratings": "b"}}))


def rate(samples: Sequence[Known], path: Path, **said: Any) -> Path:
    lines = [{"sample_id": each.sample.sample_id, **said} for each in samples]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def feed_two(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Run]:
    """A run that is fed 24 samples of easyvqa, then 8 of tux_caption: (recipe, ratings)."""

    def feed(recipe: Any, path: Path) -> Run:
        config = {
            "lora": {"rank": 4},
            "model": {"device": "cpu"},
            "train": {"budget": "8", "batch_size": 4},
            "rater": {"ratings": str(path)},
        }
        run = Run.create(tmp_path / "run", model=str(model_folders["llava"]), recipe=recipe, config=config)
        for name, rows in (("easyvqa", 24), ("tux_caption", 8)):
            found = small_entry(tmp_path, name, rows, evals=0)
            run.feed(found["train"], images=found["images"], name=name)
        return run

    return feed


def test_in_a_run_sources_are_its_datasets(feed_two: Callable[..., Run], tmp_path: Path) -> None:
    """Nothing but the source tells the samples apart: shares are even, though one dataset is three times larger.

    Of 8, the first round gives the one capability 1, from the smaller bin; the second 3 from each; 1 is left.
    """
    rated = [*known(["easyvqa"], rows=24), *known(["tux_caption"], rows=8)]
    run = feed_two("mmssr", rate(rated, tmp_path / "r.jsonl", ratings={"scene": 3}, styles=[]))
    rows = decisions(run, 2)
    assert Counter(row["dataset"] for row in rows if row["selected"]) == {"tux_caption": 5, "easyvqa": 3}
    (chosen, *_) = (row for row in rows if row["selected"])
    assert chosen["reason"].endswith("for scene understanding, from its source's bin of style none")


def test_in_a_run_the_router_may_choose_it_and_why_tells(
    feed_two: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EL2N and mmSSR are both asked; where ratings are spread most evenly, mmSSR decides."""
    rated = [*known(["easyvqa"], rows=24), *known(["tux_caption"], rows=8)]
    lines = [
        {"sample_id": each.sample.sample_id, "ratings": {"scene": 5 * i / len(rated)}, "styles": []}
        for i, each in enumerate(rated)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = feed_two({"recipe": "el2n", "router": "entropy[mmssr el2n]"}, path)
    rows = decisions(run, 2)
    assert {row["scorer"] for row in rows} == {"mmssr"}
    assert all(row["score_el2n"] is not None and row["score_mmssr"] is not None for row in rows)
    assert sorted(row["score_mmssr"] for row in rows)[-8:] == sorted(
        row["score"] for row in rows if row["selected"]
    )
    assert invoke(["why", str(run.root), rows[0]["sample_id"]]) == 0
    assert "mmssr 0" in capsys.readouterr().out
