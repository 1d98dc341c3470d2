"""A disk under a test's command: kills, failures and a log of every durable operation of a child process.

`disk.c`, loaded into the children by LD_PRELOAD, sees what Python, SQLite, Arrow and safetensors do to the files
under one folder. It is compiled by the machine's C compiler; where there is none, the tests are skipped.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, Literal

import pytest

SOURCE = Path(__file__).with_name("disk.c")
_RECORD = struct.Struct("=IIIIQQQ")
_DOING = ("count", "kill", "tear", "fail", "short", "hold")


class Op(IntFlag):
    """The durable operations; the numbers are those of disk.c."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 4
    FSYNC = 8
    RENAME = 16
    LINK = 32
    UNLINK = 64
    MKDIR = 128
    RMDIR = 256
    MARK = 512


ALL = Op.MARK - 1


@dataclass(frozen=True, slots=True)
class Order:
    """What the disk does to a child that works in the folder `root`.

    do: kill before the `at`-th operation of the kinds given (from 1), tear it (half of a write, then kill), fail
    with `error`, cut a write short, or hold the child until `held` is removed. for_good: every later operation too.
    log: file that every operation is written to.
    """

    root: str
    do: Literal["count", "kill", "tear", "fail", "short", "hold"] = "count"
    at: int = 0
    error: int = errno.EIO
    for_good: bool = False
    kinds: int = ALL
    held: str = ""
    log: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the log: what was done to which file. second: the new name of a rename or link."""

    op: Op
    path: str
    second: str
    inode: int
    offset: int
    data: bytes


def compiled(folder: Path) -> Path:
    """The library, compiled into `folder`; skips the test where that is not possible."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the disk under command is loaded by LD_PRELOAD, which is Linux's")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) to make the disk under command with: install one")
    library = folder / "disk.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    done = subprocess.run(
        [compiler, *flags, "-o", str(library), str(SOURCE), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return library


def arm(order: Order) -> None:
    """Give the order to the disk of this very process, which was started with the library loaded."""
    log = -1
    if order.log:
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    integer, text = ctypes.c_int, ctypes.c_char_p
    disk = ctypes.CDLL(None).disk_arm
    disk.argtypes = [text, text, ctypes.c_long, integer, integer, integer, integer, integer]
    disk(
        os.fsencode(order.root),
        os.fsencode(order.held),
        order.at,
        _DOING.index(order.do),
        order.error,
        int(order.for_good),
        int(order.kinds),
        log,
    )


def mark(text: str) -> None:
    """Write a line of one's own into the log, between the operations."""
    ctypes.CDLL(None).disk_mark(text.encode())


def read_log(path: Path) -> Iterator[Operation]:
    """The operations of a log, in order."""
    with path.open("rb") as file:
        while head := file.read(_RECORD.size):
            op, first, second, _, inode, offset, size = _RECORD.unpack(head)
            paths = [os.fsdecode(file.read(length)) for length in (first, second)]
            yield Operation(Op(op), paths[0], paths[1], inode, offset, file.read(size))


def release(held: Path) -> None:
    """Let a held child go on."""
    with suppress(FileNotFoundError):
        held.unlink()
