"""The comparison as one HTML page that needs no network and no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lifelong.compare.statistics import Estimate
from lifelong.compare.summary import FORMULAS, Line, Summary
from lifelong.errors import InputError

ASSETS = Path(__file__).parent / "assets"
WIDTH = 192
"""Of a drawing, in units of its own."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A line of numbers drawn `WIDTH` wide."""

    low: float
    high: float

    def at(self, value: float) -> float:
        return round(WIDTH * (value - self.low) / (self.high - self.low or 1.0), 1)


def axis_of(found: list[Estimate], *others: float) -> Axis:
    """An axis that holds all intervals, and a little more."""
    values = [end for each in found for end in (each.low, each.high)] + list(others)
    room = 0.04 * (max(values) - min(values) or 1.0)
    return Axis(min(values) - room, max(values) + room)


def write_page(summary: Summary, title: str, out: Path) -> None:
    """Write the page. Raises: InputError without the extra `report`."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise InputError("the page needs the package 'jinja2': pip install 'lifelong[report]'") from error
    budgets: dict[str, list[Line]] = {}
    for line in summary.lines:
        budgets.setdefault(line.budget, []).append(line)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("compare.html.jinja").render(
        title=title,
        summary=summary,
        budgets=budgets,
        axes={
            budget: {
                "accuracy": axis_of([line.accuracy for line in lines]),
                "difference": axis_of([line.difference for line in lines if line.difference], 0.0),
            }
            for budget, lines in budgets.items()
        },
        formulas=FORMULAS,
        width=WIDTH,
    )
    out.write_text(page, encoding="utf-8")
