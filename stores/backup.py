"""A copy of the run's database as the last finished timestep left it, proved sound before it takes its place."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlite_utils import Database

from stores.clock import kept
from stores.commit import put, stage
from stores.errors import DamagedError
from stores.integrity import faults

BACKUP_FOLDER = "backup"
BACKUP = f"{BACKUP_FOLDER}/database.sqlite"

KNOWN_PATHS = (
    "SELECT path FROM files UNION SELECT path FROM shards UNION SELECT path FROM media WHERE kind = 'packed'"
)
KNOWN_UNDONE = """
SELECT json_extract(was, '$.path') FROM undone WHERE change = 'removed' AND "table" IN ('files', 'shards')
"""
"""Paths of timesteps that were taken back: they stay until `gc`."""
_FINISHED = "SELECT max(timestep) FROM phases WHERE phase = 'prune'"


@kept
def back_up(db: Database, root: Path) -> None:
    """Replace the copy by one of the database as it is now.

    Raises: DamagedError if the database is damaged; the copy is then the one before.
    """
    staged = stage(root, BACKUP_FOLDER, ".sqlite")
    try:
        try:
            db.execute("VACUUM INTO ?", [str(staged)])
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise _damaged(db, str(error)) from error
        if wrong := faults(staged):
            raise _damaged(db, "; ".join(wrong))
        put(staged, root / BACKUP)
    finally:
        for each in staged.parent.glob(f"{staged.name}*"):
            each.unlink()


@kept
def is_current(db: Database, root: Path) -> bool:
    """Whether the copy is of the last finished timestep and needs no file that the database has let go."""
    with _opened(root) as copy:
        if copy is None:
            return False
        finished = set(copy.execute(_FINISHED)) == set(db.execute(_FINISHED))
        return finished and known_paths(copy) == known_paths(db.conn)


def known_paths(connection: sqlite3.Connection) -> set[str]:
    """Every path that a row of a database points to, those of timesteps taken back included."""
    known = {path for (path,) in connection.execute(KNOWN_PATHS)}
    # A copy made by an earlier version has no such table.
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'undone'").fetchone() is not None:
        known |= {path for (path,) in connection.execute(KNOWN_UNDONE)}
    return known


def paths_in_backup(root: Path) -> set[str]:
    """The paths that rows of the copy point to: they stay until the next copy is made."""
    with _opened(root) as copy:
        return set() if copy is None else known_paths(copy)


def timestep_of_backup(root: Path) -> int | None:
    """The last timestep that the copy has finished, or None."""
    with _opened(root) as copy:
        return None if copy is None else copy.execute(_FINISHED).fetchone()[0]


def restore(root: Path, database: Path) -> None:
    """Put a copy of the copy in the database's place; only while holding the run's lock.

    Raises: DamagedError if there is no copy or it is damaged itself.
    """
    if wrong := faults(root / BACKUP):
        raise DamagedError(
            f"{root / BACKUP} (copy of the database): {'; '.join(wrong)}. Restore it from a backup."
        )
    staged = stage(root, BACKUP_FOLDER, ".sqlite")
    try:
        shutil.copyfile(root / BACKUP, staged)
        # A log that is left beside the file would be played back into the copy.
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        put(staged, database)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _opened(root: Path) -> Iterator[sqlite3.Connection | None]:
    """The copy, to read; None if there is none or it cannot be read."""
    path = root / BACKUP
    if not path.exists():
        yield None
        return
    # Nobody writes to the copy: no lock, no log beside it.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as copy:
        try:
            copy.execute(KNOWN_PATHS).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            readable = None
        else:
            readable = copy
        yield readable


def _damaged(db: Database, what: str) -> DamagedError:
    (path,) = (row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
    return DamagedError(
        f"{path} (pool and ledger of the run): {what}. Put it back as the last timestep left it with "
        "`lifelong fsck RUN --repair`."
    )
