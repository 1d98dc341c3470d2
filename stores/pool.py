"""The pool: every sample that ever arrived, what became of it, and every row that was refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal

import numpy as np
from sqlite_utils import Database

from stores.clock import kept
from stores.database import require_transaction
from stores.errors import StoreError
from stores.text import batched, marks, storable, to_json

CHUNK = 1000
Status = Literal["live", "pruned", "quarantined"]


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A sample of the pool. ordinal: its place in order of arrival; changed: timestep of its status."""

    ordinal: int
    sample_id: str
    dataset: str
    source_id: str | None
    file: str
    row: int | None
    skill: str
    arrived: int
    messages: list[Any]
    images: list[str]
    text_chars: int
    status: Status
    reason: str
    changed: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A sample that asks to join. images: sha256 of each, in order; text_chars: characters of text."""

    sample_id: str
    source_id: str | None
    file: str
    row: int | None
    messages: list[Any]
    images: list[str]
    text_chars: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that did not join, why, and what to do. of: the sample_id that it duplicates."""

    file: str
    row: int | None
    source_id: str | None
    outcome: Literal["rejected", "duplicate"]
    reason: str
    fix: str
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of a dataset: rows = accepted + rejected + duplicates."""

    rows: int
    accepted: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset that was fed. digest: of its content; counts: see `Counts`."""

    name: str
    timestep: int
    skill: str
    format: str
    source: str
    digest: str
    rows: int
    accepted: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class _Held:
    """Who holds a sample_id already. why: what a retired one was retired for."""

    dataset: str
    status: str
    changed: int
    why: str = ""

    def reason(self) -> str:
        if self.status == "retired":
            return f"exact copy of a sample that was retired after timestep {self.changed} ({self.why})"
        if self.status == "live":
            return f'exact copy of a live sample of dataset "{self.dataset}"'
        return f'exact copy of a sample {self.status} at timestep {self.changed} (dataset "{self.dataset}")'


