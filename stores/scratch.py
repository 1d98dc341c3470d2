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
    behind, unlocked: the next scratch folder of that prefix on the machine removes it. It stays where the temporary
    folder lies on a file system without locks.
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
    """A new folder and the descriptor by which it is locked, if its file system has locks."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        # Another process may sweep it before it is locked.
        with suppress(FileNotFoundError):
            descriptor = _opened(path)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _abandoned(path: Path) -> int | None:
    """A descriptor that locks a folder whose process has died; None if it lives, or that cannot be known."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(prefix: str) -> None:
    """Remove the folders of processes that have died."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # no folder, or it went away meanwhile
            if path.stat().st_uid == os.getuid() and (descriptor := _abandoned(path)) is not None:
                _remove(path, descriptor)


def _remove(path: Path, descriptor: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)
