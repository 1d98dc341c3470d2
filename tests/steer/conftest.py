"""A run of three timesteps as each left it, and work that is killed at a given instant."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from stores import database
from tests.durability.growth import write_dataset
from tests.runs.conftest import llava  # noqa: F401

RECIPE = {"recipe": "el2n", "prune": "random"}
SETTINGS: dict[str, Any] = {
    "lora": {"rank": 1, "targets": ["q_proj"]},
    "pool": {"keep": 10},
    "measure": {"batch_size": 8, "shard_size": 8},
    "train": {"budget": "50%", "batch_size": 2, "learning_rate": 1e-3, "warmup": 0.0},
    "evaluate": {"limit": 4},
}
TIMESTEPS = 3
ON_DISK = ("rename", "replace", "link", "unlink", "fsync")


class Steps:
    """A run after each of its timesteps: `states[t]`. For reading only; `copy` gives one to be changed."""

    def __init__(self, folder: Path, model: str) -> None:
        self.data = folder / "data"
        self.states = [folder / f"state-{timestep}" for timestep in range(TIMESTEPS + 1)]
        Run.create(self.states[0], model=model, recipe=RECIPE, config=SETTINGS)
        for timestep in range(1, TIMESTEPS + 1):
            shutil.copytree(self.states[timestep - 1], self.states[timestep])
            self.feed(Run.open(self.states[timestep]), timestep)

    def feed(self, run: Run, number: int) -> None:
        """Feed dataset `number`; the second brings a skill of its own, registered with it."""
        names = {1: "colours", 2: "others", 3: "colours"}
        evals = {1: 0, 2: 9}.get(number)
        run.feed(
            write_dataset(self.data, number),
            images=self.data / "images",
            skill=names[number],
            eval=None if evals is None else write_dataset(self.data, evals),
        )

    def copy(self, timestep: int, to: Path) -> Run:
        return Run.open(shutil.copytree(self.states[timestep], to))


@pytest.fixture(scope="session")
def steps(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Steps:  # noqa: F811
    return Steps(tmp_path_factory.mktemp("steps"), llava)


def killed(work: Callable[[], object], instant: int) -> int:
    """Do work in a forked child that dies before its SQL statement, or operation on the disk, number `instant`.

    Returns its exit code: 0 if it ended before that, −9 if it was killed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _die_at(instant)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_at(left: int) -> None:
    def tick(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(tick)
        return connection

    database.sqlite3.connect = traced  # type: ignore[assignment]
    for name in ON_DISK:
        operation = getattr(os, name)

        def ticking(*arguments: Any, operation: Any = operation, **options: Any) -> Any:
            tick()
            return operation(*arguments, **options)

        setattr(os, name, ticking)
