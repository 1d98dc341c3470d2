"""One writer at a time; readers at any time; and no write-ahead log over a network."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifelong import Run
from lifelong.errors import RunError
from stores import database
from stores.database import open_database
from stores.disk import network_filesystem
from stores.errors import StoreError
from stores.lock import RunLock
from tests.durability.disk import Op, Order, release
from tests.durability.scenario import Recording, Scenario
from tests.durability.server import Processes
from tests.runs.child import Ended
from tests.runs.conftest import ROOT

LAST_WRITES = 0.9
"""Where in a timestep the writer is held: in its last phases, so that readers have most of it to read."""


@dataclass(slots=True)
class Writer:
    """A process that is held in the middle of a write, and the run that it writes to."""

    run: Run
    pid: int
    processes: Processes
    _ended: Ended | None = None

    def wait(self) -> Ended:
        """How it ended, once it has."""
        if self._ended is None:
            self._ended = self.processes.wait(self.pid)
        return self._ended


@pytest.fixture(params=["in a file", "in a transaction"])
def writer(
    request: pytest.FixtureRequest,
    scenario: Scenario,
    recordings: dict[int, Recording],
    processes: Processes,
    tmp_path: Path,
) -> Iterator[Writer]:
    """A writer held in timestep 2: before it renames a file, or between two writes of one commit to the database."""
    run = scenario.copy(1, tmp_path / "run")
    held = tmp_path / "held"
    at, kinds = _place(recordings[2], request.param)
    order = Order(str(run.root), "hold", at, kinds=int(kinds), held=str(held))
    pid = processes.begin(order, "run", run.root, scenario.streams[2])
    deadline = time.monotonic() + 60
    while not held.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.exists()
    writer = Writer(run, pid, processes)
    yield writer
    release(held)
    assert writer.wait().code in (0, -signal.SIGKILL), writer.wait().stderr


def _place(recording: Recording, where: str) -> tuple[int, Op]:
    """(number, kind) of an operation late in a timestep: a file's rename, or the second write of a commit."""
    kind = Op.RENAME if where == "in a file" else Op.WRITE
    chosen = [operation for operation in recording.operations if operation.op == kind]
    last = int(len(chosen) * LAST_WRITES)
    for at in range(last, 0, -1):
        before, now = chosen[at - 2 : at]
        if kind == Op.RENAME or (before.path.endswith("-wal") and now.path.endswith("-wal")):
            return at, kind
    raise AssertionError(f"timestep 2 has no place {where}")


def test_the_second_writer_is_told_at_once_who_is_the_first(
    writer: Writer, processes: Processes, scenario: Scenario
) -> None:
    """At once: the first writer goes on only after this test, so whoever waited for it would wait for good."""
    for command in (("resume", writer.run.root), ("run", writer.run.root, scenario.streams[3])):
        ended = processes.run(*command)
        assert ended.code == 3
        assert f"process {writer.pid} on host {socket.gethostname()}" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_readers_read_while_a_write_is_under_way(
    writer: Writer, processes: Processes, tmp_path: Path
) -> None:
    with writer.run.reading() as stores:
        sample = next(iter(stores.pool.rows([0]))).sample_id
    commands = {
        "status": ("status", writer.run.root, "--json"),
        "why": ("why", writer.run.root, sample),
        "curves": ("curves", writer.run.root, "--json"),
        "routes": ("routes", writer.run.root),
        "digest": ("digest", writer.run.root),
        "export": ("export", writer.run.root, "--out", tmp_path / "out.json", "--timestep", 1),
    }
    for name, command in commands.items():
        ended = processes.run(*command)
        assert ended.code == 0, (name, ended.stderr)
    assert writer.run.status()["timestep"] == 2


def test_killing_the_first_writer_lets_the_second_in(writer: Writer, scenario: Scenario) -> None:
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait().code == -signal.SIGKILL
    writer.run.run_stream(scenario.streams[2])
    assert scenario.same_as(writer.run, 2)


REFUSED = """
import sys
from lifelong.cli import invoke
codes = [invoke([verb, sys.argv[1]]) for verb in ("resume", "status")]
assert codes == [3, 0], codes
assert "torch" not in sys.modules
"""


def test_neither_the_second_writer_nor_a_reader_waits_for_torch(scenario: Scenario, tmp_path: Path) -> None:
    run = scenario.copy(1, tmp_path / "run")
    with RunLock(run.root):
        ended = subprocess.run(
            [sys.executable, "-c", REFUSED, str(run.root)], cwd=ROOT, capture_output=True, text=True
        )
    assert ended.returncode == 0, ended.stderr
    assert f"process {os.getpid()} on host" in ended.stderr


MOUNTED = """\
/dev/vda / ext4 rw,relatime 0 0
server:/export {root}/far nfs4 rw,vers=4.2 0 0
//server/share {root}/with\\040space cifs rw 0 0
user@host:/ {root}/ssh fuse.sshfs rw 0 0
tmpfs {root}/far/near tmpfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A table of mounts by which some folders of the test's lie on a network."""
    for name in ("far/near", "far/run", "with space", "ssh", "farther"):
        (tmp_path / name).mkdir(parents=True)
    table = tmp_path / "mounts"
    table.write_text(MOUNTED.format(root=tmp_path.resolve()), encoding="utf-8")
    return table


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("far", "nfs4"),
        ("far/run", "nfs4"),
        ("far/run/not-yet-made", "nfs4"),
        ("far/near", None),
        ("farther", None),
        ("with space", "cifs"),
        ("ssh", "fuse.sshfs"),
        (".", None),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(
    folder: str, kind: str | None, mounts: Path, tmp_path: Path
) -> None:
    found = network_filesystem(tmp_path / folder, mounts)
    assert (found and found[0]) == kind


def test_a_link_to_a_network_is_followed(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "far")
    assert network_filesystem(tmp_path / "link" / "run", mounts) == ("nfs4", str(tmp_path.resolve() / "far"))
    assert network_filesystem(tmp_path, tmp_path / "no-table") is None


def test_a_run_on_a_network_file_system_is_refused_with_the_reason(
    mounts: Path, tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(path: Path) -> tuple[str, str] | None:
        return network_filesystem(path, mounts)

    finished = scenario.copy(1, tmp_path / "far" / "run" / "copied")
    monkeypatch.setattr(database, "network_filesystem", fake)
    reason = r"network file system \(nfs4, mounted at .*far\): SQLite's write-ahead log .* Put the run on a local disk"
    with pytest.raises(StoreError, match=reason):
        open_database(tmp_path / "far" / "run" / "new.sqlite")
    assert os.listdir(tmp_path / "far" / "run") == ["copied"]
    with pytest.raises(RunError, match=reason):
        finished.run_stream(scenario.streams[2])
    assert finished.status()["timestep"] == 1
    assert re.fullmatch(r"[0-9a-f]{64}", finished.digest())
