"""Seals: a running checksum of each table's rows, kept in the transactions that change them.

SQLite notices damage to the structure of its pages, and none to the values in them. A seal is the sum, modulo
2**62, of a 64-bit hash of every row: it is brought up to date by the rows that change, in constant time for each,
and does not depend on their order.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

_MASK = (1 << 62) - 1


def install(connection: sqlite3.Connection) -> None:
    """Keep the seals in step with whatever this connection writes; nothing if the schema has none."""
    if not _sealed(connection):
        return
    connection.create_function("seal_with", -1, _with, deterministic=True)
    connection.create_function("seal_without", -1, _without, deterministic=True)
    for table in tables(connection):
        columns = _columns(connection, table)
        new, old = (", ".join(f'{row}."{name}"' for name in columns) for row in ("NEW", "OLD"))
        for event, change in (
            ("INSERT", f"seal_with(seal, {new})"),
            ("DELETE", f"seal_without(seal, {old})"),
            ("UPDATE", f"seal_with(seal_without(seal, {old}), {new})"),
        ):
            connection.execute(
                f'CREATE TEMP TRIGGER "seal {event} {table}" AFTER {event} ON main."{table}"'
                f" BEGIN UPDATE seals SET seal = {change} WHERE name = '{table}'; END"
            )


def seal(connection: sqlite3.Connection) -> None:
    """Seal every table as it is now, inside the caller's transaction; nothing if the schema has no seals."""
    if _sealed(connection):
        found = [(table, _sum(connection, table)) for table in tables(connection)]
        connection.execute("DELETE FROM seals")
        connection.executemany("INSERT INTO seals VALUES (?, ?)", found)


def broken(connection: sqlite3.Connection) -> list[str]:
    """Names of the tables whose rows are not those that were written; none if the schema has no seals.

    Raises: sqlite3.Error or UnicodeDecodeError where a table cannot be read at all.
    """
    if not _sealed(connection):
        return []
    kept = dict(connection.execute("SELECT name, seal FROM seals").fetchall())
    names = sorted({*kept, *tables(connection)}, key=str)
    return [str(name) for name in names if kept.get(name) != _sum(connection, name)]


def tables(connection: sqlite3.Connection) -> list[str]:
    """The tables that have a seal, by name."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'seals'"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    )
    return [name for (name,) in found]


def _sealed(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seals'")
    return found.fetchone() is not None


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f'PRAGMA main.table_info("{table}")')]


def _sum(connection: sqlite3.Connection, table: Any) -> int:
    total = 0
    # NOT INDEXED: the rows as the table has them, not as an index that covers its columns does.
    for row in connection.execute(f'SELECT * FROM "{table}" NOT INDEXED'):
        total += _hash(row)
    return total & _MASK


def _hash(row: tuple[Any, ...]) -> int:
    # Of ascii(), not repr(): what that leaves unescaped depends on Python's Unicode tables.
    return int.from_bytes(hashlib.blake2b(ascii(row).encode(), digest_size=8).digest(), "big")


def _with(seal: int, *row: Any) -> int:
    return (seal + _hash(row)) & _MASK


def _without(seal: int, *row: Any) -> int:
    return (seal - _hash(row)) & _MASK
