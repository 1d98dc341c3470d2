"""Killed at any durable operation, and again in the recovery, a run ends as if nothing had happened."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from tests.durability.disk import Op, Order
from tests.durability.replay import NOTHING_LOST
from tests.durability.scenario import TIMESTEPS, Recording, Scenario, strides
from tests.durability.server import Processes

KILLED = -signal.SIGKILL


def finish(run: Run, scenario: Scenario, timestep: int, processes: Processes, point: object) -> None:
    """Let the run end its timestep undisturbed, and compare it with the one that nobody disturbed."""
    ended = processes.run("run", run.root, scenario.streams[timestep])
    assert ended.code == 0, (point, ended.stderr)
    assert scenario.same_as(run, timestep), point
    shutil.rmtree(run.root)


@pytest.mark.parametrize("timestep", range(1, TIMESTEPS + 1))
def test_the_log_has_every_durable_operation(
    timestep: int, recordings: dict[int, Recording], tmp_path: Path
) -> None:
    recording = recordings[timestep]
    disk = recording.disk()
    for operation in recording.operations:
        disk.play(operation)
    replayed = disk.leave(tmp_path / "replayed", NOTHING_LOST)
    assert tree(replayed) == tree(recording.run.root)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but SQLite's shared index, which is no durable thing."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("every", strides(17))
def test_killed_at_any_operation_of_its_making_a_run_is_usable_or_no_run(
    every: int, llava: str, processes: Processes, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    points = usable = 0
    for at in itertools.count(1, every):
        root = tmp_path / str(at)
        ended = processes.on_disk(Order(str(root), "tear", at), "init", root, "--model", llava)
        if ended.code == 0:
            break
        assert ended.code == KILLED, (at, ended.stderr)
        points += 1
        resumed = processes.run("resume", root)
        if resumed.code == 0:
            usable += 1
            run = Run.open(root)
            assert len(run.status()["run_id"]) == 32, at
            assert run.config.model.path == llava
        else:
            assert resumed.code == 3, (at, resumed.stderr)
            assert "make one with `lifelong init" in resumed.stderr, at
    assert points > usable > 0
    figures(f"killed while a run is made, every {every}: {points} points, {usable} left a run that is usable")


@pytest.mark.parametrize("every", strides(71))
@pytest.mark.parametrize("timestep", range(1, TIMESTEPS + 1))
def test_killed_at_any_operation_and_again_in_the_recovery(
    timestep: int,
    every: int,
    scenario: Scenario,
    processes: Processes,
    tmp_path: Path,
    figures: Callable[[str], None],
) -> None:
    rng = np.random.default_rng([timestep, every])
    points = again = 0
    for at in itertools.count(1 + (7 * timestep) % every, every):
        run = scenario.copy(timestep - 1, tmp_path / "run")
        command = ("run", run.root, scenario.streams[timestep])
        ended = processes.on_disk(Order(str(run.root), "kill", at), *command)
        if ended.code == 0:
            assert scenario.same_as(run, timestep)
            break
        assert ended.code == KILLED, (at, ended.stderr)
        points += 1
        second = int(rng.integers(1, 100))
        recovered = processes.on_disk(Order(str(run.root), "tear", second), *command)
        assert recovered.code in (0, KILLED), (at, second, recovered.stderr)
        again += recovered.code == KILLED
        finish(run, scenario, timestep, processes, (at, second))
    assert points > 300 // every
    figures(
        f"sweep of timestep {timestep}, every {every}: {points} points killed, {again} again in the recovery"
    )


@pytest.mark.parametrize("every", strides(73))
def test_killed_in_the_middle_of_a_write(
    every: int, scenario: Scenario, processes: Processes, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    points = 0
    for at in itertools.count(1 + 5 % every, every):
        run = scenario.copy(1, tmp_path / "run")
        order = Order(str(run.root), "tear", at, kinds=Op.WRITE)
        ended = processes.on_disk(order, "run", run.root, scenario.streams[2])
        if ended.code == 0:
            break
        assert ended.code == KILLED, (at, ended.stderr)
        points += 1
        finish(run, scenario, 2, processes, at)
    assert points > 200 // every
    figures(f"killed in the middle of a write, every {every}: {points} points")


@pytest.mark.parametrize("every", strides(73))
def test_killed_at_any_operation_of_one_recovery(
    every: int, scenario: Scenario, processes: Processes, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    killed = scenario.copy(1, tmp_path / "killed")
    command = ("run", killed.root, scenario.streams[2])
    assert processes.on_disk(Order(str(killed.root), "kill", 150), *command).code == KILLED
    points = 0
    for at in itertools.count(1, every):
        run = Run.open(shutil.copytree(killed.root, tmp_path / "run"))
        ended = processes.on_disk(Order(str(run.root), "kill", at), "run", run.root, scenario.streams[2])
        if ended.code == 0:
            break
        assert ended.code == KILLED, (at, ended.stderr)
        points += 1
        finish(run, scenario, 2, processes, at)
    assert points > 100 // every
    figures(f"sweep of a recovery, every {every}: {points} points killed")
