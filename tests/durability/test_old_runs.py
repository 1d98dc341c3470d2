"""A run of every schema opens with today's code, goes on, and one of tomorrow's is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.upkeep.fsck import examine
from stores import database
from stores.database import open_database, schema_number
from stores.errors import StoreError
from stores.ledger import Ledger
from stores.migrations import MIGRATIONS, Migration
from tests.durability.growth import write_dataset
from tests.durability.make_old_run import MODEL, RUNS
from tests.durability.test_fsck import rows

FIXTURES = sorted(path.name for path in RUNS.iterdir())
DATABASE = "lifelong.sqlite"
NEXT = Migration(MIGRATIONS[-1].number + 1, "of tomorrow", "9.9.0", "CREATE TABLE tomorrow (name TEXT);")


@pytest.fixture(params=FIXTURES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A fixture run, to be changed."""
    return Path(shutil.copytree(RUNS / request.param, tmp_path / "run"))


def expected(run: Path) -> dict[str, Any]:
    return json.loads((run / "expected.json").read_text())


def number_of(run: Path) -> int:
    connection = sqlite3.connect(f"{(run / DATABASE).as_uri()}?mode=ro", uri=True)
    (number,) = connection.execute("SELECT max(number) FROM migrations").fetchone()
    connection.close()
    return int(number)


def test_there_is_a_run_of_every_schema() -> None:
    assert FIXTURES[0] == "schema-001"
    assert FIXTURES[-1] == f"schema-{MIGRATIONS[-1].number:03d}", (
        "make one: python -m tests.durability.make_old_run"
    )


def test_an_old_run_opens_and_says_what_it_said(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"schema-{number_of(old):03d}" in FIXTURES
    if number_of(old) < MIGRATIONS[-1].number:
        assert invoke(["status", str(old)]) == 3
        assert f"`lifelong resume {old}`" in capsys.readouterr().err.replace("RUN", str(old))
    assert invoke(["resume", str(old)]) == 0
    assert number_of(old) == MIGRATIONS[-1].number
    run, said = Run.open(old), expected(old)
    assert run.digest() == said["digest"]
    assert run.status()["pool"] == said["pool"]
    assert json.loads(run.skill_matrix().to_json()) == said["curves"]
    assert examine(old) == []
    capsys.readouterr()
    with run.reading() as stores:
        sample = next(stores.pool.rows([0])).sample_id
    assert invoke(["why", str(old), sample, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["samples"]
    assert [decision["timestep"] for decision in found["decisions"]]
    for command in (["status"], ["curves"], ["routes"], ["digest"], ["gc", "--dry-run"]):
        assert invoke([command[0], str(old), *command[1:]]) == 0


def test_an_old_run_is_fed(
    old: Path, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folders["llava"], tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    run = Run.open(old)
    before = expected(old)["pool"]["arrived"]
    status = run.feed(write_dataset(tmp_path / "data", 3), images=tmp_path / "data/images", skill="colours")
    assert (status["timestep"], status["phase"]) == (3, None)
    assert status["pool"]["arrived"] == before + 8
    assert examine(old) == []


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_migration_is_one_transaction(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_child: Callable[[Callable[[], None]], int]
) -> None:
    """Killed at any statement of the way from the first schema to the last, the run is whole and of one of them."""
    first = RUNS / FIXTURES[0]
    tables = {}
    for migration in MIGRATIONS:
        path = Path(shutil.copytree(first, tmp_path / f"reference-{migration.number}")) / DATABASE
        open_database(path, migrations=MIGRATIONS[: migration.number]).close()
        tables[migration.number] = rows(path)
    seen, instant, code = set(), 0, -signal.SIGKILL
    while code != 0:
        root = Path(shutil.copytree(first, tmp_path / f"killed-{instant}"))
        code = in_child(lambda root=root, instant=instant: migrate(root, instant, monkeypatch))
        assert code in (0, -signal.SIGKILL)
        seen.add(number_of(root))
        assert rows(root / DATABASE) == tables[number_of(root)]
        open_database(root / DATABASE).close()
        assert rows(root / DATABASE) == tables[MIGRATIONS[-1].number]
        shutil.rmtree(root)
        instant += every
    assert seen == {migration.number for migration in MIGRATIONS}


@pytest.fixture
def in_child() -> Callable[[Callable[[], None]], int]:
    """Runs a function in a forked child; gives its exit code, negative if a signal killed it."""

    def run(work: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


def migrate(root: Path, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open a run for writing, and die before the SQL statement after so many."""
    connect = sqlite3.connect

    def tick(statement: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(tick)
        return connection

    monkeypatch.setattr(database.sqlite3, "connect", traced)
    open_database(root / DATABASE).close()


@pytest.mark.parametrize("command", [["status"], ["resume"], ["fsck"], ["fsck", "--repair"], ["gc"]])
def test_a_run_of_a_newer_schema_is_refused_and_left_as_it_is(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(RUNS / FIXTURES[-1], tmp_path / "run"))
    open_database(root / DATABASE, migrations=[*MIGRATIONS, NEXT]).close()
    before = rows(root / DATABASE)
    assert invoke([command[0], str(root), *command[1:]]) == 3
    said = capsys.readouterr().err
    assert f"has schema {NEXT.number} and this package knows schemas up to {NEXT.number - 1}" in said
    assert "install lifelong 9.9.0 or newer" in said
    assert rows(root / DATABASE) == before


def test_an_old_run_that_is_damaged_is_not_migrated(tmp_path: Path) -> None:
    root = Path(shutil.copytree(RUNS / FIXTURES[-1], tmp_path / "run"))
    open_database(root / DATABASE).close()
    connection = sqlite3.connect(root / DATABASE)
    connection.execute("UPDATE samples SET reason = 'altered' WHERE ordinal = 0")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="altered in samples"):
        open_database(root / DATABASE, migrations=[*MIGRATIONS, NEXT])
    db = open_database(root / DATABASE)
    assert schema_number(db) == MIGRATIONS[-1].number
    assert Ledger(db, root).last_timestep() == 2
    db.close()
