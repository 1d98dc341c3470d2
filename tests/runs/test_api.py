"""The Python API: what a command does is a method, the curves are a data frame, callbacks are told."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong import Callback, Run
from lifelong.cli import COMMANDS
from lifelong.progress import Notebook, Plain, Silent, as_asked
from stores.ledger import PHASES, PhaseRecord
from tests.runs.small import entry, feed_entry, small_entry

ELSEWHERE = {"init": "create", "run": "run_stream", "gc": "gc"}
WITHOUT_A_RUN = {"check", "select", "methods", "diff"}
NOT_OF_A_RUN = {"demo", "serve", "watch", "compare", "recipe", "doctor"}


def test_what_a_command_does_a_method_does_too() -> None:
    for command in COMMANDS:
        if command in NOT_OF_A_RUN:
            continue
        owner: Any = lifelong if command in WITHOUT_A_RUN else Run
        method = getattr(owner, ELSEWHERE.get(command, command), None)
        assert method is not None, f"`lifelong {command}` has no method"
        assert method.__doc__


def test_the_curves_are_a_data_frame_with_what_follows_from_them(finished: Run) -> None:
    frame, matrix = finished.curves(), finished.skill_matrix()
    assert frame.index.name == "timestep"
    assert list(frame.index) == [0, 1, 2, 3]
    assert list(frame.columns) == list(matrix.skills)
    assert np.array_equal(frame.to_numpy(), matrix.R)
    said = json.loads(matrix.to_json())
    assert frame.attrs == {key: said[key] for key in said if key not in ("skills", "timesteps", "R")}
    assert frame.iloc[-1].mean() == pytest.approx(frame.attrs["average_accuracy"][-1])


def test_a_run_shows_itself_on_one_screen_and_in_a_notebook(
    finished: Run, llava: str, tmp_path: Path
) -> None:
    text, page = repr(finished), finished._repr_html_()
    assert str(finished.root) in text
    assert "timestep 3, finished" in text
    assert all(skill in text for skill in finished.skill_matrix().skills)
    assert len(text.splitlines()) < 30
    assert "<table" in page
    assert "<th>vqa</th>" in page
    assert "timestep 0, finished" in repr(Run.create(tmp_path / "new", model=llava))


def test_what_is_asked_of_a_run_needs_no_stores(finished: Run, tmp_path: Path) -> None:
    decided = finished.decisions()
    sample = decided[decided.selected].iloc[0]
    assert finished.why(sample.sample_id)["samples"][0]["sample_id"] == sample.sample_id
    assert finished.routes()["timestep"] == 3
    assert finished.export(tmp_path / "pool.json", "sharegpt") == finished.status()["pool"]["live"]
    assert [problem for problem in finished.fsck() if problem.kind == "damaged"] == []


def test_a_dataset_is_checked_and_selected_from_without_a_run(tmp_path: Path) -> None:
    found = entry("easyvqa")
    rows = lifelong.check(found["train"], images=found["images"])
    assert set(rows.outcome) == {"accepted"}
    done = lifelong.select(found["train"], tmp_path / "out.json", "random", budget=5, images=found["images"])
    assert (done.selected, len(json.loads(done.out.read_text()))) == (5, 5)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("recipe: random")
    again = lifelong.select(
        found["train"], tmp_path / "a.json", str(recipe), budget=5, images=found["images"]
    )
    assert again.out.read_bytes() == done.out.read_bytes()
    assert "adapt-inf" in {recipe["name"] for recipe in lifelong.methods()["recipes"]}


class Noting(Callback):
    """Notes what it is told, and raises when `at` comes by."""

    def __init__(self, at: str = "") -> None:
        self.at = at
        self.told: list[str] = []

    def note(self, word: str) -> None:
        self.told.append(word)
        if word == self.at:
            raise ValueError(f"no {word}")

    def on_timestep_begin(self, run: Run, timestep: int, feed: Any) -> None:
        self.note(f"begin {timestep} {feed.name}")

    def on_phase_end(self, run: Run, timestep: int, record: PhaseRecord) -> None:
        with run.reading() as stores:
            assert stores.ledger.phase(timestep, record.phase) == record
        self.note(record.phase)

    def on_evaluate(self, run: Run, timestep: int, accuracy: dict[str, float]) -> None:
        assert accuracy == run.curves().loc[timestep].to_dict()
        self.note(f"evaluated {timestep}")

    def on_timestep_end(self, run: Run, timestep: int) -> None:
        self.note(f"end {timestep}")

    def on_error(self, run: Run, timestep: int, error: BaseException) -> None:
        self.note(f"error {timestep} {error}")


def test_callbacks_are_told_and_one_that_raises_stops_the_run_where_it_can_go_on(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(recipe="random")
    first = Noting(at="train")
    with pytest.raises(ValueError, match="no train"):
        feed_entry(Run.open(run.root, callbacks=[first]), small_entry(tmp_path, "easyvqa", rows=8, evals=2))
    begun = ["begin 1 easyvqa", "ingest", "start", "measure", "cluster", "route", "select", "train"]
    assert first.told == [*begun, "error 1 no train"]
    assert run.status()["phase"] == "evaluate"
    second = Noting()
    assert Run.open(run.root, callbacks=[second]).resume()
    assert second.told == ["begin 1 easyvqa", "evaluate", "evaluated 1", "prune", "end 1"]
    assert set(PHASES) | {"start"} == {word for word in first.told + second.told if " " not in word}


def test_progress_in_a_notebook_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_asked(None), Silent)
    assert isinstance(as_asked(False), Silent)
    assert isinstance(as_asked(True), Plain)  # standard error is no terminal here

    class ZMQInteractiveShell:
        pass

    kernel = type(sys)("IPython")
    kernel.get_ipython = ZMQInteractiveShell
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setattr(sys, "stderr", drawn := io.StringIO())
    bars = as_asked(None)
    assert isinstance(bars, Notebook)
    bars.step("rows read", 1, 4)
    bars.step("rows read", 4, 4)
    bars.step("training steps", 1, 2)
    bars.say("done")
    assert "rows read: 100%" in drawn.getvalue()
    assert drawn.getvalue().count("rows read:   0%") == 1
    assert "training steps:" in drawn.getvalue()
