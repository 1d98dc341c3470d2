"""What the finished runs of a comparison found, read from their ledgers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.compare.cells import Cell, Plan
from lifelong.context import DATABASE, Stores
from lifelong.curves import Curves
from lifelong.run import Run

Group = tuple[str, str]
"""(recipe, budget)."""
Unit = tuple[int, int]
"""(order, seed): what two recipes are compared on."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run. scores: skill → (n,) score of each eval sample after the last timestep, in the eval set's order.

    seconds: of each phase, over all timesteps; steps: optimiser steps; trained: samples that they took.
    """

    curves: Curves
    scores: dict[str, np.ndarray]
    seconds: dict[str, float]
    steps: int
    trained: int

    @property
    def accuracy(self) -> float:
        """Mean over all skills at the end."""
        return float(self.curves.R[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean over skills of what was lost since the best of earlier timesteps; see `lifelong.curves.FORMULAS`."""
        return float(np.nanmean(self.curves.forgetting))

    @property
    def forward_transfer(self) -> float:
        """Mean over the skills that came after the first timestep."""
        later = np.asarray(self.curves.introduced) > 1
        return float(self.curves.forward_transfer[later].mean()) if later.any() else float("nan")


@dataclass(frozen=True, slots=True)
class Results:
    """Every finished run by (recipe, budget) and (order, seed); what is missing, and why."""

    found: dict[Group, dict[Unit, Result]]
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, for a file: the skill matrices, costs, and what is missing."""
        rows = [
            {
                "recipe": recipe,
                "budget": budget,
                "order": order,
                "seed": seed,
                "steps": result.steps,
                "samples_trained": result.trained,
                "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
                **{
                    name: value
                    for name, value in result.curves.to_dict().items()
                    if name in ("skills", "timesteps", "R", "stderr", "n", "introduced")
                },
            }
            for (recipe, budget), units in self.found.items()
            for (order, seed), result in units.items()
        ]
        return {"runs": rows, "missing": self.missing}

    def write(self, path: Path) -> None:
        path.write_text(
            json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_results(plan: Plan, failed: Mapping[Cell, str] | None = None) -> Results:
    """The results of the cells that are finished."""
    found: dict[Group, dict[Unit, Result]] = {}
    missing: dict[str, str] = {}
    for cell in plan.cells():
        reason = (failed or {}).get(cell, "")
        root = plan.root(cell)
        if not reason and (root / DATABASE).is_file():
            run = Run.open(root)
            stands = run.status()
            if stands["phase"] is None and stands["timestep"]:
                found.setdefault((cell.recipe, cell.budget), {})[cell.order, cell.seed] = read_result(run)
                continue
        missing[cell.name] = reason or "not finished"
    return Results(found, missing)


def read_result(run: Run) -> Result:
    """What a run found."""
    curves = run.skill_matrix()
    with run.reading() as stores:
        last = stores.ledger.last_timestep() or 0
        records = [each for timestep in range(1, last + 1) for each in stores.ledger.phases(timestep)]
        scores = _scores(stores, last)
    seconds: dict[str, float] = {}
    for record in records:
        seconds[record.phase] = seconds.get(record.phase, 0.0) + record.seconds
    training = [record.result for record in records if record.phase == "train"]
    return Result(
        curves,
        {skill: scores[skill] for skill in curves.skills if skill in scores},
        seconds,
        sum(result["steps"] for result in training),
        sum(result["samples"] for result in training),
    )


def _scores(stores: Stores, timestep: int) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(stores.ledger.file(timestep, "answers"), columns=["timestep", "skill", "score"])
    rows = table.to_pydict()
    scores: dict[str, list[float]] = {}
    for when, skill, score in zip(rows["timestep"], rows["skill"], rows["score"], strict=True):
        if when == timestep:
            scores.setdefault(skill, []).append(score)
    return {skill: np.array(values, dtype=float) for skill, values in scores.items()}
