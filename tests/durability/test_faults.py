"""A disk that is full or faulty stops the run with a message that says what to do; mended, the run goes on."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from lifelong import loop
from lifelong.context import Context
from lifelong.errors import RunError
from tests.durability.disk import Op, Order
from tests.durability.scenario import Recording, Scenario, strides
from tests.durability.server import Processes
from tests.runs.small import phases

NAMES = Op.RENAME | Op.LINK | Op.UNLINK | Op.CREATE | Op.MKDIR | Op.RMDIR
CONTENT = Op.WRITE | Op.TRUNCATE
FAULTS = {
    "disk full": ("fail", errno.ENOSPC, CONTENT | NAMES & ~(Op.UNLINK | Op.RMDIR)),
    "writes fail": ("fail", errno.EIO, CONTENT),
    "fsyncs fail": ("fail", errno.EIO, Op.FSYNC),
    "names fail": ("fail", errno.EIO, NAMES),
    "writes are cut short": ("short", 0, Op.WRITE),
}


@pytest.mark.parametrize("every", strides(151))
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_says_what_to_do_and_goes_on_once_it_is_done(
    fault: str,
    for_good: bool,
    every: int,
    scenario: Scenario,
    recordings: dict[int, Recording],
    processes: Processes,
    tmp_path: Path,
    figures: Callable[[str], None],
) -> None:
    do, error, kinds = FAULTS[fault]
    stopped = survived = 0
    # Operations that are rarer than writes are tried in smaller steps.
    step = every if kinds & Op.WRITE else 1 + every // 8
    total = sum(bool(operation.op & kinds) for operation in recordings[2].operations)
    for at in range(1 + 3 % step, total + 1, step):
        run = scenario.copy(1, tmp_path / "run")
        command = ("run", run.root, scenario.streams[2])
        order = Order(str(run.root), do, at, error=error, for_good=for_good, kinds=kinds)  # type: ignore[arg-type]
        ended = processes.on_disk(order, *command)
        if ended.code == 0:
            survived += 1
        else:
            stopped += 1
            assert ended.code == 3, (at, ended.stderr)
            assert "Traceback" not in ended.stderr, (at, ended.stderr)
            message = ended.stderr.strip().splitlines()[-1]
            assert message.startswith(f"error: {run.root}"), (at, message)
            assert "`lifelong resume RUN`" in message, (at, message)
            if fault == "disk full":
                # SQLite does not say why it could not make a file of its own.
                told = ("Free space on that disk", "see that the disk is there and has space")
                assert any(each in message for each in told), (at, message)
            mended = processes.run(*command)
            assert mended.code == 0, (at, mended.stderr)
        assert scenario.same_as(run, 2), at
        shutil.rmtree(run.root)
    if fault == "writes are cut short":
        assert survived
    else:
        assert stopped
    often = "for good" if for_good else "once"
    figures(f"{fault} {often}, every {step}: {stopped} faults stopped the run, {survived} it survived")


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("phase", ["ingest", "start", "measure", "select", "train", "prune"])
def test_a_disk_that_is_nearly_full_shows_before_the_phase(
    phase: str, scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scenario.copy(0, tmp_path / "run")

    def usage(folder: Path) -> Usage:
        """A disk that another program fills just before the phase begins."""
        with run.reading() as stores:
            done = [name for timestep in (0, 1) for name in phases(stores.ledger, timestep)]
        order = ["ingest", "start", "measure", "cluster", "route", "select", "train", "evaluate", "prune"]
        return Usage(10**12, 0, 1000 if len(done) == order.index(phase) else 10**11)

    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", usage)
        with pytest.raises(RunError) as caught:
            run.run_stream(scenario.streams[1])
    message = str(caught.value)
    timestep = 0 if phase == "start" else 1
    assert message.startswith(f"{run.root}: phase '{phase}' of timestep {timestep} needs about ")
    for part in ("its disk has 0.0 MB free", "Free 1", "`lifelong resume RUN`"):
        assert part in message
    assert run.status()["phase"] == ("measure" if phase == "start" else phase)
    run.run_stream(scenario.streams[1])
    assert scenario.same_as(run, 1)


def test_the_estimate_is_of_the_size_of_what_is_written(scenario: Scenario, tmp_path: Path) -> None:
    """What a phase writes of its own kind is what was asked for, within a factor of two."""
    from lifelong.upkeep import room

    run = scenario.copy(2, tmp_path / "run")
    asked: dict[str, int] = {}
    require = room.require_room

    def keep(context: Context, timestep: int, phase: str) -> None:
        asked[phase] = room._needed(context, phase)
        require(context, timestep, phase)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "require_room", keep)
        run.run_stream(scenario.streams[3])
    with run.reading() as stores:
        signals = sum(shard.bytes for shard in stores.ledger.shards(3, "signals"))
        adapter = sum(file.committed.bytes for file in stores.ledger.files(3) if file.kind == "adapter")
    assert signals / 2 < asked["measure"] < signals * 2
    assert adapter <= asked["train"] <= 7 * adapter
