"""One writer per run, by a lock that dies with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from stores.disk import naming_faults
from stores.errors import LockedError

LOCK_NAME = "run.lock"


class RunLock:
    """`with RunLock(run_folder): ...` holds the run for writing.

    The kernel drops the lock when the process ends, however it ends. The file stays; only the lock on it
    counts. Raises: LockedError at once if another process holds it, naming that process; DiskError if the disk is
    full or faulty.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / LOCK_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        with naming_faults(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1 << 16, 0)
            os.close(descriptor)
            raise LockedError(_message(self.path, holder)) from None
        command = " ".join(sys.argv)
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": command[:1000]}
        self._descriptor = descriptor
        _held.add(self)
        try:
            with naming_faults(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(note).encode(), 0)
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

    def close(self) -> None:
        """Close this process's hold on the lock file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


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
