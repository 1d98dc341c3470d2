"""The comparison in figures: each recipe's accuracy, and how it differs from the one it is compared with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lifelong import seeds
from lifelong.account.curves import relative_gain
from lifelong.compare.cells import ALL
from lifelong.compare.results import Group, Result, Results, Unit
from lifelong.compare.statistics import Estimate, estimate, over_units

FULL = "multitask"
"""The recipe of relative gain."""

FORMULAS = {
    "accuracy": "mean over all skills of the mean score at the end of the stream, over runs and eval samples; "
    "interval of 95 % by resampling runs and eval samples (Owen 2007, arXiv 0712.1111)",
    "difference": "the same of score minus the reference's score, on the same seeds, orders and eval samples; "
    "clear: the interval leaves zero out",
    "relative_gain": "100 * mean over s of R[T, s] / R_full[s], in %; R_full: mean over the runs of "
    "multitask; undefined (-) where that is 0",
    "forgetting": "mean over skills of max over u < T of R[u, s], minus R[T, s]; ± 95 % by Student's t over runs",
    "backward_transfer": "mean over the skills that came before timestep T of R[T, s] - R[t_s, s]; unlike the maximum "
    "in forgetting it does not grow with the noise of small eval sets; ± as above",
    "forward_transfer": "mean over the skills that came after timestep 1 of R[t_s - 1, s] - R[0, s]; ± as above",
    "measuring_s, training_s": "seconds of the phases measure and train over the whole stream, mean over runs",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A recipe at a budget."""

    recipe: str
    budget: str
    runs: int
    accuracy: Estimate
    by_skill: dict[str, Estimate]
    difference: Estimate | None
    difference_by_skill: dict[str, Estimate]
    relative_gain: float | None
    forgetting: tuple[float, float]
    backward_transfer: tuple[float, float]
    forward_transfer: tuple[float, float]
    steps: float
    samples_trained: float
    measuring_s: float
    training_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Lines by budget, best first. against: the recipe of the differences."""

    skills: list[str]
    against: str
    lines: list[Line]
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: undefined values are None."""
        return {**_plain(asdict(self)), "formulas": dict(FORMULAS)}


def summarise(results: Results, against: str, seed: int = 0) -> Summary:
    """Estimates for every recipe and budget that has a finished run. seed: of the resampling."""
    runs = [run for units in results.found.values() for run in units.values()]
    skills = sorted({skill for run in runs for skill in run.scores})
    lines = [_line(results, group, against, skills, seed) for group, units in results.found.items() if units]
    lines.sort(key=lambda line: (float(line.budget.rstrip("%")), -line.accuracy.mean))
    return Summary(skills, against, lines, results.missing)


def _line(results: Results, group: Group, against: str, skills: list[str], seed: int) -> Line:
    recipe, budget = group
    units = results.found[group]
    reference = results.found.get((against, ALL if against in results.whole else budget), {})
    full = next((list(units.values()) for (name, _), units in results.found.items() if name == FULL), [])
    runs = list(units.values())
    rng = lambda purpose: seeds.generator(seed, 0, "compare", f"{recipe} {budget} {purpose}")  # noqa: E731
    own = {skill: _crossed(units, skill) for skill in skills}
    paired = {} if recipe == against else {skill: _paired(units, reference, skill) for skill in skills}
    paired = {skill: values for skill, values in paired.items() if len(values)}
    return Line(
        recipe,
        budget,
        len(units),
        estimate(list(own.values()), rng("accuracy")),
        {skill: estimate([values], rng(skill)) for skill, values in own.items()},
        estimate(list(paired.values()), rng("difference")) if paired else None,
        {skill: estimate([values], rng(f"difference in {skill}")) for skill, values in paired.items()},
        float(np.mean([_gain(run, full) for run in runs])) if full else None,
        over_units([run.forgetting for run in runs]),
        over_units([run.backward_transfer for run in runs]),
        over_units([run.forward_transfer for run in runs]),
        float(np.mean([run.steps for run in runs])),
        float(np.mean([run.trained for run in runs])),
        float(np.mean([run.seconds.get("measure", 0.0) for run in runs])),
        float(np.mean([run.seconds.get("train", 0.0) for run in runs])),
    )


def _crossed(units: dict[Unit, Result], skill: str) -> np.ndarray:
    """(runs, n) scores of a skill."""
    return np.stack([units[unit].scores[skill] for unit in sorted(units)])


def _paired(units: dict[Unit, Result], reference: dict[Unit, Result], skill: str) -> np.ndarray:
    """(runs that both have, n) differences in a skill's scores."""
    shared = sorted(units.keys() & reference.keys())
    rows = [units[unit].scores[skill] - reference[unit].scores[skill] for unit in shared]
    return np.stack(rows) if rows else np.empty((0, 0))


def _gain(run: Result, full: list[Result]) -> float:
    """Relative gain, skill by skill, over the mean of the runs that trained on everything; NaN where that is 0."""
    last = [np.mean([_last(each)[skill] for each in full]) for skill in run.curves.skills]
    return relative_gain(run.curves.R[-1], np.array(last)) if all(last) else math.nan


def _last(run: Result) -> dict[str, float]:
    return dict(zip(run.curves.skills, run.curves.R[-1].tolist(), strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
