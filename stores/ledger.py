"""The ledger: which phases are done, with which files, and how well the model did after each timestep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from sqlite_utils import Database

from stores.backup import known_paths, paths_in_backup
from stores.clock import keeping, now
from stores.commit import Committed, verify
from stores.database import transaction
from stores.errors import StoreError
from stores.shards import Shard
from stores.text import marks, to_json

PHASES = ("ingest", "measure", "cluster", "route", "select", "train", "evaluate", "prune")

_SHARD_COLUMNS = ", ".join(field.name for field in fields(Shard))


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A committed phase. result: whatever JSON the phase left for later ones; seconds: how long it ran.

    environment: what it ran under, version or hash by name; empty where it is not on record. kept: seconds that SQLite
    and files took since the phase before was committed, that commit included. finished: when it was committed, as
    `stores.clock.now` says it; "" where it is not on record.
    """

    timestep: int
    phase: str
    seed: int
    result: dict[str, Any]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    kept: float = 0.0
    finished: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A committed file that a phase left."""

    committed: Committed
    timestep: int
    phase: str
    kind: str

    @property
    def holds(self) -> str:
        """What is in it, in words."""
        return f"{self.kind} of timestep {self.timestep}"


@dataclass(frozen=True, slots=True)
class Released:
    """A committed file that was let go. weights: name and sha256 of each file of weights in it."""

    timestep: int
    kind: str
    weights: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the run, not by a timestep. timestep: the last one then; told: any JSON object; at:
    when, as `stores.clock.now` says it, "" where it is not on record."""

    number: int
    timestep: int
    kind: str
    told: dict[str, Any]
    at: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One cell of the skill matrix: a skill's mean score after a timestep. stderr: its standard error, NaN if unknown
    (n = 1); n: evaluation samples."""

    timestep: int
    skill: str
    metric: str
    value: float
    stderr: float
    n: int


@keeping
class Ledger:
    """What has been done in a run at `root`."""

    def __init__(self, db: Database, root: Path) -> None:
        self.db = db
        self.root = root

    def commit(
        self,
        timestep: int,
        phase: str,
        *,
        seed: int,
        result: dict[str, Any],
        seconds: float,
        files: Sequence[tuple[str, Committed]] = (),
        apply: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
        kept: float = 0.0,
    ) -> None:
        """Record that a phase is done, in one transaction with its files and with what `apply` writes.

        files: (kind, file) pairs; a kind occurs once in a timestep. kept: seconds that the stores took since the phase
        before was committed, that commit included. If anything raises, nothing is recorded.
        Raises: StoreError if the phase is committed already or a kind is taken; DamagedError if a file is not
        there.
        """
        for kind, committed in files:
            verify(self.root, committed, holds=f"{kind} of timestep {timestep}", contents=False)
        with transaction(self.db):
            if self.phase(timestep, phase) is not None:
                raise StoreError(
                    f"timestep {timestep}: phase {phase!r} is committed already and happens once"
                )
            self.db.execute(
                "INSERT INTO phases (timestep, phase, seed, result, seconds, environment, kept, finished)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    timestep,
                    phase,
                    str(int(seed)),
                    to_json(result),
                    seconds,
                    to_json(environment or {}),
                    kept,
                    now(),
                ],
            )
            for kind, committed in files:
                self._add_file(timestep, phase, kind, committed)
            if apply is not None:
                apply()

    def phase(self, timestep: int, phase: str) -> PhaseRecord | None:
        """A phase's record, or None if it is not committed."""
        found = self.db.execute(
            "SELECT seed, result, seconds, environment, kept, finished FROM phases"
            " WHERE timestep = ? AND phase = ?",
            [timestep, phase],
        ).fetchone()
        if found is None:
            return None
        seed, result, seconds, environment, *rest = found
        return PhaseRecord(
            timestep, phase, int(seed), json.loads(result), seconds, json.loads(environment), *rest
        )

    def phases(self, timestep: int) -> list[PhaseRecord]:
        """The committed phases of a timestep, in the order committed."""
        names = self.db.execute(
            "SELECT phase FROM phases WHERE timestep = ? ORDER BY rowid", [timestep]
        ).fetchall()
        return [record for (name,) in names if (record := self.phase(timestep, name)) is not None]

    def last_timestep(self) -> int | None:
        """The last timestep with a committed phase, or None."""
        last: int | None = self.db.execute("SELECT max(timestep) FROM phases").fetchone()[0]
        return last

    def pending(self) -> tuple[int, str] | None:
        """The first phase of the last timestep that is not committed, or None if that timestep is complete.

        Timestep 0 (before any training) is never pending.
        """
        last = self.last_timestep()
        if not last:
            return None
        done = {record.phase for record in self.phases(last)}
        return next(((last, phase) for phase in PHASES if phase not in done), None)

    def file(self, timestep: int, kind: str, *, full: bool = False) -> Path:
        """Path of a committed file or folder, checked to be there with its size; with `full`, by its hash.

        Raises: StoreError if none was committed; DamagedError if it is missing or altered.
        """
        for record in self.files(timestep):
            if record.kind == kind:
                verify(self.root, record.committed, holds=record.holds, contents=full)
                return self.root / record.committed.path
        if any((gone.timestep, gone.kind) == (timestep, kind) for gone in self.released()):
            raise StoreError(
                f"{self.root}: {kind} of timestep {timestep} was let go, as `keep` in the configuration said"
            )
        raise StoreError(f"{self.root}: timestep {timestep} has committed no {kind!r}")

    def files(self, timestep: int | None = None) -> list[FileRecord]:
        """Files that phases left, by timestep and kind."""
        cursor = self.db.execute(
            "SELECT path, sha256, bytes, timestep, phase, kind FROM files"
            " WHERE :timestep IS NULL OR timestep = :timestep ORDER BY timestep, kind",
            {"timestep": timestep},
        )
        return [FileRecord(Committed(*record[:3]), *record[3:]) for record in cursor]

    def shard_commit(self, timestep: int, kind: str, position: int, committed: Committed, rows: int) -> None:
        """Record one shard. Raises: DamagedError if its file is not there."""
        shard = Shard(timestep, kind, position, committed.path, committed.sha256, committed.bytes, rows)
        verify(self.root, committed, holds=shard.holds, contents=False)
        self.db.execute(f"INSERT INTO shards ({_SHARD_COLUMNS}) VALUES ({marks(7)})", list(astuple(shard)))

    def shards(self, timestep: int | None = None, kind: str | None = None) -> list[Shard]:
        """The shards recorded, of one timestep and kind if asked, by timestep, kind and position."""
        cursor = self.db.execute(
            f"SELECT {_SHARD_COLUMNS} FROM shards WHERE (:timestep IS NULL OR timestep = :timestep)"
            " AND (:kind IS NULL OR kind = :kind) ORDER BY timestep, kind, position",
            {"timestep": timestep, "kind": kind},
        )
        return [Shard(*record) for record in cursor]

    def release_shards(self, timestep: int, kind: str, position: int | None = None) -> None:
        """Forget the shards of one kind, or one of them; their files are then garbage, which `sweep` removes."""
        self.db.execute(
            "DELETE FROM shards WHERE timestep = ? AND kind = ? AND (? IS NULL OR position = ?)",
            [timestep, kind, position, position],
        )

    def release_file(self, record: FileRecord, weights: Sequence[tuple[str, str]]) -> None:
        """Let a committed file go: it is then garbage. weights: (name, sha256) of what the run's digest covers."""
        committed = record.committed
        self.db.execute("DELETE FROM files WHERE path = ?", [committed.path])
        self.db.execute(
            "INSERT INTO released (timestep, kind, path, sha256, bytes, weights) VALUES (?, ?, ?, ?, ?, ?)",
            [record.timestep, record.kind, *astuple(committed), to_json(weights)],
        )

    def replace_file(self, record: FileRecord, committed: Committed) -> None:
        """Put another file in a committed one's place; that one is then garbage."""
        self.db.execute("DELETE FROM files WHERE path = ?", [record.committed.path])
        self._add_file(record.timestep, record.phase, record.kind, committed)

    def released(self) -> list[Released]:
        """The files let go, by timestep and kind."""
        cursor = self.db.execute("SELECT timestep, kind, weights FROM released ORDER BY timestep, kind")
        return [
            Released(timestep, kind, [(name, sha256) for name, sha256 in json.loads(weights)])
            for timestep, kind, weights in cursor
        ]

    def known_paths(self) -> set[str]:
        """Every path that a row points to, here or in the database's copy, relative to root: what `sweep` must keep."""
        return known_paths(self.db.conn) | paths_in_backup(self.root)

    def record_evaluation(
        self, timestep: int, skill: str, metric: str, value: float, stderr: float, n: int
    ) -> None:
        """Record how well the model does on a skill after a timestep (0: before any training)."""
        # SQLite keeps a NaN as NULL.
        self.db.execute(
            "INSERT INTO evaluations (timestep, skill, metric, value, stderr, n) VALUES (?, ?, ?, ?, ?, ?)",
            [timestep, skill, metric, float(value), float(stderr), int(n)],
        )

    def evaluations(self) -> list[Evaluation]:
        """Every evaluation, by timestep, then skill."""
        cursor = self.db.execute(
            "SELECT timestep, skill, metric, value, stderr, n FROM evaluations ORDER BY timestep, skill"
        )
        return [
            Evaluation(timestep, skill, metric, value, float("nan") if stderr is None else stderr, n)
            for timestep, skill, metric, value, stderr, n in cursor
        ]

    def record_selection(self, timestep: int, ordinals: Iterable[int]) -> None:
        """Record which samples were selected, in the order in which they will be trained on."""
        rows = ((timestep, position, int(ordinal)) for position, ordinal in enumerate(ordinals))
        with transaction(self.db):
            self.db.conn.executemany(
                "INSERT INTO selections (timestep, position, ordinal) VALUES (?, ?, ?)", rows
            )

    def selection(self, timestep: int) -> np.ndarray:
        """Ordinals selected at a timestep, in order: (k,) int64."""
        cursor = self.db.execute(
            "SELECT ordinal FROM selections WHERE timestep = ? ORDER BY position", [timestep]
        )
        return np.fromiter((ordinal for (ordinal,) in cursor), dtype=np.int64)

    def selected_before(self, timestep: int) -> np.ndarray:
        """Ordinals selected at any earlier timestep, ascending: (k,) int64."""
        cursor = self.db.execute(
            "SELECT DISTINCT ordinal FROM selections WHERE timestep < ? ORDER BY ordinal", [timestep]
        )
        return np.fromiter((ordinal for (ordinal,) in cursor), dtype=np.int64)

    def record_event(self, timestep: int, kind: str, told: dict[str, Any]) -> int:
        """Put what was done to the run on record, for good; returns its number."""
        cursor = self.db.execute(
            "INSERT INTO events (timestep, kind, told, at) VALUES (?, ?, ?, ?)",
            [timestep, kind, to_json(told), now()],
        )
        return int(cursor.lastrowid or 0)

    def events(self, kind: str | None = None) -> list[Event]:
        """What was done to the run, of one kind if asked, in order."""
        cursor = self.db.execute(
            "SELECT number, timestep, kind, told, at FROM events WHERE :kind IS NULL OR kind = :kind"
            " ORDER BY number",
            {"kind": kind},
        )
        return [
            Event(number, timestep, name, json.loads(told), at) for number, timestep, name, told, at in cursor
        ]

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key, replacing an earlier one."""
        self.db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [key, to_json(value)],
        )

    def get_meta(self, key: str, default: Any = None) -> Any:
        """The JSON value under a key, or `default`."""
        found = self.db.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
        return default if found is None else json.loads(found[0])

    def _add_file(self, timestep: int, phase: str, kind: str, committed: Committed) -> None:
        taken = self.db.execute(
            "SELECT path FROM files WHERE timestep = ? AND kind = ?", [timestep, kind]
        ).fetchone()
        if taken is not None:
            raise StoreError(
                f"timestep {timestep} has a file of kind {kind!r} already, {taken[0]}: give each its own kind"
            )
        self.db.execute(
            "INSERT INTO files (path, sha256, bytes, timestep, phase, kind) VALUES (?, ?, ?, ?, ?, ?)",
            [committed.path, committed.sha256, committed.bytes, timestep, phase, kind],
        )
