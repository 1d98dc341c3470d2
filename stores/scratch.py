"""Folders beside the run, under the system's temporary folder, that do not outlive their process."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType


class ScratchFolder(AbstractContextManager["ScratchFolder"]):
    """`with ScratchFolder("lifelong-select-") as scratch: ...` has a folder at `scratch.path`.

    It is removed by `close`, at the end of the block, or when the process ends. A process that is killed leaves it
    behind, unlocked: the next scratch folder of that prefix on the machine removes it.
    """

    def __init__(self, prefix: str) -> None:
        _sweep(prefix)
        self.path, descriptor = _locked(prefix)
        self._finalizer = weakref.finalize(self, _remove, self.path, descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._finalizer()


def _locked(prefix: str) -> tuple[Path, int]:
    """A new folder and the descriptor by which it is locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        if (descriptor := _lock(path)) is None:
            continue  # swept between the two calls
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the folder's lock; None if another process holds it or the folder is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(prefix: str) -> None:
    """Remove the folders of processes that have died."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # it went away meanwhile
            if path.stat().st_uid == os.getuid() and (descriptor := _lock(path)) is not None:
                _remove(path, descriptor)


def _remove(path: Path, descriptor: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)
