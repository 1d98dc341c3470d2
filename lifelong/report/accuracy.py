"""What the skills gained and forgot, as numbers for a table and a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lifelong.account.curves import Curves, percent

Cell = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SkillRow:
    """A skill in words and in %. cells: one for each timestep of R."""

    skill: str
    metric: str
    introduced: int | None
    n: int
    cells: list[Cell]
    forgetting: str
    first_minus_last: str
    backward_transfer: str
    forward_transfer: str


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure that sums a run up. value: in words; told: what it means here."""

    name: str
    value: str
    told: str


def skill_rows(curves: Curves) -> list[SkillRow]:
    """A row of the skill matrix for each skill, with what follows from it."""
    values = curves.to_dict()
    return [
        SkillRow(
            skill,
            curves.metrics[skill],
            values["introduced"][skill],
            curves.last_n[s],
            [_cell(curves, t, s) for t in range(len(curves.R))],
            *(_signed(values[name][skill]) for name in _CHANGES),
        )
        for s, skill in enumerate(curves.skills)
    ]


_CHANGES = ("forgetting", "first_minus_last", "backward_transfer", "forward_transfer")


def _cell(curves: Curves, t: int, s: int) -> Cell:
    value, stderr = curves.R[t, s], curves.stderr[t, s]
    return {
        "value": percent(value),
        "stderr": "" if np.isnan(stderr) else percent(stderr),
        "share": None if np.isnan(value) else round(float(value), 4),
        "arrived": bool(curves.introduced[s] == t),
    }


def _signed(value: float | None) -> str:
    return percent(np.nan if value is None else value, sign="+")


def headlines(curves: Curves) -> list[Headline]:
    """Average accuracy, forgetting and forward transfer over the skills whose data has arrived.

    Forgetting leaves out those that came with the last timestep: there was nothing to forget of them yet.
    """
    seen = ~np.isnan(curves.introduced)
    earlier = curves.introduced < len(curves.R) - 1
    average = curves.average_accuracy
    told = f"mean over {_skills(int(seen.sum()))} seen so far"
    if seen.any() and not np.isnan(curves.R[0, seen]).any():
        told += f"; before any training they stood at {percent(curves.R[0, seen].mean())} %"
    return [
        Headline(
            "Average accuracy",
            _with_unit(percent(average[-1]), "%"),
            told,
        ),
        Headline(
            "Forgetting",
            _with_unit(_mean(curves.forgetting, earlier), "points"),
            f"best earlier accuracy minus the present one, mean over {_skills(int(earlier.sum()))} that came before "
            "the last timestep; below zero is a gain",
        ),
        Headline(
            "Forward transfer",
            _with_unit(_mean(curves.forward_transfer, seen), "points"),
            "how much a skill gained from the data of other skills before its own arrived, on average",
        ),
    ]


def in_short(curves: Curves) -> str:
    """What happened, in a sentence or two for someone who sees such a page for the first time; "" before any data."""
    seen = np.flatnonzero(~np.isnan(curves.introduced))
    average = curves.average_accuracy[-1] if len(curves.R) else np.nan
    if not len(seen) or np.isnan(average):
        return ""
    them = "it" if len(seen) == 1 else "average over them"
    now = f"Taught so far: {_skills(len(seen))}. The model scores {percent(average)} % on {them}"
    untrained = curves.R[0, seen]
    now += "." if np.isnan(untrained).any() else f", from {percent(untrained.mean())} % before any training."
    earlier = [s for s in seen if curves.introduced[s] < len(curves.R) - 1]
    lost = {curves.skills[s]: curves.forgetting[s] for s in earlier if not np.isnan(curves.forgetting[s])}
    if not lost:
        return now
    worst = max(lost, key=lambda skill: lost[skill])
    if lost[worst] <= 0:
        return f"{now} Of what it had learned before, it has forgotten nothing."
    return (
        f"{now} Of what it had learned before, it has forgotten most on {worst}: "
        f"{percent(lost[worst])} points below the best score it had there."
    )


def _skills(count: int) -> str:
    return "1 skill" if count == 1 else f"{count} skills"


def _mean(values: np.ndarray, seen: np.ndarray) -> str:
    known = values[seen & ~np.isnan(values)]
    return percent(float(known.mean()), sign="+") if len(known) else "-"


def _with_unit(text: str, unit: str) -> str:
    return "not defined yet" if text == "-" else f"{text} {unit}"


def drawing(runs: Mapping[str, Curves]) -> dict[str, Any]:
    """What the page's script draws: per skill the lines of each run, and each run's average accuracy over the skills
    seen so far (value) and over all that are tested (all)."""
    told = {label: curves.to_dict() for label, curves in runs.items()}
    skills = list(dict.fromkeys(skill for values in told.values() for skill in values["skills"]))
    return {
        "skills": [{"name": skill, "runs": _lines(told, skill)} for skill in skills],
        "average": [
            {"run": label, "value": values["average_accuracy"], "all": values["average_accuracy_all"]}
            for label, values in told.items()
        ],
    }


def _lines(told: Mapping[str, dict[str, Any]], skill: str) -> list[dict[str, Any]]:
    lines = []
    for label, values in told.items():
        if skill in values["skills"]:
            s = values["skills"].index(skill)
            columns = {name: [row[s] for row in values[name]] for name in ("R", "stderr")}
            lines.append({"run": label, "introduced": values["introduced"][skill], **columns})
    return lines
