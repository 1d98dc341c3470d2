"""What the run is, where it stands, and how its pool came to be what it is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lifelong.context import Stores
from stores.pool import Refusal

KINDS_OF_REFUSAL = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """What a run holds."""

    run_id: str
    pool: dict[str, int]
    bytes: int


@dataclass(slots=True)
class Intake:
    """A timestep's part in the pool's history; None where its phase is not done. used: samples trained on."""

    timestep: int
    dataset: str
    skill: str
    source: str
    arrived: int
    rejected: int
    duplicates: int
    quarantined: int | None
    used: int | None
    of_those_new: int | None
    pruned: int | None
    live: int | None


@dataclass(slots=True)
class KindOfRefusal:
    """Rows refused for one reason, quoted names aside. example: one of them, as it was told."""

    outcome: str
    reason: str
    count: int
    example: Refusal
    datasets: Counter[str] = field(default_factory=Counter)


def standing(stores: Stores) -> Standing:
    """What the run holds, with the bytes of the files that it has committed."""
    ledger = stores.ledger
    committed = sum(file.committed.bytes for file in ledger.files()) + sum(s.bytes for s in ledger.shards())
    return Standing(ledger.get_meta("run_id", ""), stores.pool.counts(), committed)


def intakes(stores: Stores) -> list[Intake]:
    """One for each dataset fed, in order of timestep."""
    return [_intake(stores, dataset) for dataset in stores.pool.datasets()]


def _intake(stores: Stores, dataset: Any) -> Intake:
    done = {record.phase: record.result for record in stores.ledger.phases(dataset.timestep)}
    measured, selected, pruned = (done.get(phase, {}) for phase in ("measure", "select", "prune"))
    return Intake(
        timestep=dataset.timestep,
        dataset=dataset.name,
        skill=dataset.skill,
        source=dataset.source,
        arrived=dataset.accepted,
        rejected=dataset.rejected,
        duplicates=dataset.duplicates,
        quarantined=measured.get("quarantined"),
        used=selected.get("selected"),
        of_those_new=selected.get("new"),
        pruned=pruned.get("pruned"),
        live=pruned.get("live"),
    )


def refusals(stores: Stores) -> list[KindOfRefusal]:
    """Why rows were refused and samples quarantined: kinds of reasons, most frequent first."""
    kinds: dict[tuple[str, str], KindOfRefusal] = {}
    for dataset in stores.pool.datasets():
        for refusal in stores.pool.refusals(dataset=dataset.name):
            _count(kinds, dataset.name, refusal.outcome, refusal)
    for row in stores.pool.rows(stores.pool.arrays("quarantined")["ordinal"]):
        told = Refusal(row.file, row.row, row.source_id, "rejected", row.reason, "")
        _count(kinds, row.dataset, "quarantined", told)
    return sorted(kinds.values(), key=lambda kind: (-kind.count, kind.outcome, kind.reason))


def _count(kinds: dict[tuple[str, str], KindOfRefusal], dataset: str, outcome: str, refusal: Refusal) -> None:
    reason = re.sub(r'"[^"]*"', '"…"', refusal.reason)
    kind = kinds.setdefault((outcome, reason), KindOfRefusal(outcome, reason, 0, refusal))
    kind.count += 1
    kind.datasets[dataset] += 1
