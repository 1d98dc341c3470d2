from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from stores import database
from stores.database import open_database, require_transaction, schema_number, transaction
from stores.errors import DamagedError, DiskError, StoreError
from stores.integrity import faults
from stores.ledger import Ledger
from stores.migrations import MIGRATIONS, Migration

NEXT = Migration(MIGRATIONS[-1].number + 1, "add colours", "9.9.0", "CREATE TABLE colours (name TEXT);")


def test_a_new_database_is_durable_and_has_the_whole_schema(db: Database) -> None:
    assert db.journal_mode == "wal"
    pragmas = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "foreign_keys")}
    assert pragmas == {"synchronous": 2, "foreign_keys": 1}
    samples = {"datasets", "samples", "contents", "lengths", "refusals", "media", "skills", "evals"}
    ledger = {"meta", "phases", "shards", "files", "released", "evaluations", "selections"}
    steering = {"undone", "events", "retired", "forecasts"}
    assert set(db.table_names()) == samples | ledger | steering | {"migrations", "seals"}
    recorded = db.execute("SELECT number, name, since FROM migrations").fetchall()
    assert recorded == [(each.number, each.name, each.since) for each in MIGRATIONS]


def test_opening_again_changes_nothing(tmp_path: Path, db: Database) -> None:
    schema = db.schema
    again = open_database(tmp_path / "run.db")
    assert again.schema == schema
    assert schema_number(again) == MIGRATIONS[-1].number
    again.close()


def test_a_later_migration_is_applied_to_an_older_database(tmp_path: Path, db: Database) -> None:
    Ledger(db, tmp_path).set_meta("kept", 1)
    with pytest.raises(StoreError, match="lifelong resume"):
        open_database(tmp_path / "run.db", read_only=True, migrations=[*MIGRATIONS, NEXT])
    newer = open_database(tmp_path / "run.db", migrations=[*MIGRATIONS, NEXT])
    assert newer["colours"].exists()
    assert Ledger(newer, tmp_path).get_meta("kept") == 1
    newer.close()


def test_a_failing_migration_leaves_neither_change_nor_record(tmp_path: Path, db: Database) -> None:
    broken = Migration(NEXT.number, "broken", "9.9.0", "CREATE TABLE colours (name TEXT); SELECT nonsense;")
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        open_database(tmp_path / "run.db", migrations=[*MIGRATIONS, broken])
    assert not db["colours"].exists()
    assert schema_number(db) == MIGRATIONS[-1].number


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_says_which_version_is_needed(tmp_path: Path, read_only: bool) -> None:
    open_database(tmp_path / "run.db", migrations=[*MIGRATIONS, NEXT]).close()
    told = rf"has schema {NEXT.number} .* up to {NEXT.number - 1}: install lifelong 9\.9\.0 or newer"
    with pytest.raises(DamagedError, match=told):
        open_database(tmp_path / "run.db", read_only=read_only)


def test_what_is_no_database_is_damaged_and_what_is_absent_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(DamagedError, match="pool and ledger of the run"):
        open_database(tmp_path / "run.db")
    with pytest.raises(StoreError, match="lifelong init"):
        open_database(tmp_path / "absent.db", read_only=True)
    assert not (tmp_path / "absent.db").exists()


def test_transaction_keeps_all_or_nothing(tmp_path: Path, db: Database) -> None:
    ledger = Ledger(db, tmp_path)

    def set_and_fail(key: str) -> None:
        with transaction(db):
            ledger.set_meta(key, 0)
            raise RuntimeError("after the write")

    with pytest.raises(RuntimeError, match="after the write"):
        set_and_fail("a")
    with transaction(db):
        ledger.set_meta("b", 2)
        with pytest.raises(RuntimeError, match="after the write"):
            set_and_fail("c")
        ledger.set_meta("d", 4)
    assert [ledger.get_meta(key) for key in "abcd"] == [None, 2, None, 4]
    assert not db.conn.in_transaction


