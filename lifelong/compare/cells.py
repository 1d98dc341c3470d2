"""The runs of a comparison, one for each recipe, budget, seed and order; each can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import product
from math import factorial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lifelong import seeds
from lifelong.config import RunConfig, parse_config
from lifelong.context import DATABASE
from lifelong.errors import LifelongError, UsageError
from lifelong.progress import Progress
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method
from lifelong.run import Run
from lifelong.stream import Stream, read_stream
from policies.allocators import All

RUNS = "runs"
FEATURES = "features"
ALL = "100%"
"""Budget of the runs of a recipe that takes every sample, whatever its budget."""


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

    recipes: by the name that tables call them. settings: of every run, as in config.yaml; `recipe`, `seed` and
    `train.budget` are the cells' own. A recipe that takes all samples runs once for all budgets, as ALL. between:
    eval samples of each skill at timesteps before the last, where what is compared is not yet decided; 0: as many.
    """

    stream: Path
    folder: Path
    recipes: Mapping[str, str | dict[str, str]]
    budgets: tuple[str, ...] = ("15%",)
    seeds: int = 3
    orders: int = 1
    settings: dict[str, Any] | None = None
    between: int = 0

    def cells(self) -> list[Cell]:
        """Seed by seed, so that a comparison that is stopped early has compared all recipes."""
        found = product(range(self.seeds), range(self.orders), self.budgets, self.recipes)
        cells = (
            Cell(recipe, self.budget(recipe, budget), order, seed) for seed, order, budget, recipe in found
        )
        return list(dict.fromkeys(cells))

    def budget(self, recipe: str, asked: str) -> str:
        return ALL if isinstance(method(self.recipes[recipe]).budget, All) else asked

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of a cell's run: little is kept beside what the comparison reads.

        Raises:
            UsageError: a setting is unknown or wrong.
        """
        given = dict(self.settings or {})
        given |= {"recipe": self.recipes[cell.recipe], "seed": cell.seed}
        given["train"] = {**given.get("train", {}), "budget": cell.budget}
        given["pool"] = {"media": "reference", **given.get("pool", {})}
        given["keep"] = {"signals": 1, "checkpoints": 1, **given.get("keep", {})}
        cache = str((self.folder / FEATURES).absolute())
        given["encoder"] = {"cache": cache, **given.get("encoder", {})}
        return parse_config(given)

    def early(self, config: RunConfig) -> RunConfig:
        """The configuration of the timesteps before the last."""
        if not self.between:
            return config
        return asking(config, min(self.between, config.evaluate.limit or self.between))

    def root(self, cell: Cell) -> Path:
        return self.folder / RUNS / cell.name


def asking(config: RunConfig, limit: int) -> RunConfig:
    """The same configuration with so many eval samples of each skill; 0: all."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"limit": limit})})


def named(recipes: Sequence[str]) -> dict[str, str | dict[str, str]]:
    """What `--recipes` lists, by name: recipes that are known, and those that files describe.

    Raises:
        UsageError: a file cannot be read, two recipes have the same name, or a name is none that a folder can have.
    """
    found: dict[str, str | dict[str, str]] = {}
    for text in recipes:
        recipe = read_recipe(text)
        name = recipe if isinstance(recipe, str) else recipe["name"]
        if name in found:
            raise UsageError(f"--recipes names {name} twice; give a recipe file a `name:` of its own")
        if not name.strip() or name.startswith(".") or set(name) & set("/\\\0"):
            raise UsageError(
                f"{text}: its runs have folders that are called by its name, and {name!r} cannot be one; give it a "
                "`name:` without slashes that begins with no dot"
            )
        found[name] = recipe
    return found


def ordered(stream: Stream, order: int) -> Stream:
    """The stream's datasets in its own order (0), or in one drawn from the order's number, each order once.

    Raises:
        UsageError: there are not so many orders.
    """
    count = len(stream.datasets)
    if order >= factorial(count):
        raise UsageError(f"--orders asks for more than {count} datasets have: {factorial(count)} at most")
    drawn = [tuple(range(count))]
    for number in range(1, order + 1):
        rng = seeds.generator(0, number, "compare", "order")
        while (places := tuple(rng.permutation(count).tolist())) in drawn:
            pass  # the same order twice would count as two runs, and be one
        drawn.append(places)
    return replace(stream, datasets=[stream.datasets[place] for place in drawn[-1]])


def run_cells(plan: Plan, cells: Sequence[Cell], progress: Progress, jobs: int) -> Iterator[tuple[Cell, str]]:
    """Run these cells to their ends, `jobs` processes at a time; each, as it ends, and why it could not be run or "".

    A cell that was interrupted goes on; one that fails leaves the others to be run.

    Raises:
        UsageError: a run is there with other settings.
    """
    if jobs == 1:
        for cell in cells:
            yield cell, run_cell(plan, cell, progress)
        return
    # Each in a process of its own start: torch must not be forked once it has threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        running = {workers.submit(run_cell, plan, cell): cell for cell in cells}
        try:
            for each in as_completed(running):
                yield running[each], _ended(each)
        finally:
            workers.shutdown(cancel_futures=True)


def _ended(run: Future[str]) -> str:
    """What a run came to; a process that was killed has taken those of the others with it."""
    try:
        return run.result()
    except BrokenProcessPool:
        return "a process was killed, as happens where memory is short; give the same command again, with fewer --jobs"


def run_cell(plan: Plan, cell: Cell, progress: Progress | None = None) -> str:
    """Run a cell to its end, from wherever it stands; why it could not be, or "".

    Raises:
        UsageError: its run is there with other settings.
    """
    root, config = plan.root(cell), plan.config(cell)
    early = plan.early(config)
    stream = ordered(read_stream(plan.stream), cell.order)
    if (root / DATABASE).is_file():
        run = Run.open(root, progress)
        if run.config not in (early, config):
            raise UsageError(
                f"{root} was begun with other settings; name another folder with --out, or remove it"
            )
    try:
        if not (root / DATABASE).is_file():
            run = Run.create(root, config=early, progress=progress)
        if run.config == early != config:
            run.run_stream(stream, until=len(stream.datasets) - 1)
            run.configure(config)
        run.run_stream(stream)
    except LifelongError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        from lifelong.memory import first_line, out_of_memory

        if not out_of_memory(error):
            raise
        return first_line(error)  # there may be memory for the other recipes
    return ""
