"""Damage is found, named, and mended where it can be."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.config import read_config
from lifelong.context import ADAPTER
from lifelong.upkeep.fsck import examine
from stores import seals
from stores.backup import back_up
from stores.database import open_database, transaction
from stores.errors import DamagedError
from stores.integrity import faults
from stores.ledger import Ledger
from tests.runs.small import database

DATABASE = "lifelong.sqlite"
DATABASES = DATABASE, "backup"


def classes(root: Path) -> dict[str, list[Path]]:
    """The files of a run by what they are; second names and what SQLite keeps beside its file are left out."""
    found: dict[str, list[Path]] = {}
    inodes: set[int] = set()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or name == "run.lock" or name.endswith(("-wal", "-shm")):
            continue
        if path.stat().st_ino not in inodes:
            inodes.add(path.stat().st_ino)
            found.setdefault("config" if name.startswith("config") else name.split("/")[0], []).append(path)
    return found


def flip(path: Path, rng: np.random.Generator, at: int | None = None) -> bytes:
    """Change one byte of a file where it lies; returns what the file was."""
    before = path.read_bytes()
    data = bytearray(before)
    place = int(rng.integers(len(data))) if at is None else at
    data[place] ^= int(rng.integers(1, 256))
    put_back(path, bytes(data))
    return before


def put_back(path: Path, data: bytes) -> None:
    """Into the same inode, as damage would."""
    with path.open("r+b") as file:
        file.write(data)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def rows(path: Path) -> list[str]:
    """Schema and every row of a database."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def can_be_written(path: Path, scratch: Path) -> bool:
    connection = sqlite3.connect(shutil.copyfile(path, scratch))
    try:
        connection.execute("INSERT INTO meta VALUES ('written', '1')")
        connection.commit()
        return True
    finally:
        connection.close()
        scratch.unlink()


