"""One writer per run, by a lock that dies with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from stores.disk import naming_faults
from stores.errors import LockedError

LOCK_NAME = "run.lock"
SLACK = 5.0
"""Seconds by which two clocks of one machine may differ in what they say of a process's start."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who wrote to a run last, by its own note. doing: what `RunLock.note` was last told; alive: None if unknown."""

    pid: int
    host: str
    command: str
    doing: dict[str, Any]
    alive: bool | None


class RunLock:
    """`with RunLock(run_folder): ...` holds the run for writing.

    The kernel drops the lock when the process ends, however it ends. The file stays; only the lock on it
    counts. Raises: LockedError at once if another process holds it, naming that process; DiskError if the disk is
    full or faulty.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / LOCK_NAME
        self._descriptor: int | None = None
        self._note: dict[str, Any] = {}
        self._bytes = 0

    def __enter__(self) -> RunLock:
        with naming_faults(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1 << 16, 0)
            os.close(descriptor)
            raise LockedError(_message(self.path, holder)) from None
        command = " ".join(sys.argv)[:1000]
        self._note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.time(),
            "command": command,
        }
        self._descriptor = descriptor
        _held.add(self)
        try:
            with naming_faults(self.path):
                os.ftruncate(descriptor, 0)
                self._bytes = os.pwrite(descriptor, json.dumps(self._note).encode(), 0)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            # The note in the file is for people; the lock counts, and that is let go whatever the disk says.
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self.close()

    def note(self, doing: dict[str, Any]) -> None:
        """Say in the lock's file what the writer is doing: a hint for readers, which no disk's fault may stop."""
        if self._descriptor is None:
            return
        # Padded, not cut: a reader between two calls would find an empty file.
        text = json.dumps(self._note | {"doing": doing}).encode().ljust(self._bytes)
        with suppress(OSError):
            self._bytes = max(self._bytes, os.pwrite(self._descriptor, text, 0))

    def close(self) -> None:
        """Close this process's hold on the lock file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


def writer(root: Path) -> Writer | None:
    """The process that writes to a run, or that did when it died; None if none has said so.

    Only reads: a test of the lock itself could keep a writer from taking it.
    """
    try:
        note = json.loads((root / LOCK_NAME).read_bytes())
        pid, host, since = int(note["pid"]), str(note["host"]), float(note.get("since", 0))
        doing = note.get("doing", {})
        return Writer(pid, host, str(note["command"]), dict(doing), _is_alive(pid, host, since))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int, host: str, since: float) -> bool | None:
    if host != socket.gethostname():
        return None
    try:
        # A later process may have got the number of a dead one.
        return since == 0 or bool(psutil.Process(pid).create_time() <= since + SLACK)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None


def _message(path: Path, holder: bytes) -> str:
    try:
        note = json.loads(holder)
        who = f"process {note['pid']} on host {note['host']} ({note['command']})"
    except (ValueError, KeyError, TypeError):
        who = "another process that has not said its name yet"
    return f"{path}: {who} is writing to this run. Wait until it ends, or stop it; reading works meanwhile."


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child shares the lock; were it to keep it, the lock would outlive the run's own process."""
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_let_go_in_child)
