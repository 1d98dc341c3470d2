"""Two timesteps, or two runs, side by side: configuration, recipe, selection, routing, and skills with significance."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.config import RunConfig
from lifelong.context import Stores
from lifelong.errors import UsageError
from lifelong.recorded import config_of
from lifelong.steer.answers import AnswerBook, comparison
from policies.guards import two_sided

LISTED = 20
"""Samples listed by name on either side; the rest are counted."""
SHOWN = 5
"""Of those, in the text for a reader."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a run, open to read, at a timestep."""

    name: str
    stores: Stores
    timestep: int
    config: RunConfig | None


def diff(a: str, b: str) -> dict[str, Any]:
    """Compare A and B, each RUN or RUN@T; B may be @T, another timestep of A.

    Returns {"a", "b", "config", "recipe", "samples", "routing", "skills"}; see `tell` for what they say.

    Raises:
        UsageError: one of them is no such timestep.
    """
    if b.startswith("@"):
        b = f"{_split(a)[0]}{b}"
    with ExitStack() as opened:
        sides = [_open(opened, text) for text in (a, b)]
        return {
            **{key: {"run": s.name, "timestep": s.timestep} for key, s in zip("ab", sides, strict=True)},
            "config": _config(*sides),
            "recipe": _recipe(*sides),
            "samples": _samples(*sides),
            "routing": _routing(*sides),
            "skills": _skills(*sides),
        }


def tell(found: dict[str, Any]) -> str:
    """`diff` in lines for a reader."""
    a, b = (f"{found[key]['run']}@{found[key]['timestep']}" for key in "ab")
    lines = [f"A  {a}", f"B  {b}", "", "CONFIGURATION"]
    lines += [f"  {name}: {values[0]!r} -> {values[1]!r}" for name, values in found["config"].items()] or [
        "  the same"
    ]
    lines += ["", "RECIPE"]
    lines += [f"  {slot}: {values[0]} -> {values[1]}" for slot, values in found["recipe"].items()] or [
        "  the same"
    ]
    samples = found["samples"]
    lines += [
        "",
        f"SELECTED  {samples['both']} by both, {samples['only_a']} by A alone, {samples['only_b']} by B alone",
    ]
    for side in "ab":
        lines += [
            f"  {side.upper()} alone: {count} of {name}"
            for name, count in samples[f"datasets_{side}"].items()
        ]
        lines += [f"    {each}" for each in samples[f"examples_{side}"][:SHOWN]]
    lines += ["", "ROUTING  selected samples by deciding expert"]
    lines += [f"  {name:<14} {pair[0]:>6} -> {pair[1]}" for name, pair in found["routing"].items()]
    lines += ["", "SKILLS  accuracy in %; p: of no difference, Holm over the skills"]
    for skill in found["skills"]:
        by = "item by item" if skill["paired"] else "by means"
        mark = "*" if skill["p_adjusted"] < 0.05 else " "
        lines.append(
            f"  {skill['skill']:<16} {100 * skill['a']:6.1f} -> {100 * skill['b']:5.1f}  "
            f"{100 * skill['difference']:+6.1f} ±{100 * skill['stderr']:.1f}  p {skill['p_adjusted']:.3f}{mark} {by}"
        )
    return "\n".join(lines)


def _split(text: str) -> tuple[str, str]:
    run, _, timestep = text.rpartition("@")
    return (run, timestep) if run and timestep.isdigit() else (text, "")


def _open(opened: ExitStack, text: str) -> Side:
    from lifelong.run import Run

    folder, timestep = _split(text)
    stores = opened.enter_context(Run.open(Path(folder)).reading())
    finished = [0, *(e.timestep for e in stores.pool.datasets() if stores.ledger.phase(e.timestep, "prune"))]
    at = int(timestep) if timestep else max(finished)
    if at not in finished:
        raise UsageError(
            f"{folder}: timestep {at} has not finished; there are: {', '.join(map(str, finished))}"
        )
    return Side(folder, stores, at, config_of(stores, max(at, 1)))


def _config(a: Side, b: Side) -> dict[str, list[Any]]:
    """Fields that differ: {"section.field": [A, B]}; the recipe is told apart."""
    flat = [
        _flat(side.config.model_dump(mode="json", exclude={"recipe"})) if side.config else {}
        for side in (a, b)
    ]
    names = sorted(flat[0].keys() | flat[1].keys())
    return {
        name: [each.get(name) for each in flat] for name in names if flat[0].get(name) != flat[1].get(name)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _recipe(a: Side, b: Side) -> dict[str, list[str]]:
    """Slots whose words differ."""
    from lifelong.recipes.method import resolve

    words = [resolve(side.config.recipe).to_dict() if side.config else {} for side in (a, b)]
    slots = words[0] or words[1]
    return {
        slot: [each.get(slot, "") for each in words]
        for slot in slots
        if words[0].get(slot) != words[1].get(slot)
    }


def _selected(side: Side) -> dict[str, tuple[str, str]]:
    """sample_id → (dataset, its own id there) of what the timestep trained on."""
    ordinals = dict.fromkeys(side.stores.ledger.selection(side.timestep).tolist())
    return {row.sample_id: (row.dataset, row.source_id or "") for row in side.stores.pool.rows(ordinals)}


def _samples(a: Side, b: Side) -> dict[str, Any]:
    chosen = [_selected(side) for side in (a, b)]
    alone = [sorted(mine.keys() - others.keys()) for mine, others in (chosen, chosen[::-1])]
    found: dict[str, Any] = {"both": len(chosen[0].keys() & chosen[1].keys())}
    for key, names, samples in zip("ab", alone, chosen, strict=True):
        found[f"only_{key}"] = len(names)
        found[f"datasets_{key}"] = dict(Counter(samples[name][0] for name in names).most_common())
        found[f"examples_{key}"] = [" ".join([name, *samples[name]]).strip() for name in names[:LISTED]]
    return found


def _routing(a: Side, b: Side) -> dict[str, list[int]]:
    """How many selected samples each expert decided on: {expert: [A, B]}."""
    import pyarrow.parquet as pq

    counts = []
    for side in (a, b):
        if side.timestep == 0:
            counts.append(Counter())
            continue
        path = side.stores.ledger.file(side.timestep, "decisions")
        table = pq.read_table(path, columns=["scorer"], filters=[("selected", "=", True)])
        counts.append(Counter(table["scorer"].to_pylist()))
    return {name: [each[name] for each in counts] for name in sorted({*counts[0], *counts[1]})}


def _skills(a: Side, b: Side) -> list[dict[str, Any]]:
    """Each skill that both have: accuracies, their difference with its standard error, and p with and without Holm."""
    cells = [
        {e.skill: e for e in side.stores.ledger.evaluations() if e.timestep == side.timestep}
        for side in (a, b)
    ]
    books = [AnswerBook(side.stores) for side in (a, b)]
    found = []
    for skill in [name for name in cells[0] if name in cells[1]]:
        was, now = (cells[0][skill], cells[1][skill])
        scored = [book.scored(side.timestep, skill) for book, side in zip(books, (a, b), strict=True)]
        compared = comparison(was, now, *scored)
        found.append(
            {
                "skill": skill,
                "a": was.value,
                "b": now.value,
                "difference": now.value - was.value,
                "stderr": compared.stderr,
                "paired": compared.items is not None,
                "p": two_sided(compared),
            }
        )
    adjusted = 0.0
    for rank, each in enumerate(sorted(found, key=lambda each: each["p"])):
        adjusted = max(adjusted, min(1.0, (len(found) - rank) * each["p"]))
        each["p_adjusted"] = adjusted
    return found