@pytest.mark.parametrize("flips", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_flip_in_content_that_matters_is_found_and_named(
    copied: Run,
    tmp_path: Path,
    figures: Callable[[str], None],
    flips: int,
) -> None:
    root = copied.root
    assert examine(root) == []
    files = classes(root)
    config = read_config(root / "config.yaml")
    contents = {path: rows(path) for kind in DATABASES for path in files[kind]}
    rng = np.random.default_rng(0)
    found, harmless = Counter[str](), Counter[str]()
    for number in range(flips):
        kind = list(files)[number % len(files)]
        path = files[kind][int(rng.integers(len(files[kind])))]
        before = flip(path, rng)
        problems = [problem for problem in examine(root) if problem.kind != "garbage"]
        if problems:
            found[kind] += 1
            (problem,) = problems
            folder = (
                path.relative_to(root).as_posix()
                if kind != "checkpoints"
                else f"checkpoints/{path.parent.name}"
            )
            assert problem.path == ("config.yaml" if kind == "config" else folder)
            assert problem.holds
            assert str(root / problem.path) in problem.message
        else:
            harmless[kind] += 1
            # Nothing that can be read has changed.
            if kind == "config":
                assert read_config(root / "config.yaml") == config
            else:
                assert kind in DATABASES, path
                assert rows(path) == contents[path]
                assert can_be_written(path, tmp_path / "scratch.sqlite")
        put_back(path, before)
    assert examine(root) == []
    assert sum(found.values()) > 0.6 * flips
    figures(
        f"flips: {flips} in {len(files)} kinds of files, found {dict(found)}, "
        f"in bytes that hold nothing {dict(harmless)}"
    )


@pytest.fixture
def bytes_of(copied: Run) -> Callable[[], dict[str, bytes]]:
    """Every file of the run; of the database, its rows."""

    def read() -> dict[str, bytes]:
        found = {
            path.relative_to(copied.root).as_posix(): path.read_bytes()
            for path in copied.root.rglob("*")
            if path.is_file() and not path.name.startswith(("lifelong.sqlite", "run.lock"))
        }
        return found | {DATABASE: "\n".join(database(copied)).encode()}

    return read


def rebuilt(run: Run) -> Iterator[Path]:
    """Files that follow from others: signals, clusters, scores, selection, order, decisions, answers."""
    for folder in ("shards", "timesteps"):
        yield from (path for path in classes(run.root)[folder])


def test_everything_that_follows_from_something_else_is_made_again_bit_for_bit(
    copied: Run,
    bytes_of: Callable[[], dict[str, bytes]],
    figures: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, digest = bytes_of(), copied.digest()
    rng = np.random.default_rng(1)
    damaged = list(rebuilt(copied))
    for path in damaged:
        flip(path, rng)
    assert bytes_of() != before
    assert invoke(["fsck", str(copied.root), "--repair", "--quiet"]) == 0, capsys.readouterr()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(damaged)
    assert all(line.startswith("repaired: ") for line in told)
    assert bytes_of() == before
    assert copied.digest() == digest
    assert examine(copied.root) == []
    figures(f"repairs: {len(damaged)} files flipped at once, all made again bit for bit")


@pytest.mark.parametrize("kind", ["signals", "clusters", "scores", "order", "answers", "decisions"])
def test_a_file_that_is_gone_is_made_again(
    kind: str,
    copied: Run,
    bytes_of: Callable[[], dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = bytes_of()
    path = next(path for path in rebuilt(copied) if path.name.startswith(f"{kind}-") and "0002" in path.parts)
    path.unlink()
    assert invoke(["fsck", str(copied.root)]) == 3
    assert "--repair` makes it again" in capsys.readouterr().out
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert bytes_of() == before


def test_the_database_is_put_back_as_the_last_timestep_left_it(
    copied: Run,
    bytes_of: Callable[[], dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, digest = bytes_of(), copied.digest()
    rng = np.random.default_rng(2)
    path = copied.root / DATABASE
    text = path.read_bytes().index(b"exact_match")
    for at in (0, 17, 56, text, len(path.read_bytes()) // 2):
        flip(path, rng, at)
    assert invoke(["fsck", str(copied.root)]) == 3
    assert f"damaged: {path} (pool and ledger of the run): " in capsys.readouterr().out
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert "as timestep 3 left it" in capsys.readouterr().out
    assert bytes_of() == before
    assert copied.digest() == digest
    path.unlink()
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert copied.digest() == digest


def test_a_damaged_copy_of_the_database_is_copied_again(copied: Run) -> None:
    backup = copied.root / "backup/database.sqlite"
    flip(backup, np.random.default_rng(3), backup.read_bytes().index(b"exact_match"))
    assert [problem.path for problem in examine(copied.root)] == ["backup/database.sqlite"]
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert faults(backup) == []


@pytest.mark.parametrize("what", ["media", "checkpoints"])
def test_what_cannot_be_made_again_is_said_to_be_so(
    what: str,
    copied: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = next(path for path in classes(copied.root)[what] if path.suffix in (".bin", ".safetensors"))
    before = flip(path, np.random.default_rng(4))
    assert invoke(["fsck", str(copied.root), "--repair"]) == 3
    captured = capsys.readouterr().out
    assert "cannot be made again" in captured
    assert "it cannot be made again here" in captured
    put_back(path, before)
    assert invoke(["fsck", str(copied.root)]) == 0


def test_without_its_last_adapter_a_run_goes_on_from_the_timestep_before(
    copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copied.status()["timestep"]
    with copied.reading() as stores:
        files = [each for each in stores.ledger.files() if each.kind == ADAPTER]
        adapters = {each.timestep: each.committed.path for each in files}
    shutil.rmtree(copied.root / adapters[last])
    assert invoke(["fsck", str(copied.root)]) == 3
    way = f"lifelong rollback {copied.root} --to {last - 1}"
    assert f"it cannot be made again here; the run can go on without it: `{way}`" in capsys.readouterr().out
    assert invoke(way.split()[1:]) == 0
    assert invoke(["fsck", str(copied.root)]) == 0
    assert copied.status()["timestep"] == last - 1

    shutil.rmtree(copied.root / adapters[last - 2])
    capsys.readouterr()
    assert invoke(["fsck", str(copied.root)]) == 3
    assert "rollback" not in capsys.readouterr().out


def test_what_came_out_otherwise_is_not_taken_for_a_repair(
    copied: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The pool's adapter of the timestep before is another one: signals measured with it are not those on record."""
    with copied.reading() as stores:
        shard = stores.ledger.shards(2)[0].path
    root = copied.root
    first, second = (next(root.glob(f"checkpoints/{timestep}-*")) for timestep in ("0000", "0001"))
    shutil.copyfile(first / "adapter_model.safetensors", second / "adapter_model.safetensors")
    flip(root / shard, np.random.default_rng(5))
    kept = set(root.rglob("*"))
    assert invoke(["fsck", str(root), "--repair"]) == 3
    assert "does not come out with the hash on record" in capsys.readouterr().out
    assert {path.name for path in set(root.rglob("*")) - kept} <= {
        "lifelong.sqlite-wal",
        "lifelong.sqlite-shm",
    }


def test_an_edited_configuration_is_told_and_is_no_damage(
    copied: Run,
    edit_config: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_config(copied, train={"epochs": 5})
    assert invoke(["fsck", str(copied.root)]) == 0
    assert "train.epochs was 1, is 5" in capsys.readouterr().out
    (copied.root / "config.yaml").write_text("seed: [")
    assert invoke(["fsck", str(copied.root)]) == 3
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert copied.config.train.epochs == 1


def test_a_byte_altered_in_the_log_of_a_killed_run_is_found(
    copied: Run,
    tmp_path: Path,
) -> None:
    """Commits that wait in the log would vanish behind an altered frame."""
    root = copied.root
    connection = sqlite3.connect(root / DATABASE, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    for number in range(8):
        connection.execute(
            "INSERT INTO evaluations VALUES (9, ?, 'exact_match', 0.5, NULL, 1)", [str(number)]
        )
    killed = tmp_path / "killed"
    shutil.copytree(root, killed, ignore=shutil.ignore_patterns("*-shm"))
    connection.close()
    log = killed / f"{DATABASE}-wal"
    whole = log.read_bytes()
    frames = (len(whole) - 32) // (4096 + 24)
    assert frames >= 8
    rng = np.random.default_rng(6)
    for at in [*range(32), *(32 + 4120 * each + int(rng.integers(4120)) for each in range(frames - 1))]:
        flip(log, rng, at)
        assert [problem.path for problem in examine(killed)] == [log.name], at
        put_back(log, whole)


def test_rows_are_sealed_through_every_kind_of_change(copied: Run) -> None:
    db = open_database(copied.root / DATABASE)
    ledger = Ledger(db, copied.root)
    with transaction(db):
        ledger.set_meta("one", 1)
        ledger.set_meta("one", {"text": "žluťoučký \U0001f642"})
        db.execute("UPDATE samples SET status = 'pruned', reason = 'test' WHERE ordinal % 2 = 0")
        db.execute("DELETE FROM shards WHERE timestep = 1")
        db.execute("UPDATE evaluations SET value = 1, stderr = 0.1")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('one', '2')")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('one', '3')")
        db.execute("UPDATE selections SET position = position + 1000")
        try:
            with transaction(db):
                ledger.set_meta("two", 2)
                raise KeyError
        except KeyError:
            pass
    assert seals.broken(db.conn) == []
    db.close()
    elsewhere = sqlite3.connect(copied.root / DATABASE)
    elsewhere.execute("UPDATE samples SET reason = 'x' WHERE ordinal = 1")
    elsewhere.commit()
    assert seals.broken(elsewhere) == ["samples"]
    elsewhere.close()


def test_a_second_name_that_is_a_copy_and_was_altered_is_given_again(copied: Run) -> None:
    alias = copied.root / "timesteps/0002/decisions.parquet"
    whole = alias.read_bytes()
    alias.unlink()
    alias.write_bytes(whole)
    assert examine(copied.root) == []
    flip(alias, np.random.default_rng(7))
    assert [problem.path for problem in examine(copied.root)] == ["timesteps/0002/decisions.parquet"]
    assert invoke(["fsck", str(copied.root), "--repair"]) == 0
    assert alias.read_bytes() == whole


def test_no_copy_is_made_of_a_damaged_database(copied: Run) -> None:
    backup = copied.root / "backup/database.sqlite"
    before = rows(backup)
    connection = sqlite3.connect(copied.root / DATABASE)
    connection.execute("UPDATE contents SET messages = messages || ' ' WHERE ordinal = 3")
    connection.commit()
    connection.close()
    db = open_database(copied.root / DATABASE)
    with pytest.raises(DamagedError, match=r"table contents \(conversations\) is altered.*fsck RUN --repair"):
        back_up(db, copied.root)
    db.close()
    assert rows(backup) == before
    assert [path.name for path in backup.parent.iterdir()] == [backup.name]
