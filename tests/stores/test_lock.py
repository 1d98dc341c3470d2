from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import stores
from stores.errors import LockedError
from stores.lock import LOCK_NAME, RunLock, writer

HOLD = """
import sys, time
from pathlib import Path
from stores.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_in_another_process(root: Path) -> subprocess.Popen[str]:
    paths = [str(Path(stores.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_process_is_told_who_holds_the_run_until_that_one_is_killed(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    try:
        expected = rf"process {process.pid} on host {re.escape(socket.gethostname())} .*writing to this run"
        with pytest.raises(LockedError, match=expected), RunLock(tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with RunLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_NAME).read_text()


def test_lock_is_free_after_the_block_and_held_within_it(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(LockedError), RunLock(tmp_path):
            pass
    assert (tmp_path / LOCK_NAME).read_text() == ""


def test_holder_without_a_name_is_still_respected(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / LOCK_NAME).write_text("")
        with (
            pytest.raises(LockedError, match="another process that has not said its name"),
            RunLock(tmp_path),
        ):
            pass


def test_lock_dies_with_its_process_even_if_a_forked_child_lives_on(tmp_path: Path, in_child, die) -> None:
    read_end, write_end = os.pipe()

    def work() -> None:
        with RunLock(tmp_path):
            worker = os.fork()
            if worker == 0:
                signal.pause()
            os.write(write_end, str(worker).encode())
            die()

    assert in_child(work) == -signal.SIGKILL
    worker = int(os.read(read_end, 100))
    try:
        os.kill(worker, 0)
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read_end)
        os.close(write_end)


def test_readers_see_who_writes_and_how_far_it_is(tmp_path: Path) -> None:
    assert writer(tmp_path) is None
    with RunLock(tmp_path) as lock:
        for doing in ({"what": "training steps", "done": 10, "total": 20}, {}):
            lock.note(doing)
            found = writer(tmp_path)
            assert found is not None
            assert (found.pid, found.alive, found.doing) == (os.getpid(), True, doing)
    assert writer(tmp_path) is None
    lock.note({"what": "nothing"})
    assert (tmp_path / LOCK_NAME).read_text() == ""


def test_a_writer_that_was_killed_is_known_to_be_gone_and_no_namesake_is_taken_for_it(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = writer(tmp_path)
    assert found is not None
    assert found.alive is False
    note = json.loads((tmp_path / LOCK_NAME).read_text())
    # The number now belongs to a process that began later than the note.
    (tmp_path / LOCK_NAME).write_text(json.dumps(note | {"pid": os.getpid(), "since": 1.0}))
    namesake = writer(tmp_path)
    assert namesake is not None
    assert namesake.alive is False
    (tmp_path / LOCK_NAME).write_text(json.dumps(note | {"host": "elsewhere"}))
    elsewhere = writer(tmp_path)
    assert elsewhere is not None
    assert elsewhere.alive is None
    (tmp_path / LOCK_NAME).write_text('{"pid": 1, "ho')
    assert writer(tmp_path) is None
