"""Whether a database file is sound: its structure, its schema, and every value in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from stores import seals
from stores.database import connect
from stores.disk import naming_database_faults
from stores.migrations import MIGRATIONS, MIGRATIONS_TABLE, Migration

_MODES = (b"\1\1", b"\2\2")
_MODES_AT = slice(18, 20)

HOLDS = {
    "contents": "conversations",
    "datasets": "datasets fed",
    "evals": "evaluation samples",
    "evaluations": "the skill matrix",
    "files": "hashes of what the phases left",
    "lengths": "tokens of each sample",
    "media": "where each image is",
    "meta": "identity and configuration of the run",
    "migrations": "version of the schema",
    "phases": "which phases are done",
    "places": "where each feature is",
    "refusals": "rows refused",
    "released": "hashes of what was let go",
    "samples": "samples and what became of them",
    "selections": "order of the selections",
    "shards": "hashes of the shards",
    "skills": "skills and their metrics",
}
"""What each table holds, in words."""


def faults(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
    """What is wrong with a database file, in words; empty if every value in it is as it was written.

    Bytes that hold nothing (free pages, gaps between rows, SQLite's change counters) do not matter and are not
    looked at. Raises: DiskError where it cannot be read without being written, and this process may not write there.
    """
    if not path.exists():
        return ["it is missing"]
    connection = connect(path, read_only=True)
    # Where nothing may be written, SQLite's complaint of that is no fault of the file.
    unwritable = not os.access(path.absolute().parent, os.W_OK)
    try:
        with naming_database_faults(path) if unwritable else nullcontext():
            # One snapshot for all that follows, whoever writes meanwhile.
            connection.execute("BEGIN")
            return (
                _header(path) + _structure(connection) + _schema(connection, migrations) + _values(connection)
            )
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return [f"it cannot be read: {error}"]
    finally:
        connection.close()


def _header(path: Path) -> list[str]:
    """The file-format versions, which SQLite reads as "read-only" or "another format" where they are altered."""
    with path.open("rb") as file:
        header = file.read(100)
    return [] if header[_MODES_AT] in _MODES else ["its header is altered"]


def _structure(connection: sqlite3.Connection) -> list[str]:
    found = [str(text) for (text,) in connection.execute("PRAGMA integrity_check(3)")]
    return [] if found == ["ok"] else [f"its pages are altered: {'; '.join(found)}"]


def _schema(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[str]:
    (number,) = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()
    if number > migrations[-1].number:
        return []  # of a newer package; the seal of `migrations` tells whether that is so
    with sqlite3.connect(":memory:", isolation_level=None) as fresh:
        fresh.execute(MIGRATIONS_TABLE)
        for migration in migrations:
            if migration.number <= number:
                fresh.executescript(migration.sql)
        expected = _objects(fresh)
    fresh.close()
    return [] if _objects(connection) == expected else ["its schema is altered"]


def _objects(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """What the schema defines."""
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())


def _values(connection: sqlite3.Connection) -> list[str]:
    return [
        f"table {table} ({HOLDS[table]}) is altered" if table in HOLDS else f"table {table} is altered"
        for table in seals.broken(connection)
    ]
