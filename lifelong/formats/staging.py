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
from stores.commit import fsync_folder


def write_file(out: Path, write: Callable[[Path], Any]) -> None:
    """Put in the place of `out` the file that `write(temporary_path)` makes, for good, or leave `out` as it was."""
    with _staged(out) as path:
        write(path)
        _fsync(path)


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A temporary path beside `out` that takes its place at the end, or is removed if anything goes wrong."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f".{out.name}.part-{secrets.token_hex(8)}"
    try:
        yield path
        os.replace(path, out)
        fsync_folder(out.parent)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or is removed if anything goes wrong.

    Raises: DatasetError if `out` exists.
    """
    if out.exists():
        raise DatasetError(f"{out} exists; name a folder that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.part-", dir=out.parent) as name:
        folder = Path(name) / "whole"
        folder.mkdir()
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                _fsync(path)
        os.replace(folder, out)
        fsync_folder(out.parent)
