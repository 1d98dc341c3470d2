"""The comparison as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from lifelong.compare.statistics import Estimate
from lifelong.compare.summary import FORMULAS, Line, Summary


def table(summary: Summary, width: int = 110) -> str:
    """A block for each budget, best recipe first; then what differs from the reference by skill; then the formulas."""
    blocks = []
    for budget in dict.fromkeys(line.budget for line in summary.lines):
        lines = [line for line in summary.lines if line.budget == budget]
        blocks += [f"BUDGET {budget}: accuracy in %, 95 % intervals", overall(lines, summary.against)]
        blocks += [f"difference from {summary.against} by skill, points; * = interval clear of zero"]
        blocks += [by_skill(lines, summary)]
    if summary.missing:
        rows = [f"  {name}: {reason}" for name, reason in summary.missing.items()]
        blocks.append("\n".join([f"NOT THERE ({len(rows)} runs)", *rows]))
    explained = (textwrap.fill(f"{n}: {text}", width, subsequent_indent="  ") for n, text in FORMULAS.items())
    return "\n\n".join([*blocks, "\n".join(explained)])


def overall(lines: Sequence[Line], against: str) -> str:
    """A row for each line: accuracy, its difference from the reference, forgetting, transfer and cost."""
    heading = [
        "recipe", "runs", "accuracy", "interval", f"minus {against}", "interval", "", "gain %", "forgetting",
        "backward", "forward", "steps", "measure s", "train s",
    ]  # fmt: skip
    rows = [
        [
            line.recipe,
            str(line.runs),
            f"{100 * line.accuracy.mean:.1f}",
            between(line.accuracy),
            f"{100 * line.difference.mean:+.1f}" if line.difference else "",
            between(line.difference) if line.difference else "",
            _verdict(line.difference),
            "" if line.relative_gain is None else _plus_minus((line.relative_gain / 100, math.nan)),
            _plus_minus(line.forgetting),
            _plus_minus(line.backward_transfer),
            _plus_minus(line.forward_transfer),
            f"{line.steps:.0f}",
            f"{line.measuring_s:.0f}",
            f"{line.training_s:.0f}",
        ]
        for line in lines
    ]
    return columns([heading, *rows])


def by_skill(lines: Sequence[Line], summary: Summary) -> str:
    """A row for each line: its difference from the reference in each skill; of the reference, the accuracy."""
    rows = [["recipe", *summary.skills]]
    for line in lines:
        found = [line.difference_by_skill.get(skill) for skill in summary.skills]
        cells = [f"{100 * each.mean:+.1f}{'*' if each.clear else ' '}" if each else "" for each in found]
        if line.recipe == summary.against:
            cells = [f"({100 * line.by_skill[skill].mean:.1f})" for skill in summary.skills]
        rows.append([line.recipe, *cells])
    return columns(rows)


def between(found: Estimate) -> str:
    """An interval in %."""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _verdict(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    if not difference.clear:
        return "within noise"
    return "better" if difference.mean > 0 else "worse"


def _plus_minus(value: tuple[float, float]) -> str:
    mean, half = (100 * each for each in value)
    if math.isnan(mean):
        return "-"
    return f"{mean:.1f}" + ("" if math.isnan(half) else f" ±{half:.1f}")


def columns(rows: list[list[str]]) -> str:
    """Rows of cells, the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
