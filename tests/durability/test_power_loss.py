"""The power goes at any operation, and with it what was not synced: the run opens and loses the phase in flight."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong import Run
from tests.durability.disk import Op
from tests.durability.replay import CUTS, Cut, Disk
from tests.durability.scenario import (
    TIMESTEPS,
    Recording,
    Scenario,
    committed,
    contents,
    damaged,
    rows,
    strides,
)
from tests.durability.server import Processes

SOME = 31


def cuts(recording: Recording, every: int) -> Iterator[tuple[int, Disk]]:
    """(number of the last operation, the disk) at every so many of the moments with something to lose."""
    disk = recording.disk()
    moments = 0
    for at, operation in enumerate(recording.operations, 1):
        disk.play(operation)
        if operation.op != Op.MARK and disk.unsynced():
            moments += 1
            if moments % every == 0:
                yield at, disk


def state(run: Run) -> str:
    """All that the future of a tidied run depends on."""
    return repr((sorted(contents(run).items()), sorted(rows(run).items())))


@pytest.mark.parametrize("every", strides(SOME))
@pytest.mark.parametrize("timestep", range(1, TIMESTEPS + 1))
def test_a_power_cut_loses_at_most_the_phase_in_flight(
    timestep: int,
    every: int,
    recordings: dict[int, Recording],
    scenario: Scenario,
    processes: Processes,
    tmp_path: Path,
    figures: Callable[[str], None],
) -> None:
    """Whatever the cut leaves opens whole, and every state that it opens to is then finished to the same end.

    Runs that a cut leaves, once tidied, are the same but for how far they had come; each is finished once.
    """
    seen: set[str] = set()
    tried = moments = 0
    for at, disk in cuts(recordings[timestep], every):
        moments += 1
        for cut in CUTS:
            cut = replace(cut, seed=at)
            run = Run.open(disk.leave(tmp_path / "run", cut))
            point = f"after operation {at}, {cut}"
            tried += 1
            assert damaged(run) == [], point
            lost = disk.marks - committed(run)
            assert not lost, point
            with run._writing():
                pass
            found = state(run)
            if found not in seen and (every != SOME or len(seen) < 3):
                seen.add(found)
                finish(run, scenario, timestep, processes, point)
            shutil.rmtree(run.root)
    figures(
        f"power cuts in timestep {timestep}, every {every}: {moments} moments, {tried} states left of the disk, "
        f"{len(seen)} of them different once opened and finished to the same end"
    )


def finish(run: Run, scenario: Scenario, timestep: int, processes: Processes, point: str) -> None:
    ended = processes.run("run", run.root, scenario.streams[timestep])
    assert ended.code == 0, (point, ended.stderr)
    assert scenario.same_as(run, timestep), point


def test_the_replay_loses_what_was_not_synced(recordings: dict[int, Recording], tmp_path: Path) -> None:
    """A control: with nothing ever synced, nothing of the timestep is left, and torn writes show."""
    recording = recordings[1]
    disk = recording.disk()
    for operation in recording.operations:
        if operation.op != Op.FSYNC:
            disk.play(operation)
    before = Run.open(recording.disk().leave(tmp_path / "before", Cut("kept", "kept")))
    lost = Run.open(disk.leave(tmp_path / "lost", Cut("lost", "lost")))
    assert contents(lost) == contents(before)
    assert rows(lost) == rows(before)
    torn = disk.leave(tmp_path / "torn", Cut("kept", "some", 512))
    packs = [path.read_bytes() for path in sorted(torn.glob("media/*.bin"))]
    assert packs != [path.read_bytes() for path in sorted(recording.run.root.glob("media/*.bin"))]


@pytest.mark.parametrize("without", ["fsync of files", "fsync of folders"])
def test_the_replay_notices_a_missing_fsync(
    without: str, recordings: dict[int, Recording], tmp_path: Path
) -> None:
    """A control: a library that left out these fsyncs (SQLite's own aside) would not pass the test above."""
    recording, folders = recordings[1], without == "fsync of folders"
    disk = recording.disk()
    found = 0
    for at, operation in enumerate(recording.operations):
        path = Path(operation.path)
        of_sqlite = path == recording.run.root or ".sqlite" in path.name
        if operation.op == Op.FSYNC and path.is_dir() == folders and not of_sqlite:
            continue
        disk.play(operation)
        if operation.op == Op.MARK:
            found += bool(damaged(Run.open(disk.leave(tmp_path / str(at), Cut("lost", "lost")))))
    assert found
