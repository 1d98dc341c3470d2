"""The run's SQLite database: opening, migrating, and transactions that are all or nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database

from stores import seals
from stores.clock import kept
from stores.commit import fsync_folder
from stores.disk import naming_database_faults, network_filesystem
from stores.errors import DamagedError, StoreError
from stores.migrations import MIGRATIONS, MIGRATIONS_TABLE, Migration

BUSY_SECONDS = 30
CACHE_KIB = 256 * 1024
"""At most; the index of sample ids, of which a large ingest touches any page at any time, must fit."""
WAL_BYTES_KEPT = 64 << 20


def open_database(
    path: Path, *, read_only: bool = False, migrations: Sequence[Migration] = MIGRATIONS
) -> Database:
    """Open the database at `path`, bringing its schema up to date; made if it does not exist.

    With `read_only` nothing is made or changed, and reading works while another process writes.
    Raises: DamagedError if the file is no database or is of a newer version of the package; StoreError if it
    is absent or too old to be read without being changed, or to be written on a network file system; DiskError if
    its disk is full or faulty.
    """
    if read_only and not path.exists():
        raise StoreError(f"{path}: no database here. Make the run first with `lifelong init`.")
    if not read_only:
        _refuse_network(path)
    with naming_database_faults(path):
        return _open(path, read_only, migrations)


def _open(path: Path, read_only: bool, migrations: Sequence[Migration]) -> Database:
    connection = connect(path, read_only=read_only)
    try:
        db = Database(connection, execute_plugins=False)
        if not read_only:
            db.enable_wal()
            db.execute("PRAGMA synchronous = FULL")
            # After a large ingest the write-ahead log would otherwise keep its size for good.
            db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        _bring_up_to_date(db, path, migrations, read_only)
        if not read_only:
            seals.install(db.conn)
    except sqlite3.OperationalError:
        # Full disk, no permission, still busy: the file itself is not at fault.
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise DamagedError(
            f"{path} (pool and ledger of the run) cannot be read: {error}. "
            "Restore it, with its -wal file, from a backup."
        ) from error
    except BaseException:
        connection.close()
        raise
    return db


@contextmanager
def transaction(db: Database) -> Iterator[Database]:
    """All or nothing: what is written inside is kept if the block ends well, else none of it.

    Inside another transaction this is a savepoint of it, kept only if the outer one is.
    """
    if db.conn.in_transaction:
        with db.atomic():
            yield db
        return
    # IMMEDIATE takes the write lock now: a reader that turns writer later could fail half-way.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        kept(db.commit)()
    except BaseException:
        db.rollback()
        raise


@contextmanager
def snapshot(db: Database) -> Iterator[Database]:
    """For the block, what is read is of one moment, whatever another process writes meanwhile."""
    db.execute("BEGIN")
    try:
        yield db
    finally:
        db.rollback()


def require_transaction(db: Database, what: str) -> None:
    """Raises: StoreError unless a transaction is open."""
    if not db.conn.in_transaction:
        raise StoreError(
            f"{what} writes rows that belong to one commit: call it inside `with transaction(db)`"
        )


def schema_number(db: Database) -> int:
    """Number of the last migration applied; 0 for an empty database."""
    if not db["migrations"].exists():
        return 0
    return int(db.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0])


def _refuse_network(path: Path) -> None:
    """The write-ahead log needs memory that all its users share; machines share none over a network."""
    if found := network_filesystem(path.absolute().parent):
        kind, mounted = found
        raise StoreError(
            f"{path} would lie on a network file system ({kind}, mounted at {mounted}): SQLite's write-ahead log "
            "works only among the processes of one machine, and its locks cannot be trusted over a network, so "
            "that two machines could ruin it. Put the run on a local disk (reading a copy here works)."
        )


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection to the file at `path`, whatever it holds; made if it does not exist and `read_only` is not set."""
    # isolation_level=None: the driver opens no transaction of its own; `transaction` alone decides.
    mode = "rwc" if not read_only else "ro&immutable=1" if _rests(path) else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _rests(path: Path) -> bool:
    """Whether all of a database is in its file, where this process cannot make what SQLite puts beside it to read.

    A log or its index beside it are another process's, or hold commits that the file does not have yet.
    """
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    waiting = index.exists() or (log.exists() and log.stat().st_size > 0)
    return not waiting and not os.access(path.absolute().parent, os.W_OK)


def _bring_up_to_date(db: Database, path: Path, migrations: Sequence[Migration], read_only: bool) -> None:
    newest = migrations[-1].number
    current = schema_number(db)
    if current > newest:
        since = db.execute("SELECT since FROM migrations WHERE number = ?", [current]).fetchone()[0]
        raise DamagedError(
            f"{path} (pool and ledger of the run) has schema {current} and this package knows schemas up to "
            f"{newest}: install lifelong {since} or newer."
        )
    if current == newest:
        return
    if read_only:
        raise StoreError(
            f"{path} has schema {current} and this package reads schema {newest}: "
            "open the run once for writing with `lifelong resume RUN`, which brings it up to date."
        )
    # A migration seals what it finds: damage that is there must show before it.
    if altered := seals.broken(db.conn):
        raise DamagedError(
            f"{path} (pool and ledger of the run): altered in {', '.join(altered)}. Before this version of the "
            "package can take it over, put it back with `lifelong fsck RUN --repair` of the version that wrote it."
        )
    for migration in migrations:
        if migration.number > current:
            _apply(db, migration)
    fsync_folder(path.absolute().parent)


def _apply(db: Database, migration: Migration) -> None:
    with transaction(db):
        if not db["migrations"].exists():
            db.execute(MIGRATIONS_TABLE)
        # Another process may have come first, between our look at the schema and our write lock.
        if schema_number(db) >= migration.number:
            return
        db.executescript(migration.sql)
        db.execute(
            "INSERT INTO migrations (number, name, since) VALUES (?, ?, ?)",
            [migration.number, migration.name, migration.since],
        )
        seals.seal(db.conn)