class Pool:
    """The samples of a run. Whatever writes, writes inside the caller's transaction."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def add(self, timestep: int, dataset: str, skill: str, items: Iterable[Arrival | Refusal]) -> Counts:
        """Let a dataset's rows in, in order, in constant memory; every row is accounted for.

        An arrival that the pool has already held, whatever became of it, is recorded as a duplicate.
        Raises: StoreError outside a transaction.
        """
        require_transaction(self.db, "Pool.add")
        first = self._next_ordinal()
        ordinal = first
        refused = {"rejected": 0, "duplicate": 0}
        for chunk in batched(items, CHUNK):
            accepted, refusals = self._sort(timestep, dataset, chunk)
            self._insert(timestep, dataset, skill, ordinal, accepted)
            self._refuse(timestep, dataset, refusals)
            ordinal += len(accepted)
            for refusal in refusals:
                refused[refusal.outcome] += 1
        total = ordinal - first + sum(refused.values())
        return Counts(total, ordinal - first, refused["rejected"], refused["duplicate"])

    @kept
    def bury(
        self, timestep: int, ordinals: Sequence[int], reasons: Sequence[str], status: Status = "pruned"
    ) -> None:
        """Turn live samples into tombstones, each with its reason. Rows stay; ordinals are not reused.

        Raises: StoreError outside a transaction or if one of them is not live; ValueError on unequal lengths.
        """
        require_transaction(self.db, "Pool.bury")
        changes = [
            (status, storable(reason), timestep, int(ordinal))
            for ordinal, reason in zip(ordinals, reasons, strict=True)
        ]
        buried = self.db.conn.executemany(
            "UPDATE samples SET status = ?, reason = ?, changed = ? WHERE ordinal = ? AND status = 'live'",
            changes,
        )
        if changes and buried.rowcount != len(changes):
            raise StoreError(
                f"timestep {timestep}: only {buried.rowcount} of the {len(changes)} samples to be {status} "
                "are live: choose among `Pool.arrays()`, each ordinal once."
            )

    @kept
    def live(self) -> np.ndarray:
        """Ordinals of the live samples, ascending: (n,) int64; what `arrays` says too, in a tenth of its time."""
        cursor = self.db.execute("SELECT ordinal FROM samples WHERE status = 'live' ORDER BY ordinal")
        return np.fromiter((ordinal for (ordinal,) in cursor), dtype=np.int64)

    def first_of(self, timestep: int) -> int:
        """The ordinal of the first sample that arrived at a timestep; the one after the last of all, if none did."""
        found = self.db.execute("SELECT min(ordinal) FROM samples WHERE arrived = ?", [timestep]).fetchone()[
            0
        ]
        return self._next_ordinal() if found is None else int(found)

    @kept
    def arrays(self, status: Status = "live") -> dict[str, np.ndarray]:
        """The pool's columns, ordered by ordinal, n = number of samples with that status.

        ordinal (n,) int64; arrived, text_chars, n_images (n,) int32; datasets, skills (n,) object (str);
        sample_ids (n,) S32.
        """
        columns: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
        shared: dict[str, str] = {}
        # NOT INDEXED: a walk along the table beats one look-up a row through the index on status.
        cursor = self.db.execute(
            "SELECT ordinal, arrived, text_chars, n_images, dataset, skill, sample_id"
            " FROM samples NOT INDEXED WHERE status = ? ORDER BY ordinal",
            [status],
        )
        while block := cursor.fetchmany(50_000):
            for (name, dtype), values in zip(_ARRAYS.items(), zip(*block, strict=True), strict=True):
                if dtype is object:
                    values = tuple(shared.setdefault(value, value) for value in values)
                columns[name].append(np.array(values, dtype=dtype))
        return {
            name: np.concatenate(columns[name]) if columns[name] else np.empty(0, dtype)
            for name, dtype in _ARRAYS.items()
        }

    @kept
    def record_tokens(self, ordinals: Iterable[int], tokens: Iterable[int]) -> None:
        """Record how many tokens the model's processor makes of samples, images included; once for each."""
        require_transaction(self.db, "Pool.record_tokens")
        rows = ((int(ordinal), int(count)) for ordinal, count in zip(ordinals, tokens, strict=True))
        self.db.conn.executemany("INSERT OR IGNORE INTO lengths (ordinal, tokens) VALUES (?, ?)", rows)

    @kept
    def tokens(self, ordinals: Iterable[int]) -> np.ndarray:
        """(n,) int64: tokens of samples in the order asked; 0 where they are not recorded."""
        found: list[int] = []
        for batch in batched((int(ordinal) for ordinal in ordinals), CHUNK):
            known = dict(
                self.db.execute(
                    f"SELECT ordinal, tokens FROM lengths WHERE ordinal IN ({marks(len(batch))})", batch
                ).fetchall()
            )
            found += [known.get(ordinal, 0) for ordinal in batch]
        return np.array(found, dtype=np.int64)

    @kept
    def rows(self, ordinals: Iterable[int]) -> Iterator[PoolRow]:
        """Samples by ordinal, in the order asked. Raises: StoreError at an ordinal the pool does not have."""
        for batch in batched((int(ordinal) for ordinal in ordinals), CHUNK):
            cursor = self.db.execute(f"{_SELECT_ROW} WHERE ordinal IN ({marks(len(batch))})", batch)
            found = {record[0]: _pool_row(record) for record in cursor}
            for ordinal in batch:
                if ordinal not in found:
                    raise StoreError(f"the pool has no sample with ordinal {ordinal}")
                yield found[ordinal]

    @kept
    def ordinals(self, sample_ids: Sequence[str]) -> list[int]:
        """The samples' ordinals, in the order asked. Raises: StoreError at one that the pool never had."""
        found: dict[str, int] = {}
        for batch in batched(sample_ids, CHUNK):
            sql = f"SELECT sample_id, ordinal FROM samples WHERE sample_id IN ({marks(len(batch))})"
            found.update(self.db.execute(sql, batch))
        if strange := next((sample_id for sample_id in sample_ids if sample_id not in found), None):
            raise StoreError(f"the pool has no sample {strange}")
        return [found[sample_id] for sample_id in sample_ids]

    def find(self, text: str, *, limit: int = 100) -> list[PoolRow]:
        """Samples whose sample_id or source_id is `text`; failing that, whose sample_id begins with it.

        By ordinal, `limit` of them at most.
        """
        exact = "SELECT ordinal FROM samples WHERE sample_id = :id UNION SELECT ordinal FROM samples"
        # 'g' sorts after every hexadecimal digit.
        prefix = "SELECT ordinal FROM samples WHERE sample_id >= :id AND sample_id < :id || 'g'"
        values = {"id": storable(text.lower()), "text": storable(text), "limit": limit}
        for chosen in (f"{exact} WHERE source_id = :text", prefix):
            sql = f"{_SELECT_ROW} WHERE ordinal IN ({chosen}) ORDER BY ordinal LIMIT :limit"
            if found := [_pool_row(record) for record in self.db.execute(sql, values)]:
                return found
        return []

    def containing(self, text: str, *, skill: str = "") -> Iterator[PoolRow]:
        """Samples with a text in their messages as JSON, of any case in ASCII; of one skill if asked. By ordinal."""
        pattern = re.sub(r"([\\%_])", r"\\\1", to_json(text)[1:-1])
        sql = (
            f"{_SELECT_ROW} WHERE messages LIKE '%' || :pattern || '%' ESCAPE '\\'"
            " AND (:skill = '' OR skill = :skill) ORDER BY ordinal"
        )
        values = {"pattern": pattern, "skill": storable(skill)}
        return (_pool_row(record) for record in self.db.execute(sql, values))

    @kept
    def held(self, sample_ids: Sequence[str]) -> dict[str, str]:
        """Which of the samples would not join because the pool has held them: sample_id → why."""
        found = [self._held(batch) for batch in batched(sample_ids, CHUNK)]
        return {sample_id: holder.reason() for part in found for sample_id, holder in part.items()}

    def retired(self) -> dict[str, str]:
        """The samples that were retired: sample_id → why. They do not come back."""
        return dict(self.db.execute("SELECT sample_id, reason FROM retired").fetchall())

    @kept
    def counts(self) -> dict[str, int]:
        """How many samples, and how many rows refused.

        arrived = live + pruned + quarantined; rejected, duplicates: rows; selected: samples ever selected; retired:
        those of the pruned and quarantined that were retired, left out where there are none.
        """
        by_status = dict(self.db.execute("SELECT status, count(*) FROM samples GROUP BY status").fetchall())
        refused = dict(self.db.execute("SELECT outcome, count(*) FROM refusals GROUP BY outcome").fetchall())
        selected = self.db.execute("SELECT count(DISTINCT ordinal) FROM selections").fetchone()[0]
        retired = self.db.execute("SELECT count(*) FROM samples JOIN retired USING (sample_id)").fetchone()[0]
        return {
            "arrived": sum(by_status.values()),
            "live": by_status.get("live", 0),
            "pruned": by_status.get("pruned", 0),
            "quarantined": by_status.get("quarantined", 0),
            **({"retired": retired} if retired else {}),
            "rejected": refused.get("rejected", 0),
            "duplicates": refused.get("duplicate", 0),
            "selected": selected,
        }

    def refusals(self, *, timestep: int | None = None, dataset: str | None = None) -> Iterator[Refusal]:
        """The rows refused, in order of arrival; of one timestep or one dataset if asked."""
        wanted = {"timestep": timestep, "dataset": dataset}
        asked = {name: value for name, value in wanted.items() if value is not None}
        where = "WHERE " + " AND ".join(f"{name} = :{name}" for name in asked) if asked else ""
        columns = 'file, "row", source_id, outcome, reason, fix, "of"'
        for record in self.db.execute(f"SELECT {columns} FROM refusals {where} ORDER BY rowid", asked):
            yield Refusal(*record)

    @kept
    def refusals_named(self, name: str) -> list[tuple[str, int, Refusal]]:
        """(dataset, timestep, row refused) of the rows whose own id, or file:row, is `name`, in order of arrival."""
        cursor = self.db.execute(
            'SELECT dataset, timestep, file, "row", source_id, outcome, reason, fix, "of" FROM refusals'
            " WHERE source_id = :name OR file || ':' || \"row\" = :name ORDER BY rowid",
            {"name": storable(name)},
        )
        return [(dataset, timestep, Refusal(*record)) for dataset, timestep, *record in cursor]

    def record_dataset(self, dataset: DatasetRow) -> None:
        """Record that a dataset was fed."""
        names = [field.name for field in fields(DatasetRow)]
        self.db.execute(
            f"INSERT INTO datasets ({', '.join(names)}) VALUES ({marks(len(names))})", list(astuple(dataset))
        )

    @kept
    def datasets(self) -> list[DatasetRow]:
        """The datasets fed, by timestep, then name."""
        names = ", ".join(field.name for field in fields(DatasetRow))
        return [
            DatasetRow(*record)
            for record in self.db.execute(f"SELECT {names} FROM datasets ORDER BY timestep, name")
        ]

    def _next_ordinal(self) -> int:
        # Rows are never deleted, so the largest ordinal tells how many have been given out.
        return int(self.db.execute("SELECT coalesce(max(ordinal) + 1, 0) FROM samples").fetchone()[0])

    @kept
    def _sort(
        self, timestep: int, dataset: str, chunk: list[Arrival | Refusal]
    ) -> tuple[list[Arrival], list[Refusal]]:
        """Part a chunk into who joins and who does not, each in the order fed."""
        held = self._held([item.sample_id for item in chunk if isinstance(item, Arrival)])
        accepted: list[Arrival] = []
        refusals: list[Refusal] = []
        for item in chunk:
            if isinstance(item, Refusal):
                refusals.append(item)
            elif holder := held.get(item.sample_id):
                refusals.append(_duplicate(item, holder))
            else:
                accepted.append(item)
                held[item.sample_id] = _Held(dataset, "live", timestep)
        return accepted, refusals

    def _held(self, sample_ids: list[str]) -> dict[str, _Held]:
        named = f"WHERE sample_id IN ({marks(len(sample_ids))})"
        held = self.db.execute(f"SELECT sample_id, dataset, status, changed FROM samples {named}", sample_ids)
        retired = self.db.execute(f"SELECT sample_id, reason, timestep FROM retired {named}", sample_ids)
        return {sample_id: _Held(*rest) for sample_id, *rest in held} | {
            sample_id: _Held("", "retired", timestep, reason) for sample_id, reason, timestep in retired
        }

    @kept
    def _insert(self, timestep: int, dataset: str, skill: str, first: int, arrivals: list[Arrival]) -> None:
        samples, contents = [], []
        for ordinal, item in enumerate(arrivals, first):
            origin = (dataset, _optional(item.source_id), storable(item.file), item.row, skill)
            sizes = (item.text_chars, len(item.images))
            samples.append((ordinal, item.sample_id, *origin, timestep, *sizes, timestep))
            contents.append((ordinal, to_json(item.messages), to_json(item.images)))
        self.db.conn.executemany(
            'INSERT INTO samples (ordinal, sample_id, dataset, source_id, file, "row", skill, arrived,'
            " text_chars, n_images, changed, status, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'live', '')",
            samples,
        )
        self.db.conn.executemany(
            "INSERT INTO contents (ordinal, messages, images) VALUES (?, ?, ?)", contents
        )

    @kept
    def _refuse(self, timestep: int, dataset: str, refusals: list[Refusal]) -> None:
        records = []
        for item in refusals:
            place = (timestep, dataset, storable(item.file), item.row, _optional(item.source_id))
            records.append((*place, item.outcome, storable(item.reason), storable(item.fix), item.of))
        self.db.conn.executemany(f"INSERT INTO refusals VALUES ({marks(9)})", records)


_ARRAYS: dict[str, Any] = {
    "ordinal": np.int64,
    "arrived": np.int32,
    "text_chars": np.int32,
    "n_images": np.int32,
    "datasets": object,
    "skills": object,
    "sample_ids": np.dtype("S32"),
}

_SELECT_ROW = """
SELECT ordinal, sample_id, dataset, source_id, file, "row", skill, arrived, messages, images, text_chars,
       status, reason, changed
FROM samples JOIN contents USING (ordinal)"""


def _pool_row(record: tuple[Any, ...]) -> PoolRow:
    values = list(record)
    values[8:10] = map(json.loads, values[8:10])
    return PoolRow(*values)


_FIXES = {"retired": "nothing to do: what was retired does not come back"}


def _duplicate(arrival: Arrival, holder: _Held) -> Refusal:
    return Refusal(
        file=arrival.file,
        row=arrival.row,
        source_id=arrival.source_id,
        outcome="duplicate",
        reason=holder.reason(),
        fix=_FIXES.get(holder.status, "nothing to do: the pool takes each sample once"),
        of=arrival.sample_id,
    )


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
