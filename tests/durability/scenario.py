"""Three timesteps of a tiny model, as small as runs get, and how two run folders are compared."""

from __future__ import annotations

import os
import shutil
import sqlite3
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifelong import Run
from stores.fsck import check_files
from tests.durability.disk import Operation, Order, read_log
from tests.durability.replay import Disk
from tests.durability.server import Processes
from tests.runs.small import RECIPE, files, settings, small_entry

LONG = (pytest.mark.slow, pytest.mark.timeout(14_400))
"""Marks of what `make durability` runs."""
TIMESTEPS = 3
DATASETS = ("easyvqa", "ground_mix", "daquar")
SETTINGS = settings(
    pool={"keep": 10},
    measure={"batch_size": 6, "shard_size": 6},
    evaluate={"limit": 2},
    train={"budget": "50%", "batch_size": 2},
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run that nobody disturbed, as it was before and after each of its timesteps.

    streams[t]: the stream file whose run ends with timestep t; states[t]: the run folder after timestep t.
    """

    streams: list[Path]
    states: list[Path]

    def copy(self, timestep: int, to: Path) -> Run:
        """A run to be harmed, as it was after a timestep."""
        return Run.open(shutil.copytree(self.states[timestep], to))

    def same_as(self, run: Run, timestep: int) -> bool:
        """Whether a run is, in every file and every row, what the undisturbed one was after a timestep."""
        undisturbed = Run.open(self.states[timestep])
        return (
            run.digest() == undisturbed.digest()
            and contents(run) == contents(undisturbed)
            and rows(run) == rows(undisturbed)
        )


def strides(some: int) -> list[Any]:
    """Parameters of a test that tries every so many operations: `some`, and the long form, which tries all.

    DURABILITY_EVERY, the EVERY of `make durability EVERY=…`, thins the long form out.
    """
    every = int(os.environ.get("DURABILITY_EVERY", "1"))
    return [pytest.param(some, id="some"), pytest.param(every, id="long", marks=LONG)]


def play(folder: Path, model: str, processes: Processes) -> Scenario:
    """Let the undisturbed run happen, timestep by timestep."""
    datasets = [
        small_entry(folder, name, rows=6, evals=0 if place else 2) for place, name in enumerate(DATASETS)
    ]
    streams = []
    for count in range(TIMESTEPS + 1):
        streams.append(folder / f"stream-{count}.yaml")
        streams[-1].write_text(
            yaml.safe_dump({"name": "small", "datasets": datasets[:count]}), encoding="utf-8"
        )
    states = [folder / f"state-{count}" for count in range(TIMESTEPS + 1)]
    Run.create(states[0], model=model, recipe=RECIPE, config=SETTINGS)
    for count in range(1, TIMESTEPS + 1):
        shutil.copytree(states[count - 1], states[count])
        ended = processes.run("run", states[count], streams[count])
        assert ended.code == 0, ended.stderr
    return Scenario(streams, states)


@dataclass(frozen=True, slots=True)
class Recording:
    """Every durable operation of one timestep, the disk before it, and the run that it left."""

    before: Disk
    operations: list[Operation]
    run: Run

    def disk(self) -> Disk:
        """The disk before the timestep, to play the operations on."""
        return deepcopy(self.before)


def record(scenario: Scenario, timestep: int, folder: Path, processes: Processes) -> Recording:
    """Let a timestep happen in `folder`, and keep the log of its durable operations."""
    run = scenario.copy(timestep - 1, folder / "run")
    before = Disk(run.root)
    order = Order(str(run.root), log=str(folder / "log"))
    ended = processes.on_disk(order, "run", run.root, scenario.streams[timestep])
    assert ended.code == 0, ended.stderr
    return Recording(before, list(read_log(folder / "log")), run)


def contents(run: Run) -> dict[str, bytes]:
    """The run's files by name, but for the lock, the database and its copy."""
    kept = (name for name in files(run) if name != "run.lock" and not name.endswith(".sqlite"))
    return {name: (run.root / name).read_bytes() for name in kept}


def rows(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    """What the database holds, but for when and how long each phase was (and the checksums over that)."""
    connection = sqlite3.connect(f"file:{run.root / 'lifelong.sqlite'}?mode=ro", uri=True)
    try:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        found = {}
        for table in set(tables) - {"seals"}:
            columns = [each[1] for each in connection.execute(f"PRAGMA table_info({table})")]
            kept = ", ".join(
                f'"{name}"' for name in columns if name not in ("seconds", "kept", "finished", "at")
            )
            found[table] = sorted(connection.execute(f"SELECT {kept} FROM {table}").fetchall(), key=repr)
        return found
    finally:
        connection.close()


def damaged(run: Run) -> list[str]:
    """What fsck finds damaged."""
    with run.reading() as stores:
        return [problem.message for problem in check_files(stores.db, run.root) if problem.kind == "damaged"]


def committed(run: Run) -> set[str]:
    """The phases and shards that the ledger has, as the marks of a log name them."""
    with run.reading() as stores:
        ledger = stores.ledger
        phases = stores.db.execute("SELECT timestep, phase FROM phases").fetchall()
        shards = [(each.timestep, each.kind, each.position) for each in ledger.shards()]
    return {" ".join(map(str, each)) for each in [*phases, *shards]}
