"""Features that depend on a sample's content alone: made once in its life, kept by content, shared between runs.

A frozen encoder or a rater is a producer; its name says everything that its output depends on. Arrays are in
safetensors files committed like any other; an index tells which file and row holds a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sqlite_utils import Database

from stores.clock import keeping
from stores.commit import Committed, commit_file, make_folder, sweep
from stores.database import open_database, transaction
from stores.errors import StoreError
from stores.migrations import Migration
from stores.shards import read_array
from stores.text import batched, marks

INDEX = "features.sqlite"
FOLDER = "shards"

_SCHEMA = """
CREATE TABLE producers (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, producer INTEGER NOT NULL REFERENCES producers (number), path TEXT NOT NULL,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, rows INTEGER NOT NULL
);
CREATE TABLE places (
    producer INTEGER NOT NULL REFERENCES producers (number), sample_id TEXT NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards (number), "row" INTEGER NOT NULL, PRIMARY KEY (producer, sample_id)
) WITHOUT ROWID;
"""
_SEALS = "CREATE TABLE seals (name TEXT PRIMARY KEY, seal INTEGER NOT NULL) WITHOUT ROWID;"
MIGRATIONS = (
    Migration(1, "features by content", "0.1.0", _SCHEMA),
    Migration(2, "seals", "0.1.0", _SEALS),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A file of features. producer: by name; rows: samples in it."""

    number: int
    producer: str
    committed: Committed
    rows: int


@keeping
class Features:
    """The features kept in a folder. Made by `open_features`."""

    def __init__(self, root: Path, db: Database) -> None:
        self.root = root
        self.db = db

    def missing(self, producer: str, sample_ids: Sequence[str]) -> list[int]:
        """Positions in `sample_ids` of the samples that the producer has not seen yet."""
        known = self._places(producer, sample_ids)
        return [position for position, sample_id in enumerate(sample_ids) if sample_id not in known]

    def add(self, producer: str, sample_ids: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays of one row per sample, (n, …). A sample that is known keeps what it has."""
        if any(len(array) != len(sample_ids) for array in arrays.values()):
            raise StoreError(f"{producer}: arrays and sample ids differ in length")
        committed = self.write(arrays)
        with transaction(self.db):
            self._record(producer, sample_ids, committed)

    def read(self, producer: str, sample_ids: Sequence[str], name: str) -> np.ndarray:
        """One array of the samples, (n, …), in the order asked.

        Raises: StoreError if the producer has not seen one of them; DamagedError if a file is missing.
        """
        places = self._places(producer, sample_ids)
        lost = next((sample_id for sample_id in sample_ids if sample_id not in places), None)
        if lost is not None:
            raise StoreError(f"{self.root}: {producer} has no features of sample {lost}")
        by_path: dict[str, list[tuple[int, int]]] = {}
        for position, sample_id in enumerate(sample_ids):
            path, row = places[sample_id]
            by_path.setdefault(path, []).append((position, row))
        whole: np.ndarray | None = None
        for path, pairs in by_path.items():
            array = read_array(self.root / path, name)
            if whole is None:
                whole = np.empty((len(sample_ids), *array.shape[1:]), array.dtype)
            positions, rows = zip(*pairs, strict=True)
            whole[list(positions)] = array[list(rows)]
        return np.empty(0, np.float32) if whole is None else whole

    def blocks(self) -> list[Block]:
        """The files of features, in the order made."""
        cursor = self.db.execute(
            "SELECT shards.number, producers.name, path, sha256, bytes, rows FROM shards"
            " JOIN producers ON producers.number = producer ORDER BY shards.number"
        )
        return [Block(number, name, Committed(*rest), rows) for number, name, *rest, rows in cursor]

    def members(self, block: Block) -> list[str]:
        """The sample ids whose features a block holds, by row."""
        cursor = self.db.execute(
            'SELECT sample_id FROM places WHERE shard = ? ORDER BY "row"', [block.number]
        )
        return [sample_id for (sample_id,) in cursor]

    def write(self, arrays: Mapping[str, np.ndarray]) -> Committed:
        """Commit a block's file; no sample is known to have it yet."""
        dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return commit_file(self.root, FOLDER, "features", ".safetensors", lambda path: save_file(dense, path))

    def forget(self, block: Block) -> None:
        """Forget a block: its samples have no features any more, and get new ones when they are next asked for."""
        with transaction(self.db):
            self.db.execute("DELETE FROM places WHERE shard = ?", [block.number])
            self.db.execute("DELETE FROM shards WHERE number = ?", [block.number])

    def sweep(self) -> list[str]:
        """Remove the files that no row points to; only while nobody writes to the folder."""
        return sweep(self.root, {block.committed.path for block in self.blocks()}, [FOLDER])

    def _places(self, producer: str, sample_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """sample_id → (path of the shard, row in it) of those that are known."""
        found: dict[str, tuple[str, int]] = {}
        for batch in batched(sample_ids, 1000):
            cursor = self.db.execute(
                'SELECT sample_id, path, "row" FROM places JOIN shards ON shards.number = shard'
                " JOIN producers ON producers.number = places.producer"
                f" WHERE producers.name = ? AND sample_id IN ({marks(len(batch))})",
                [producer, *batch],
            )
            found.update((sample_id, (path, row)) for sample_id, path, row in cursor)
        return found

    def _record(self, producer: str, sample_ids: Sequence[str], committed: Committed) -> None:
        self.db.execute("INSERT OR IGNORE INTO producers (name) VALUES (?)", [producer])
        (number,) = self.db.execute("SELECT number FROM producers WHERE name = ?", [producer]).fetchone()
        shard = self.db.execute(
            "INSERT INTO shards (producer, path, sha256, bytes, rows) VALUES (?, ?, ?, ?, ?)",
            [number, committed.path, committed.sha256, committed.bytes, len(sample_ids)],
        ).lastrowid
        self.db.conn.executemany(
            "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)",
            ((number, sample_id, shard, row) for row, sample_id in enumerate(sample_ids)),
        )


@contextmanager
def open_features(root: Path) -> Iterator[Features]:
    """The features kept in the folder `root`, which is made if need be."""
    make_folder(root)
    db = open_database(root / INDEX, migrations=MIGRATIONS)
    try:
        yield Features(root, db)
    finally:
        db.close()