def test_what_must_be_in_a_transaction_says_so(db: Database) -> None:
    with pytest.raises(StoreError, match=r"Pool\.add writes rows that belong to one commit"):
        require_transaction(db, "Pool.add")
    with transaction(db):
        require_transaction(db, "Pool.add")


def test_readers_read_while_a_writer_writes(tmp_path: Path, db: Database) -> None:
    Ledger(db, tmp_path).set_meta("step", 1)
    reader = open_database(tmp_path / "run.db", read_only=True)
    with transaction(db):
        Ledger(db, tmp_path).set_meta("step", 2)
        assert Ledger(reader, tmp_path).get_meta("step") == 1
        late = open_database(tmp_path / "run.db", read_only=True)
        assert Ledger(late, tmp_path).get_meta("step") == 1
        late.close()
    assert Ledger(reader, tmp_path).get_meta("step") == 2
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        Ledger(reader, tmp_path).set_meta("step", 3)
    reader.close()


def test_a_reader_opens_what_a_killed_writer_left(tmp_path: Path, in_child, die) -> None:
    def work() -> None:
        ledger = Ledger(open_database(tmp_path / "run.db"), tmp_path)
        ledger.set_meta("step", 1)
        with transaction(ledger.db):
            ledger.set_meta("step", 2)
            die()

    assert in_child(work) == -signal.SIGKILL
    assert (tmp_path / "run.db-wal").stat().st_size > 0
    reader = open_database(tmp_path / "run.db", read_only=True)
    assert Ledger(reader, tmp_path).get_meta("step") == 1
    reader.close()


def give_up_privileges() -> None:
    """Have this process, even if it is root's, obey the permissions of files: Linux's capset, with no capability."""
    version_and_pid, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(version_and_pid, none):
        raise OSError(ctypes.get_errno(), "capset")


def test_where_nothing_may_be_written_a_database_is_read_and_proved(
    tmp_path: Path, db: Database, in_child
) -> None:
    Ledger(db, tmp_path).set_meta("step", 1)
    db.close()

    def read() -> None:
        give_up_privileges()
        reader = open_database(tmp_path / "run.db", read_only=True)
        assert Ledger(reader, tmp_path).get_meta("step") == 1
        reader.close()
        assert faults(tmp_path / "run.db") == []

    tmp_path.chmod(0o555)
    try:
        assert in_child(read) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    finally:
        tmp_path.chmod(0o755)


def test_a_log_that_cannot_be_taken_in_is_no_damage_and_not_passed_over(
    tmp_path: Path, db: Database, in_child
) -> None:
    Ledger(db, tmp_path).set_meta("step", 1)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("run.db", "run.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())

    def read() -> None:
        give_up_privileges()
        for look in (lambda path: open_database(path, read_only=True), faults):
            with pytest.raises(DiskError, match="Allow this user to write there"):
                look(copy / "run.db")

    copy.chmod(0o555)
    try:
        assert in_child(read) == 0
    finally:
        copy.chmod(0o755)


def test_killed_at_any_statement_of_a_migration_the_next_opening_completes_it(
    tmp_path: Path, in_child, die, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_connect = sqlite3.connect
    left = 0

    def tick(statement: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            die()

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = real_connect(*arguments, **options)
        connection.set_trace_callback(tick)
        return connection

    def work() -> None:
        monkeypatch.setattr(database.sqlite3, "connect", connect)
        open_database(tmp_path / f"{instant}.db")

    instant = 0
    code = -signal.SIGKILL
    while code != 0:
        left = instant
        code = in_child(work)
        assert code in (0, -signal.SIGKILL)
        reopened = open_database(tmp_path / f"{instant}.db")
        assert schema_number(reopened) == MIGRATIONS[-1].number
        assert reopened["selections"].exists()
        reopened.close()
        instant += 1
    assert instant > 20
