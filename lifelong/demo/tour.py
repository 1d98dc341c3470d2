"""`lifelong demo`: a real small stream through two recipes, side by side, and what each skill gained and forgot."""

from __future__ import annotations

from pathlib import Path

import yaml

from lifelong.account.curves import Curves
from lifelong.config import RunConfig, parse_config
from lifelong.demo.data import Size, prepare
from lifelong.demo.model import DEFAULTS, build
from lifelong.errors import InputError
from lifelong.progress import Progress
from lifelong.run import DATABASE, Run

RECIPES = ("adapt-inf", "sequential")
POOL = 1200
"""Samples that the demo's pool may hold: half of what arrives."""


def tour(folder: Path, progress: Progress, size: Size = "demo") -> str:
    """Prepare the data and the model, run both recipes over the stream, and tell what came out.

    What is there already is used: an interrupted demo goes on, a finished one is told again.

    Raises:
        InputError: a package that the demo needs is not installed.
    """
    try:
        stream, model = _prepare(folder, progress, size)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the demo needs the package {error.name!r}: pip install 'lifelong[demo]'"
        ) from error
    found: dict[str, Curves] = {}
    for recipe in RECIPES:
        progress.say(f"\nrecipe {recipe}")
        run = _run(folder / recipe, recipe, model, progress)
        run.run_stream(stream)
        found[recipe] = run.skill_matrix()
    figure, page = folder / "curves.png", folder / "report.html"
    _plot(found, figure)
    missing = _report(folder, found, page)
    told = [_sources(stream), *_tables(found), _verdict(found), *_pointers(folder, figure)]
    return "\n".join([*told, f"report: {missing}" if missing else f"report: open {page} in a browser"])


def settings(recipe: str, model: Path) -> RunConfig:
    """The demo's configuration: the same for both recipes but for the recipe."""
    return parse_config({**DEFAULTS, "recipe": recipe, "model": {"path": str(model)}, "pool": {"keep": POOL}})


def _prepare(folder: Path, progress: Progress, size: Size) -> tuple[Path, Path]:
    stream, model = folder / "data" / "stream.yaml", folder / "model"
    if not stream.is_file():
        progress.say("preparing five datasets from installed packages")
        prepare(folder / "data", size=size)
    if not (model / "config.json").is_file():
        progress.say(
            "assembling the model: EfficientNet-Lite0, a projector, a small Llama on WordLlama's embeddings"
        )
        build(model)
    return stream, model


def _run(root: Path, recipe: str, model: Path, progress: Progress) -> Run:
    if (root / DATABASE).is_file():
        return Run.open(root, progress)
    return Run.create(root, config=settings(recipe, model.absolute()), progress=progress)


def _sources(stream: Path) -> str:
    """Which datasets are real and which generated."""
    entries = yaml.safe_load(stream.read_text(encoding="utf-8"))["datasets"]
    width = max(len(entry["name"]) for entry in entries)
    lines = [
        f"  {entry['name']:<{width}}  {entry['skill']:<14} {entry['origin']:<9} {entry['source']}"
        for entry in entries
    ]
    return "\n".join(["", "THE STREAM", *lines])


def _tables(found: dict[str, Curves]) -> list[str]:
    from lifelong.account.plots import sparkline_table

    tables = [f"\n{recipe.upper()}\n{curves.table(explain=False)}" for recipe, curves in found.items()]
    return [*tables, sparkline_table(found)]


def _verdict(found: dict[str, Curves]) -> str:
    """Which skills the one recipe forgot and the other kept, beyond the noise of the eval sets; or that none was."""
    kept, lost = (found[recipe] for recipe in RECIPES)
    lines = []
    for column, skill in enumerate(kept.skills):
        ours, theirs = float(kept.forgetting[column]), float(lost.forgetting[column])
        noise = 2 * float(kept.stderr[-1, column] ** 2 + lost.stderr[-1, column] ** 2) ** 0.5
        if theirs - ours > noise:
            lines.append(
                f"  {skill}: sequential forgot {100 * theirs:.0f} points of it, adapt-inf {100 * max(ours, 0):.0f}"
            )
    if not lines:
        return (
            "\nNo skill was forgotten by sequential and kept by adapt-inf beyond the noise of the eval sets."
        )
    return "\n".join(["\nFORGOTTEN BY SEQUENTIAL, KEPT BY ADAPT-INF (beyond two standard errors)", *lines])


def _pointers(folder: Path, figure: Path) -> list[str]:
    return [
        "",
        f"figure: {figure}" if figure.is_file() else "figure: pip install 'lifelong[report]' for one",
        f"look on: lifelong curves {folder}/adapt-inf · lifelong status {folder}/adapt-inf · "
        f"lifelong export {folder}/adapt-inf --out pool.json",
    ]


def _report(folder: Path, found: dict[str, Curves], page: Path) -> str:
    """Write the report of the first recipe with the other beside it; returns why there is none, or ""."""
    from lifelong.report import write_report

    first, *others = RECIPES
    try:
        write_report(Run.open(folder / first), page, {recipe: found[recipe] for recipe in others})
    except InputError as error:
        return str(error)
    return ""


def _plot(found: dict[str, Curves], figure: Path) -> None:
    try:
        from lifelong.account.plots import plot_curves

        plot_curves(found, figure)
    except ModuleNotFoundError:
        return
