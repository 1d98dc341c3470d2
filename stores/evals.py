"""Evaluation sets: for each skill, the samples that its accuracy is measured on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from stores.clock import kept
from stores.database import require_transaction, transaction
from stores.errors import StoreError
from stores.text import to_json

_ITEM_COLUMNS = "sample_id, messages, images, reference"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill and how it is measured. timestep: when its training data arrived, None until then."""

    name: str
    dataset: str
    metric: str
    timestep: int | None
    position: int


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One evaluation sample. images: sha256 of each; reference: the expected answer, any JSON value."""

    sample_id: str
    messages: list[Any]
    images: list[str]
    reference: Any


class Evals:
    """The evaluation sets of a run."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def add(self, name: str, dataset: str, metric: str, items: Iterable[EvalItem]) -> int:
        """Register a skill, after those known, with its evaluation samples; returns how many.

        Raises: StoreError outside a transaction, or if the skill is registered already.
        """
        require_transaction(self.db, "Evals.add")
        with transaction(self.db):
            if any(skill.name == name for skill in self.skills()):
                raise StoreError(
                    f"skill {name!r} has its evaluation set already: choose another name for this one"
                )
            self.db.execute(
                "INSERT INTO skills SELECT ?, ?, ?, NULL, coalesce(max(position) + 1, 0) FROM skills",
                [name, dataset, metric],
            )
            added = self.db.conn.executemany(
                f"INSERT INTO evals (skill, ordinal, {_ITEM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                ((name, ordinal, *_item_values(item)) for ordinal, item in enumerate(items)),
            )
        return max(added.rowcount, 0)

    @kept
    def arrive(self, name: str, timestep: int) -> None:
        """Record that a skill's training data arrived; the first arrival counts."""
        self.db.execute(
            "UPDATE skills SET timestep = ? WHERE name = ? AND timestep IS NULL", [timestep, name]
        )

    @kept
    def skills(self) -> list[Skill]:
        """The skills, in the order registered."""
        cursor = self.db.execute(
            "SELECT name, dataset, metric, timestep, position FROM skills ORDER BY position"
        )
        return [Skill(*record) for record in cursor]

    @kept
    def count(self, name: str) -> int:
        """Evaluation samples of a skill."""
        found: int = self.db.execute("SELECT count(*) FROM evals WHERE skill = ?", [name]).fetchone()[0]
        return found

    def items(self, name: str) -> Iterator[EvalItem]:
        """A skill's evaluation samples, in order."""
        cursor = self.db.execute(
            "SELECT sample_id, messages, images, reference FROM evals WHERE skill = ? ORDER BY ordinal",
            [name],
        )
        for sample_id, messages, images, reference in cursor:
            yield EvalItem(sample_id, json.loads(messages), json.loads(images), json.loads(reference))


def _item_values(item: EvalItem) -> tuple[str, str, str, str]:
    return item.sample_id, to_json(item.messages), to_json(item.images), to_json(item.reference)
