"""A comparison on disk: what is finished is kept in one file, what is not is run.

`results.json` holds all that the tables are made of. It outlives the folders of the runs: a comparison goes on from the
file alone, on another machine too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifelong.compare.cells import ALL, Cell, Plan, ordered, run_cells
from lifelong.compare.results import Results, read_file, read_result
from lifelong.context import DATABASE
from lifelong.errors import InputError, UsageError
from lifelong.progress import Progress
from lifelong.recipes.method import method, resolve
from lifelong.run import Run
from lifelong.stream import Stream, read_stream

RESULTS = "results.json"


class Comparison:
    """A plan and the file of what its runs found. Runs that are on file need not be there any more.

    Raises:
        InputError: the stream has no eval set, or the file cannot be read.
        UsageError: a recipe is unknown or lacks a setting; the file is of another stream, or of other settings.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stream = read_stream(plan.stream)
        if not any(feed.eval for feed in self.stream.datasets):
            raise InputError(
                f"{plan.stream}: no dataset has an eval set, so nothing can be compared; add `eval: FILE`"
            )
        ordered(self.stream, plan.orders - 1)
        if plan.orders > 1:
            _require_one_eval_set(self.stream)
        for cell in plan.cells():
            config = plan.config(cell)
            method(
                config.recipe, config
            )  # what cannot be run at all is said before hours are spent on the rest
        self._recipes = {name: resolve(recipe).sentence() for name, recipe in plan.recipes.items()}
        self._kept = self._read()

    @property
    def path(self) -> Path:
        return self.plan.folder / RESULTS

    def run(self, progress: Progress, jobs: int = 1) -> Results:
        """Run what is not finished; each run is on file as soon as it ends."""
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        self._take_finished()
        left = [cell for cell in self.plan.cells() if not self._kept.has(cell)]
        failed: dict[Cell, str] = {}
        for done, (cell, reason) in enumerate(run_cells(self.plan, left, progress, jobs), 1):
            progress.say(f"[{done}/{len(left)}] {cell.name}" + (f" failed: {reason}" if reason else ""))
            if reason:
                failed[cell] = reason
            else:
                self._keep(cell, Run.open(self.plan.root(cell)))
                self._write()
        return self.results(failed)

    def results(self, failed: Mapping[Cell, str] | None = None) -> Results:
        """Those of the plan's cells that are finished."""
        self._take_finished()
        reasons = {cell.name: reason for cell, reason in (failed or {}).items()}
        chosen = self._kept.only(self.plan)
        missing = [cell.name for cell in self.plan.cells() if not chosen.has(cell)]
        whole = frozenset(name for name in self.plan.recipes if self.plan.budget(name, "") == ALL)
        return Results(chosen.found, {name: reasons.get(name, "not finished") for name in missing}, whole)

    def _take_finished(self) -> None:
        """Put on file the runs that ended without being put there."""
        found = False
        for cell in self.plan.cells():
            root = self.plan.root(cell)
            if self._kept.has(cell) or not (root / DATABASE).is_file():
                continue
            run = Run.open(root)
            stands = run.status()
            if stands["phase"] is None and stands["timestep"] == len(self.stream.datasets):
                self._keep(cell, run)
                found = True
        if found:
            self._write()

    def _keep(self, cell: Cell, run: Run) -> None:
        """Take a finished run. Raises: InputError if it answered other questions than those on file."""
        result = read_result(run)
        if said := self._kept.other_questions(result):
            raise InputError(
                f"{run.root}: {said}, so that its scores cannot be compared: an eval set has changed. Put it back and "
                "remove that run, or name another folder with --out"
            )
        self._kept.add(cell, result)

    def _read(self) -> Results:
        if not self.path.is_file():
            return Results()
        found, kept = read_file(self.path)
        now = self._identity()
        for name in ("stream", "settings"):
            if kept[name] != now[name]:
                raise UsageError(
                    f"{self.path} was begun with other settings ({name}: {kept[name]}); name another folder with "
                    "--out, or remove it"
                )
        for name, sentence in kept["recipes"].items():
            if self._recipes.setdefault(name, sentence) != sentence:
                raise UsageError(
                    f"{self.path} knows {name} as another recipe ({sentence}); give this one another name"
                )
        return found

    def _identity(self) -> dict[str, Any]:
        stream = [self.stream.name, *(feed.name for feed in self.stream.datasets)]
        between = {"between": self.plan.between} if self.plan.between else {}
        return {"stream": stream, "settings": {**(self.plan.settings or {}), **between}}

    def _write(self) -> None:
        rows = [
            {"recipe": cell.recipe, "budget": cell.budget, "order": cell.order, "seed": cell.seed}
            | found.to_dict()
            for cell, found in self._kept.items()
        ]
        head = {**self._identity(), "recipes": self._recipes}
        dumped = lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False)  # noqa: E731
        lines = [f"{dumped(name)}: {dumped(value)}" for name, value in head.items()]
        # A line for each run, so that what a longer comparison adds is what differs.
        lines.append('"runs": [\n' + ",\n".join(dumped(row) for row in rows) + "\n]")
        staged = self.path.with_suffix(".staged")
        staged.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
        staged.replace(self.path)


def _require_one_eval_set(stream: Stream) -> None:
    """Raises: InputError if the order decides which eval set a skill has: runs would answer other questions."""
    first: dict[str, Any] = {}
    for feed in filter(lambda each: each.eval, stream.datasets):
        other = first.setdefault(feed.skill, feed)
        if (feed.eval, feed.metric) != (other.eval, other.metric):
            raise InputError(
                f"{other.name} and {feed.name} bring eval sets of their own for skill {feed.skill!r}, and the first to "
                "come counts: with --orders, name the same `eval:` and `metric:` at both, or at one of them"
            )
