"""What a disk can do to a run: fill up, fail, or lie on a network. Each told as an error with the fix."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stores.errors import DiskError

MOUNTS = Path("/proc/self/mounts")
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
        *(
            "fuse.glusterfs",
            "fuse.sshfs",
            "fuse.ceph",
            "fuse.s3fs",
            "fuse.gcsfuse",
            "fuse.rclone",
            "fuse.juicefs",
        ),
    }
)
_FULL = "Free space on that disk"
_FAULTY = "Check the disk (its health, its cables, the system's log), or copy the run to another one"
_FIXES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "Free space in your quota on that disk",
    errno.EIO: _FAULTY,
    errno.EROFS: "Mount that disk for writing",
    errno.EACCES: "Allow this user to write there",
    errno.EPERM: "Allow this user to write there",
}
_SQLITE_FIXES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FAULTY,
    sqlite3.SQLITE_READONLY: "Allow this user to write there",
    sqlite3.SQLITE_CANTOPEN: "Allow this user to write there, and see that the disk is there and has space",
    sqlite3.SQLITE_BUSY: "Wait until the other process that has it open for writing is done",
}
_GO_ON = "; a run then goes on with `lifelong resume RUN`, from its last commit"


_NUMBER = re.compile(r"(?:os error|errno) (\d+)")


@contextmanager
def naming_faults(path: Path) -> Iterator[None]:
    """Writes to `path` happen inside. Raises: DiskError for what the system says against them."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number not in _FIXES:
            raise
        raise DiskError(f"{path}: {os.strerror(number)}. {_FIXES[number]}{_GO_ON}.") from error


@contextmanager
def naming_faults_under(folder: Path) -> Iterator[None]:
    """Files under `folder` are used inside. Raises: DiskError for what the system says against one of them."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(folder):
            raise
        with naming_faults(Path(error.filename)):
            raise


@contextmanager
def naming_database_faults(path: Path) -> Iterator[None]:
    """The database at `path` is used inside. Raises: DiskError for what is its disk's fault, not the query's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # Errors of Python's own module, such as a closed connection, have no code.
        fix = _SQLITE_FIXES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if fix is None:
            raise
        raise DiskError(f"{path} (pool and ledger of the run): {error}. {fix}{_GO_ON}.") from error


def network_filesystem(path: Path, mounts: Path = MOUNTS) -> tuple[str, str] | None:
    """(type, where it is mounted) of the network file system that holds `path`; None if it is on a local disk.

    mounts: the system's table of mounts; where there is none (it is Linux's), every disk passes for local.
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    folder = Path(os.path.realpath(path))
    found: tuple[str, str] | None = None
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place, kind = Path(_plain(fields[1])), fields[2]
        # The deepest mount counts, and of two at one place the later.
        if folder.is_relative_to(place) and (found is None or len(place.parts) >= len(Path(found[1]).parts)):
            found = kind, str(place)
    return found if found is not None and found[0] in NETWORK else None


def _plain(name: str) -> str:
    """A path of the table of mounts, in which spaces and the like are octal: `\\040`."""
    for code in ("040", "011", "012", "134"):
        name = name.replace(f"\\{code}", chr(int(code, 8)))
    return name


def _number(error: OSError | SafetensorError) -> int:
    """The system's number of an error, 0 if unknown; safetensors and Arrow only write it into their message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    written = _NUMBER.search(str(error))
    return int(written[1]) if written else 0
