"""What the study found (study.py): the files in results/study, and the tables of the document from them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.study_parts import ABLATIONS, PARTS, PRUNERS
from lifelong.compare.cells import Cell

if TYPE_CHECKING:
    from lifelong.compare import Result, Results
    from lifelong.compare.summary import Line, Summary

RESULTS = Path(__file__).parent / "results" / "study"
SELECTED = "selected.json"
ASKED = "asked.json"
ERRORS = "errors.json"
ADAPTED = ("adapt-inf", *(Path(name).stem for name in (*ABLATIONS, *PRUNERS)))
"""adapt-inf, and what differs from it by one word."""
TABLE = re.compile(r"(?P<comment><!-- study: (?P<asked>[^>]*) -->)\n```text\n.*?\n```", re.DOTALL)
"""A table in a page. asked: family=main [order=0] [budget=15%] [by=recipe|word] [show=overall,skills,accuracy]."""


def read_lines(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_lines(path: Path, found: Mapping[str, Any]) -> None:
    """A line for each run, so that what a longer study adds is what differs."""
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


@cache
def merged(family: str, order: int) -> Results:
    """All that is on file of a family over one order of its stream, with the answers to all questions; other settings
    are named after their file."""
    from lifelong.compare import Results, read_results

    found, asked = Results(), read_lines(RESULTS / ASKED)
    for part in {part.file: part for part in PARTS.values() if part.family == family}.values():
        path = RESULTS / f"{part.file}.json"
        for cell, result in read_results(path).items() if path.is_file() else ():
            if cell.order != order:
                continue
            plain = part.file == family or cell.recipe == "multitask"
            name = cell.recipe if plain else f"{cell.recipe} {part.file}"
            scores = asked.get(f"{part.file}/{cell.name}")
            if scores is None and not part.asks_all:
                print(f"left out, not asked all questions yet: {part.file}/{cell.name}", file=sys.stderr)
                continue
            judged = widened(result, scores) if scores else result
            found.add(Cell(name, cell.budget, cell.order, cell.seed), judged)
    return found


def widened(result: Result, scores: Mapping[str, Sequence[float]]) -> Result:
    """A result whose last timestep is judged by these scores."""
    kept = {skill: np.array(values, dtype=float) for skill, values in scores.items()}
    matrix, n = result.curves.R.copy(), result.curves.n.copy()
    matrix[-1] = [kept[skill].mean() for skill in result.curves.skills]
    n[-1] = [len(kept[skill]) for skill in result.curves.skills]
    return replace(result, scores=kept, curves=replace(result.curves, R=matrix, n=n))


def compared(family: str, order: int = 0, by: str = "recipe") -> Results:
    """What a table of a family over an order of its stream compares. by: "recipe", all whose settings are the family's
    and the others that are no ablations; or "word", adapt-inf and what differs from it by one word."""
    from lifelong.compare import Results

    found = Results()
    for cell, result in merged(family, order).items():
        recipe, _, other_settings = cell.recipe.partition(" ")
        if recipe in ADAPTED if by == "word" else recipe not in ADAPTED or not other_settings:
            found.add(cell, result)
    return found


def tables(reference: str = "random", order: int = 0) -> Iterator[str]:
    """What recipes gain over a reference over an order of the stream, family by family; and what adapt-inf gains or
    loses by one word."""
    from lifelong.compare import summarise
    from lifelong.compare.table import table

    for family in dict.fromkeys(part.family for part in PARTS.values()):
        whole, parts = compared(family, order), compared(family, order, "word")
        if whole.found:
            yield f"{family}\n\n{table(summarise(whole, reference))}"
        if len({cell.recipe for cell, _ in parts.items()}) > 1:
            yield f"{family}, by one word\n\n{table(summarise(parts, 'adapt-inf'))}"


def fill(page: Path) -> None:
    """Write every table of a page anew: each text block below a comment as `TABLE` reads it."""
    page.write_text(TABLE.sub(_filled, page.read_text(encoding="utf-8")), encoding="utf-8")


def _accuracy(line: Line) -> list[str]:
    from lifelong.compare.table import between

    return [line.recipe, str(line.runs), f"{100 * line.accuracy.mean:.1f}", between(line.accuracy)]


def _filled(block: re.Match[str]) -> str:
    from lifelong.compare.table import by_skill, columns, overall

    asked = dict(word.split("=") for word in block["asked"].split())
    budget = asked.get("budget", "15%")
    summary = _summary(asked["family"], int(asked.get("order", 0)), asked.get("by", "recipe"), budget)
    lines = [line for line in summary.lines if line.budget == budget]
    shown = {
        "overall": lambda: overall(lines, summary.against),
        "skills": lambda: by_skill(lines, summary),
        "accuracy": lambda: columns([["recipe", "runs", "accuracy", "interval"], *map(_accuracy, lines)]),
    }
    text = "\n\n".join(shown[each]() for each in asked.get("show", "overall").split(","))
    return f"{block['comment']}\n```text\n{text}\n```"


@cache
def _summary(family: str, order: int, by: str, budget: str) -> Summary:
    from lifelong.compare import Results, summarise
    from lifelong.compare.summary import FULL

    found = Results()
    for cell, result in compared(family, order, by).items():
        if cell.budget == budget or cell.recipe == FULL:
            found.add(cell, result)
    return summarise(found, "adapt-inf" if by == "word" else "random")
