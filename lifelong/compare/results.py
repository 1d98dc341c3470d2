"""What the finished runs of a comparison found: read from their ledgers, or from the file that keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.account.curves import Curves
from lifelong.compare.cells import Cell, Plan
from lifelong.context import Stores
from lifelong.errors import InputError
from lifelong.run import Run

DECIMALS = 6
"""Of the scores that are kept."""

Group = tuple[str, str]
"""(recipe, budget)."""
Unit = tuple[int, int]
"""(order, seed): what two recipes are compared on."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run. scores: skill → (n,) score of each eval sample after the last timestep, in the eval set's order.

    seconds: of each phase, over all timesteps; steps: optimiser steps; trained: samples that they took; digest: of
    the run, equal for equal runs; questions: skill → hash of its eval samples and references, left out where unknown.
    """

    curves: Curves
    scores: dict[str, np.ndarray]
    seconds: dict[str, float]
    steps: int
    trained: int
    digest: str
    questions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        skills = tuple(kept["skills"])
        matrix = {name: np.array(kept[name], dtype=float) for name in ("R", "stderr")}
        curves = Curves(
            skills,
            dict(kept["metrics"]),
            n=np.where(np.isnan(matrix["R"]), 0, np.array(kept["n"], dtype=np.int64)),
            introduced=np.array([kept["introduced"][skill] for skill in skills], dtype=float),
            **matrix,
        )
        scores = {skill: np.array(values, dtype=float) for skill, values in kept["scores"].items()}
        return cls(
            curves, scores, kept["seconds"], kept["steps"], kept["samples_trained"], kept["digest"],
            kept.get("questions", {}),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        measured = self.curves.to_dict()
        return {
            "digest": self.digest,
            "steps": self.steps,
            "samples_trained": self.trained,
            "seconds": self.seconds,
            **{name: measured[name] for name in ("skills", "metrics", "introduced", "n", "R", "stderr")},
            "questions": self.questions,
            "scores": {
                skill: [_short(value) for value in found.tolist()] for skill, found in self.scores.items()
            },
        }

    @property
    def accuracy(self) -> float:
        """Mean over all skills at the end."""
        return float(self.curves.R[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean over skills of what was lost since the best of earlier timesteps (`FORMULAS` of the curves)."""
        return float(np.nanmean(self.curves.forgetting))

    @property
    def backward_transfer(self) -> float:
        """Mean over the skills that came before the last timestep of what became of them after their own."""
        before = np.asarray(self.curves.introduced) < len(self.curves.R) - 1
        return float(self.curves.backward_transfer[before].mean()) if before.any() else float("nan")

    @property
    def forward_transfer(self) -> float:
        """Mean over the skills that came after the first timestep."""
        later = np.asarray(self.curves.introduced) > 1
        return float(self.curves.forward_transfer[later].mean()) if later.any() else float("nan")


@dataclass(frozen=True, slots=True)
class Results:
    """Every finished run by (recipe, budget) and (order, seed); what is missing, and why.

    whole: recipes that take every sample, so that their runs stand for every budget.
    """

    found: dict[Group, dict[Unit, Result]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()

    def add(self, cell: Cell, result: Result) -> None:
        self.found.setdefault((cell.recipe, cell.budget), {})[cell.order, cell.seed] = result

    def has(self, cell: Cell) -> bool:
        return (cell.order, cell.seed) in self.found.get((cell.recipe, cell.budget), {})

    def items(self) -> Iterator[tuple[Cell, Result]]:
        for (recipe, budget), units in self.found.items():
            for (order, seed), result in units.items():
                yield Cell(recipe, budget, order, seed), result

    def other_questions(self, result: Result) -> str:
        """How the questions of a run differ from those of a run that is there; "" if they are the same."""
        for cell, other in self.items():
            for skill in result.scores.keys() & other.scores.keys():
                mine, theirs = len(result.scores[skill]), len(other.scores[skill])
                if mine != theirs:
                    return f"it answered {mine} questions of {skill}, and {cell.name} {theirs}"
                if len({run.questions[skill] for run in (result, other) if skill in run.questions}) > 1:
                    return f"it answered other questions of {skill} than {cell.name}"
        return ""

    def only(self, plan: Plan) -> Results:
        """What was found of the plan's own cells."""
        wanted = set(plan.cells())
        chosen = Results(missing=self.missing)
        for cell, result in self.items():
            if cell in wanted:
                chosen.add(cell, result)
        return chosen


def read_results(path: Path) -> Results:
    """The runs that a file of results holds. Raises: InputError if it cannot be read."""
    return read_file(path)[0]


def read_file(path: Path) -> tuple[Results, dict[str, Any]]:
    """What a file of results holds: its runs, and what they were runs of (stream, settings, recipes).

    Raises: InputError if it cannot be read.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = Results()
        for run in kept["runs"]:
            cell = Cell(run["recipe"], run["budget"], run["order"], run["seed"])
            found.add(cell, Result.from_dict(run))
        return found, {name: kept[name] for name in ("stream", "settings", "recipes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of results ({error!r}); without it, the runs in runs/ are read again"
        ) from error


def read_result(run: Run) -> Result:
    """What a run found."""
    curves = run.skill_matrix()
    with run.reading() as stores:
        last = stores.ledger.last_timestep() or 0
        records = [each for timestep in range(1, last + 1) for each in stores.ledger.phases(timestep)]
        scores = _scores(stores, last)
        questions = {skill: _questions(stores, skill) for skill in scores}
    seconds: dict[str, float] = {}
    for record in records:
        seconds[record.phase] = seconds.get(record.phase, 0.0) + record.seconds
    training = [record.result for record in records if record.phase == "train"]
    return Result(
        curves,
        {skill: scores[skill].round(DECIMALS) for skill in curves.skills if skill in scores},
        {name: round(value, 2) for name, value in seconds.items()},
        sum(result["steps"] for result in training),
        sum(result["samples"] for result in training),
        run.digest(),
        questions,
    )


def _questions(stores: Stores, skill: str) -> str:
    """A hash of a skill's eval samples and references, in order."""
    found = hashlib.sha256()
    for item in stores.evals.items(skill):
        found.update(json.dumps([item.sample_id, item.reference], sort_keys=True).encode())
    return found.hexdigest()[:16]


def _short(value: float) -> float | int:
    """As few characters as hold it: most scores are 0 or 1."""
    return int(value) if value == int(value) else value


def _scores(stores: Stores, timestep: int) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(stores.ledger.file(timestep, "answers"), columns=["timestep", "skill", "score"])
    rows = table.to_pydict()
    scores: dict[str, list[float]] = {}
    for when, skill, score in zip(rows["timestep"], rows["skill"], rows["score"], strict=True):
        if when == timestep:
            scores.setdefault(skill, []).append(score)
    return {skill: np.array(values, dtype=float) for skill, values in scores.items()}
