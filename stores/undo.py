"""Taking timesteps back: what they wrote leaves the tables in the caller's transaction, and is kept aside until `gc`.

The rows that a timestep wrote are removed, those that it altered are put back as they were; each is kept in the
table `undone` as it was, so that all of it can be brought back. Files stay: rows of `undone` point to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from stores.backup import KNOWN_PATHS, KNOWN_UNDONE
from stores.database import require_transaction
from stores.ledger import PHASES
from stores.text import batched, marks, to_json

_KEYS = {"samples": "ordinal", "skills": "name"}
"""Tables whose rows are altered, and what names a row."""
_CHUNK = 1000
_RETIRED = "sample_id IN (SELECT sample_id FROM retired)"


@dataclass(frozen=True, slots=True)
class Undone:
    """What a timestep left beside its own rows. cells: (timestep, skill) of evaluations made in it; skills: that it
    registered."""

    cells: Sequence[tuple[int, str]]
    skills: Sequence[str]


class Undo:
    """Takes back, or brings back, under the number of an event; inside the caller's transaction.

    keep: whether what is taken back is kept aside; without it, it is gone.
    """

    def __init__(self, db: Database, event: int, *, keep: bool = True) -> None:
        require_transaction(db, "Undo")
        self._db = db
        self._event = event
        self._keep = keep

    def after(self, timestep: int, left: Undone) -> None:
        """Take back every timestep after one. Samples that were retired stay what they are."""
        later = {"t": timestep}
        arrivals = "ordinal IN (SELECT ordinal FROM samples WHERE arrived > :t)"
        self._evaluations(left.cells)
        for table in ("contents", "lengths"):
            self._remove(table, arrivals, later)
        for table in (
            "selections",
            "refusals",
            "evaluations",
            "released",
            "shards",
            "files",
            "phases",
            "datasets",
        ):
            self._remove(table, "timestep > :t", later)
        for names in batched(left.skills, _CHUNK):
            self._remove("evals", f"skill IN ({marks(len(names))})", names)
            self._remove("skills", f"name IN ({marks(len(names))})", names)
        self._remove("forecasts", "timestep > :t", later)
        self._remove("samples", "arrived > :t", later)
        self._alter("skills", "timestep = NULL", "timestep > :t", later)
        self._alter(
            "samples",
            "status = 'live', reason = '', changed = arrived",
            f"changed > :t AND NOT {_RETIRED}",
            later,
        )
        self._alter("samples", "changed = :t", f"changed > :t AND {_RETIRED}", later)
        self._remove("meta", "key LIKE 'config/%' AND CAST(substr(key, 8) AS INTEGER) > :t", later)
        for skill in left.skills:
            self._remove("meta", "key = :key", {"key": f"eval_refused/{skill}"})

    def phases_from(self, timestep: int, first: str, left: Undone) -> None:
        """Take back a timestep's phases from one on, `cluster` or later."""
        names = PHASES[PHASES.index(first) :]
        of = f"timestep = ? AND phase IN ({marks(len(names))})"
        self._evaluations(left.cells)
        self._remove("files", of, [timestep, *names])
        self._remove("phases", of, [timestep, *names])
        if "select" in names:
            self._remove("selections", "timestep = ?", [timestep])
        self._alter(
            "samples",
            "status = 'live', reason = '', changed = arrived",
            f"changed = ? AND status = 'pruned' AND NOT {_RETIRED}",
            [timestep],
        )

    def bring_back(self) -> None:
        """Put everything that was taken back under the event in its place again, and forget that it was."""
        # Tables in the reverse of the order in which they were emptied, since rows point to one another; the rows of
        # each in their own order, since some tables are read in the order written.
        cursor = self._db.execute(
            'SELECT "table", change, was FROM undone WHERE event = :event'
            ' ORDER BY max(number) OVER (PARTITION BY "table", change) DESC, number',
            {"event": self._event},
        )
        for table, change, was in cursor.fetchall():
            row = json.loads(was)
            if change == "removed":
                names = ", ".join(f'"{name}"' for name in row)
                self._db.execute(
                    f"INSERT INTO {table} ({names}) VALUES ({marks(len(row))})", list(row.values())
                )
            else:
                key = _KEYS[table]
                settings = ", ".join(f'"{name}" = ?' for name in row)
                self._db.execute(f"UPDATE {table} SET {settings} WHERE {key} = ?", [*row.values(), row[key]])
        forget_undone(self._db, [self._event])

    def _evaluations(self, cells: Iterable[tuple[int, str]]) -> None:
        for timestep, skill in cells:
            self._remove("evaluations", "timestep = ? AND skill = ?", [timestep, skill])

    def _remove(self, table: str, where: str, values: Any) -> None:
        self._put_aside(table, "removed", where, values)
        self._db.execute(f"DELETE FROM {table} WHERE {where}", values)

    def _alter(self, table: str, change: str, where: str, values: Any) -> None:
        self._put_aside(table, "altered", where, values)
        self._db.execute(f"UPDATE {table} SET {change} WHERE {where}", values)

    def _put_aside(self, table: str, change: str, where: str, values: Any) -> None:
        if not self._keep:
            return
        names = [row[1] for row in self._db.execute(f"PRAGMA table_info({table})").fetchall()]
        columns = ", ".join(f'"{name}"' for name in names)
        cursor = self._db.execute(f"SELECT {columns} FROM {table} WHERE {where}", values)
        while rows := cursor.fetchmany(_CHUNK):
            # Not SQLite's json_object, which rounds: a float must come back with every bit.
            kept = ((self._event, table, change, to_json(dict(zip(names, row, strict=True)))) for row in rows)
            self._db.conn.executemany(
                'INSERT INTO undone (event, "table", change, was) VALUES (?, ?, ?, ?)', kept
            )


def events_undone(db: Database) -> list[int]:
    """Numbers of the events under which something is kept aside, last first."""
    return [number for (number,) in db.execute("SELECT DISTINCT event FROM undone ORDER BY event DESC")]


def paths_undone(db: Database) -> set[str]:
    """Paths of files that only timesteps taken back need."""
    kept = {path for (path,) in db.execute(KNOWN_UNDONE)}
    return kept - {path for (path,) in db.execute(KNOWN_PATHS)}


def forget_undone(db: Database, events: Iterable[int] | None = None) -> None:
    """Forget what is kept aside, of some events or of all; its files are then garbage."""
    if events is None:
        db.execute("DELETE FROM undone")
    for event in events or ():
        db.execute("DELETE FROM undone WHERE event = ?", [event])
