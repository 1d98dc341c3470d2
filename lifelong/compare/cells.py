"""The runs of a comparison, one for each recipe, budget, seed and order; each can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lifelong import seeds
from lifelong.config import RunConfig, parse_config
from lifelong.context import DATABASE
from lifelong.errors import InputError, LifelongError, UsageError
from lifelong.method import method
from lifelong.progress import Progress
from lifelong.run import Run
from lifelong.stream import Stream, read_stream

RUNS = "runs"
FEATURES = "features"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the comparison. order: 0 for the stream's own, others are drawn."""

    recipe: str
    budget: str
    order: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.budget.replace('%', 'pc')}-order{self.order}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: every recipe at every budget, with every seed, over every order of the stream.

    settings: of every run, as in config.yaml; `recipe`, `seed` and `train.budget` are the cells' own.
    """

    stream: Path
    folder: Path
    recipes: tuple[str, ...]
    budgets: tuple[str, ...] = ("15%",)
    seeds: int = 3
    orders: int = 1
    settings: dict[str, Any] | None = None

    def cells(self) -> list[Cell]:
        """Seed by seed, so that a comparison that is stopped early has compared all recipes."""
        found = product(range(self.seeds), range(self.orders), self.budgets, self.recipes)
        return [Cell(recipe, budget, order, seed) for seed, order, budget, recipe in found]

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of a cell's run: little is kept beside what the comparison reads.

        Raises:
            UsageError: a setting is unknown or wrong.
        """
        given = dict(self.settings or {})
        given |= {"recipe": cell.recipe, "seed": cell.seed}
        given["train"] = {**given.get("train", {}), "budget": cell.budget}
        given["pool"] = {"media": "reference", **given.get("pool", {})}
        given["keep"] = {"signals": 1, "checkpoints": 1, **given.get("keep", {})}
        cache = str((self.folder / FEATURES).absolute())
        given["encoder"] = {"cache": cache, **given.get("encoder", {})}
        return parse_config(given)

    def root(self, cell: Cell) -> Path:
        return self.folder / RUNS / cell.name


def ordered(stream: Stream, order: int) -> Stream:
    """The stream's datasets in its own order (0), or in one drawn from the order's number."""
    if order == 0:
        return stream
    places = seeds.generator(0, order, "compare", "order").permutation(len(stream.datasets))
    return replace(stream, datasets=[stream.datasets[place] for place in places])


def run_cells(plan: Plan, progress: Progress, jobs: int = 1) -> dict[Cell, str]:
    """Run every cell that is not finished, `jobs` processes at a time; why those that failed did.

    A cell that was interrupted goes on; one that fails leaves the others to be run.

    Raises:
        InputError: the stream cannot be read.
        UsageError: a recipe is unknown or lacks a setting; a run is there with other settings.
    """
    datasets = [feed for feed in read_stream(plan.stream).datasets if feed.eval]
    if not datasets:
        raise InputError(
            f"{plan.stream}: no dataset has an eval set, so nothing can be compared; add `eval: FILE`"
        )
    cells = plan.cells()
    for cell in cells:
        config = plan.config(cell)
        method(config.recipe, config)  # what cannot be run at all is said before hours are spent on the rest
    (plan.folder / RUNS).mkdir(parents=True, exist_ok=True)
    failed: dict[Cell, str] = {}
    for done, (cell, reason) in enumerate(_outcomes(plan, cells, progress, jobs), 1):
        progress.say(f"[{done}/{len(cells)}] {cell.name}" + (f" failed: {reason}" if reason else ""))
        if reason:
            failed[cell] = reason
    return failed


def _outcomes(plan: Plan, cells: list[Cell], progress: Progress, jobs: int) -> Iterator[tuple[Cell, str]]:
    if jobs == 1:
        for cell in cells:
            yield cell, run_cell(plan, cell, progress)
        return
    # Each in a process of its own start: torch must not be forked once it has threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        yield from zip(cells, workers.map(partial(run_cell, plan), cells), strict=True)


def run_cell(plan: Plan, cell: Cell, progress: Progress | None = None) -> str:
    """Run a cell to its end, from wherever it stands; why it could not be, or "".

    Raises:
        UsageError: its run is there with other settings.
    """
    root, config = plan.root(cell), plan.config(cell)
    if (root / DATABASE).is_file():
        run = Run.open(root, progress)
        if run.config != config:
            raise UsageError(
                f"{root} was begun with other settings; name another folder with --out, or remove it"
            )
    try:
        if not (root / DATABASE).is_file():
            run = Run.create(root, config=config, progress=progress)
        run.run_stream(ordered(read_stream(plan.stream), cell.order))
    except LifelongError as error:
        return str(error)
    return ""
