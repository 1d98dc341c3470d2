"""Files and folders that appear under their names when they are complete, and not at all otherwise."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifelong.formats.faults import DatasetError
from stores.commit import fsync_folder, share


def write_file(out: Path, write: Callable[[Path], Any]) -> None:
    """Put in the place of `out` the file that `write(temporary_path)` makes, for good, or leave `out` as it was."""
    with _staged(out) as path:
        write(path)
        _fsync(path)


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def require_place(out: Path) -> Path:
    """Make the folder of `out`, for a file of this name; returns a temporary path beside it that can be written.

    Whoever has long work before the writing asks for the place first.
    Raises: DatasetError if no such file can be written.
    """
    if out.exists() and not out.is_file():
        raise DatasetError(f"cannot write {out}: it is there and no file; name another file")
    path = out.parent / f".{out.name}.part-{secrets.token_hex(8)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        fix = "name a file in a folder that can be written"
        raise DatasetError(f"cannot write {out}: {error.strerror}; {fix}") from None
    return path


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A temporary path beside `out` that takes its place at the end, or is removed if anything goes wrong."""
    path = require_place(out)
    try:
        yield path
        os.replace(path, out)
        fsync_folder(out.parent)
    finally:
        path.unlink(missing_ok=True)


def require_no_folder(out: Path) -> None:
    """Raises: DatasetError if `out` exists, or cannot be made."""
    if out.exists():
        raise DatasetError(f"{out} exists; name a folder that does not")
    require_place(out)


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or is removed if anything goes wrong.

    Raises: DatasetError if `out` exists, or cannot be made.
    """
    require_no_folder(out)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.part-", dir=out.parent) as name:
        folder = Path(name) / "whole"
        folder.mkdir()
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                share(path, folder)
                _fsync(path)
        os.replace(folder, out)
        fsync_folder(out.parent)
