from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from sqlite_utils import Database

from stores.commit import Committed, commit_bytes
from stores.errors import DamagedError, StoreError
from stores.ledger import PHASES, Evaluation, FileRecord, Ledger, PhaseRecord
from stores.pool import Arrival, Pool
from stores.shards import Shard


@pytest.fixture
def ledger(db: Database, tmp_path: Path) -> Ledger:
    return Ledger(db, tmp_path)


def decisions(ledger: Ledger, data: bytes = b"table") -> Committed:
    return commit_bytes(ledger.root, "timesteps/0001", "decisions", ".parquet", data)


def seconds_since(stamp: str) -> float:
    assert stamp.endswith("Z")
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


def done(ledger: Ledger, timestep: int, phase: str) -> None:
    ledger.commit(timestep, phase, seed=1, result={}, seconds=0.5)


def test_a_phase_is_recorded_with_its_files(ledger: Ledger) -> None:
    committed = decisions(ledger)
    seed = 2**127 + 1
    result = {"clusters": 3, "names": ["é"]}
    ledger.commit(1, "select", seed=seed, result=result, seconds=1.5, files=[("decisions", committed)])
    assert ledger.phase(1, "select") == PhaseRecord(1, "select", seed, result, 1.5)
    assert 0 <= seconds_since(ledger.phase(1, "select").finished) < 60
    assert ledger.phase(1, "train") is None
    assert ledger.files() == ledger.files(1) == [FileRecord(committed, 1, "select", "decisions")]
    assert ledger.files(2) == []
    assert ledger.file(1, "decisions", full=True) == ledger.root / committed.path


def test_a_phase_happens_once(ledger: Ledger) -> None:
    done(ledger, 1, "select")
    with pytest.raises(StoreError, match="timestep 1: phase 'select' is committed already"):
        done(ledger, 1, "select")
    done(ledger, 2, "select")


def test_a_kind_occurs_once_in_a_timestep(ledger: Ledger) -> None:
    ledger.commit(1, "select", seed=1, result={}, seconds=0, files=[("decisions", decisions(ledger))])
    again = [("decisions", decisions(ledger, b"other"))]
    with pytest.raises(StoreError, match="has a file of kind 'decisions' already"):
        ledger.commit(1, "prune", seed=1, result={}, seconds=0, files=again)
    assert ledger.phase(1, "prune") is None


def test_a_failing_apply_leaves_nothing(ledger: Ledger, arrival: Callable[..., Arrival]) -> None:
    pool = Pool(ledger.db)

    def apply() -> None:
        pool.add(1, "d", "s", [arrival(1)])
        ledger.record_evaluation(1, "vqa", "exact_match", 0.5, 0.1, 10)
        ledger.record_selection(1, [0])
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        ledger.commit(
            1, "ingest", seed=1, result={}, seconds=0, files=[("decisions", decisions(ledger))], apply=apply
        )
    assert ledger.phase(1, "ingest") is None
    assert (ledger.files(), ledger.evaluations(), list(ledger.selection(1))) == ([], [], [])
    assert pool.counts()["arrived"] == 0
    assert ledger.last_timestep() is None


def test_apply_is_kept_with_the_phase(ledger: Ledger, arrival: Callable[..., Arrival]) -> None:
    ledger.commit(1, "ingest", seed=1, result={}, seconds=0, apply=lambda: fill(ledger, arrival))
    assert Pool(ledger.db).counts()["arrived"] == 5


def test_pending_is_the_first_phase_without_a_commit(ledger: Ledger) -> None:
    assert (ledger.last_timestep(), ledger.pending()) == (None, None)
    done(ledger, 0, "evaluate")
    assert (ledger.last_timestep(), ledger.pending()) == (0, None)
    for timestep in (1, 2):
        for phase, following in pairwise(PHASES):
            done(ledger, timestep, phase)
            assert ledger.pending() == (timestep, following)
        done(ledger, timestep, PHASES[-1])
        assert ledger.pending() is None
    assert [record.phase for record in ledger.phases(2)] == list(PHASES)
    assert ledger.last_timestep() == 2


def test_a_committed_file_that_is_missing_or_altered_is_named(ledger: Ledger) -> None:
    committed = decisions(ledger)
    ledger.commit(1, "select", seed=1, result={}, seconds=0, files=[("decisions", committed)])
    path = ledger.root / committed.path
    path.write_bytes(b"TABLE")
    assert ledger.file(1, "decisions") == path
    with pytest.raises(DamagedError, match=r"decisions of timestep 1.*was altered"):
        ledger.file(1, "decisions", full=True)
    path.unlink()
    with pytest.raises(DamagedError, match=r"decisions of timestep 1.*is missing"):
        ledger.file(1, "decisions")
    with pytest.raises(StoreError, match="timestep 2 has committed no 'decisions'"):
        ledger.file(2, "decisions")


def test_a_file_that_is_not_there_cannot_be_recorded(ledger: Ledger) -> None:
    absent = Committed("shards/none.bin", "0" * 64, 1)
    with pytest.raises(DamagedError, match="missing"):
        ledger.commit(1, "select", seed=1, result={}, seconds=0, files=[("decisions", absent)])
    with pytest.raises(DamagedError, match="missing"):
        ledger.shard_commit(1, "vectors", 0, absent, 1)
    assert (ledger.phase(1, "select"), ledger.shards()) == (None, [])


def test_shards_are_recorded_one_by_one_and_can_be_released(ledger: Ledger) -> None:
    files = [commit_bytes(ledger.root, "shards/0001", f"vectors-{i}", ".bin", bytes([i])) for i in range(3)]
    for position in (2, 0, 1):
        ledger.shard_commit(1, "vectors", position, files[position], rows=position + 1)
    shards = ledger.shards(1, "vectors")
    assert shards[2] == Shard(1, "vectors", 2, files[2].path, files[2].sha256, 1, 3)
    assert [shard.position for shard in shards] == [0, 1, 2]
    assert (ledger.shards(1, "signals"), ledger.shards(2)) == ([], [])
    assert ledger.known_paths() == {file.path for file in files}
    ledger.release_shards(1, "vectors")
    assert (ledger.shards(), ledger.known_paths()) == ([], set())


def test_evaluations_keep_an_unknown_error_unknown(ledger: Ledger) -> None:
    ledger.record_evaluation(1, "vqa", "exact_match", 0.1 + 0.2, math.nan, 1)
    ledger.record_evaluation(0, "vqa", "exact_match", 0.25, 0.1, 10)
    first, second = ledger.evaluations()
    assert first == Evaluation(0, "vqa", "exact_match", 0.25, 0.1, 10)
    assert second.value == 0.1 + 0.2
    assert math.isnan(second.stderr)


def test_selection_keeps_its_order(ledger: Ledger, arrival: Callable[..., Arrival]) -> None:
    ledger.commit(1, "ingest", seed=1, result={}, seconds=0, apply=lambda: fill(ledger, arrival))
    ledger.record_selection(1, [4, 0, 3])
    assert ledger.selection(1).tolist() == [4, 0, 3]
    assert ledger.selection(1).dtype == "int64"
    assert ledger.selection(2).tolist() == []


def fill(ledger: Ledger, arrival: Callable[..., Arrival]) -> None:
    Pool(ledger.db).add(1, "d", "s", [arrival(number) for number in range(5)])


def test_meta_is_json(ledger: Ledger) -> None:
    assert ledger.get_meta("config", "none yet") == "none yet"
    for value in ({"a": [1, None]}, "text", False):
        ledger.set_meta("config", value)
        assert ledger.get_meta("config") == value
