"""Retiring: what must go is nowhere in the run's files, does not come back, and a clean model can be rebuilt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.upkeep.fsck import examine
from stores.shards import read_shard
from tests.steer.conftest import Steps, killed

Captured = pytest.CaptureFixture[str]


def holding(root: Path, *needles: bytes) -> list[str]:
    """Files of a run that hold one of some bytes."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return [path.name for path in paths if any(needle in path.read_bytes() for needle in needles)]


def traces(steps: Steps, number: int) -> list[bytes]:
    """A word of each question of a dataset, and the middle of each of its pictures' files."""
    pictures = [path.read_bytes()[40:200] for path in sorted((steps.data / "images").glob(f"{number}-*.png"))]
    assert len(pictures) == 4
    return [f"of set {number}?".encode(), *pictures]


def test_nothing_of_a_retired_dataset_is_left(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = steps.copy(3, tmp_path / "run")
    assert len(set(holding(run.root, *traces(steps, 2)))) >= 3
    with run.reading() as stores:
        ordinals = list(range(8, 16))
        ids = [row.sample_id for row in stores.pool.rows(ordinals)]
        trained = [t for t in (1, 2, 3) if np.isin(stores.ledger.selection(t), ordinals).any()]
    assert invoke(["retire", str(run.root), "--dataset", "set2", "--reason", "licence", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["trained_on"], told["tainted"], told["clean"]) == (8, trained, [2, 3], 1)
    assert holding(run.root, *traces(steps, 2)) == []
    assert holding(run.root, *traces(steps, 1)) != []
    assert examine(run.root) == []
    pool = run.status()["pool"]
    assert (pool["arrived"], pool["retired"]) == (24, 8)
    with run.reading() as stores:
        assert not set(stores.pool.arrays()["ordinal"].tolist()) & set(ordinals)
        for shard in stores.ledger.shards():
            arrays = read_shard(run.root / shard.path)
            rows = np.isin(arrays["ordinal"], ordinals)
            for name in set(arrays) - {"ordinal", "faults", "halved"}:
                assert not np.nan_to_num(arrays[name][rows].astype(float)).any(), f"{shard.path} {name}"
    assert invoke(["why", str(run.root), ids[0]]) == 0
    assert "retired: licence" in capsys.readouterr().out
    for option in ([], ["--timestep", "2"]):
        assert invoke(["export", str(run.root), "--out", str(tmp_path / "out.json"), *option]) == 0
        assert "of set 2?" not in (tmp_path / "out.json").read_text()
    # It does not come back: not by being fed again, nor by going back.
    feed = ["feed", str(run.root), str(steps.data / "set2.json"), "--images", str(steps.data / "images")]
    shutil.copy(steps.data / "set2.json", tmp_path / "again.json")
    feed[2] = str(tmp_path / "again.json")
    assert invoke(feed) == 1
    assert "8 have come before" in capsys.readouterr().err
    run.rollback(1)
    assert invoke(feed) == 1


def test_a_clean_model_is_rebuilt_in_one_command(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = steps.copy(3, tmp_path / "run")
    new = tmp_path / "clean"
    assert (
        invoke(["retire", str(run.root), "--dataset", "set2", "--reason", "licence", "--rebuild", str(new)])
        == 0
    )
    assert "timestep 1" in capsys.readouterr().out
    clean = Run.open(new)
    with clean.reading() as stores:
        assert [each.name for each in stores.pool.datasets()] == ["set1", "set3"]
        assert stores.ledger.get_meta("origin")["timestep"] == 1
    assert holding(new, *traces(steps, 2)) == []
    assert examine(new) == []
    # It is the model that a run without that dataset would have.
    never = steps.copy(1, tmp_path / "never")
    steps.feed(never, 3)
    assert clean.digest() == never.digest()


def test_a_person_is_found_by_what_is_said(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = steps.copy(3, tmp_path / "run")
    run.fork(tmp_path / "fork", 3)
    before = Run.open(tmp_path / "fork").digest()
    where = "text LIKE '%picture 3 of set 1?%'"
    command = ["retire", str(run.root), "--where", where, "--reason", "a person's request"]
    assert invoke([*command, "--dry-run"]) == 0
    assert "1 samples would be retired" in capsys.readouterr().out
    assert invoke(command) == 0
    assert holding(run.root, b"picture 3 of set 1?") == []
    assert holding(run.root, b"picture 2 of set 1?") != []
    assert examine(run.root) == []
    # Its picture is that of the row before it, which stays.
    with run.reading() as stores:
        (neighbour,) = [row for row in stores.pool.rows(range(8)) if row.source_id == "1-2"]
        assert stores.media.read(neighbour.images[0])
    assert invoke(command) == 1
    assert "nothing to retire" in capsys.readouterr().err
    assert invoke(["retire", str(run.root), "--where", "1; DELETE FROM samples", "--reason", "x"]) == 2
    assert invoke(["retire", str(run.root), "--sample", "nosuch", "--reason", "x"]) == 1
    assert invoke(["retire", str(run.root), "--reason", "x"]) == 2
    # A fork is a run of its own.
    assert Run.open(tmp_path / "fork").digest() == before
    assert examine(tmp_path / "fork") == []


@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_a_retirement_killed_at_any_instant_is_finished_by_whatever_writes_next(
    steps: Steps, every: int, tmp_path: Path
) -> None:
    expected = None
    instant, code, finished = 0, -9, 0
    while code != 0:
        run = steps.copy(3, tmp_path / "run")
        code = killed(lambda run=run: run.retire("licence", dataset="set2"), instant)
        assert code in (0, -9)
        with run.writing():
            pass
        assert examine(run.root) == []
        if "retired" in run.status()["pool"]:
            finished += 1
            assert holding(run.root, *traces(steps, 2)) == []
            expected = expected or run.digest()
            assert run.digest() == expected
        else:
            assert run.digest() == Run.open(steps.states[3]).digest()
        shutil.rmtree(run.root)
        instant += every
    assert finished > 1
