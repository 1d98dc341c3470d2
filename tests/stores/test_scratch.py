"""Scratch folders go with their process, however it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stores.scratch import ScratchFolder

HOLD = """
import sys, time
from stores.scratch import ScratchFolder
scratch = ScratchFolder("lifelong-test-")
(scratch.path / "big").write_bytes(b"1")
print(scratch.path, flush=True)
if "stay" in sys.argv:
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def held(*arguments: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_gone_after_the_block(tmp_path: Path) -> None:
    with ScratchFolder("lifelong-test-") as scratch:
        (scratch.path / "a").write_text("a")
        assert scratch.path.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_it_is_gone_when_the_process_ends() -> None:
    process, path = held()
    assert process.wait(60) == 0
    assert not path.exists()


def test_a_killed_process_s_is_removed_by_the_next_and_a_living_one_s_is_not() -> None:
    alive, kept = held("stay")
    dead, left = held("stay")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait(60)
        assert left.exists()
        with ScratchFolder("lifelong-test-") as scratch:
            assert not left.exists()
            assert (kept / "big").read_bytes() == b"1"
            assert scratch.path.exists()
        with ScratchFolder("lifelong-else-"):
            assert kept.exists()
    finally:
        alive.kill()
        alive.wait(60)


def test_many_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    processes = [held("stay") for _ in range(4)]
    try:
        for _ in range(50):
            with ScratchFolder("lifelong-test-") as scratch:
                assert scratch.path.exists()
        assert all((path / "big").exists() for _, path in processes)
    finally:
        for process, _ in processes:
            process.kill()
            process.wait(60)


def test_where_there_are_no_locks_it_is_made_and_others_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    (tmp_path / "lifelong-test-other").mkdir()
    monkeypatch.setattr("stores.scratch.fcntl.flock", unsupported)
    with ScratchFolder("lifelong-test-") as scratch:
        assert scratch.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lifelong-test-other"]


def test_a_file_of_that_name_and_a_link_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lifelong-test-file").write_text("mine")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a").write_text("mine")
    os.symlink(tmp_path / "else", tmp_path / "lifelong-test-link")
    with ScratchFolder("lifelong-test-"):
        pass
    assert (tmp_path / "lifelong-test-file").read_text() == "mine"
    assert (tmp_path / "else" / "a").read_text() == "mine"
