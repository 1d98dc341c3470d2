"""Near-duplicates: pruned samples beside the earlier sample that each repeats."""

from __future__ import annotations

from dataclasses import dataclass

from lifelong.context import Stores
from lifelong.report.decided import Decided
from lifelong.report.pictures import Links, Picture, Pictures, text_of
from stores.pool import PoolRow

IMAGES = 3
"""Images that are shown of a sample that has several."""


@dataclass(frozen=True, slots=True)
class Side:
    """One sample of a pair. status: what it is now; pictures: its first `IMAGES`; images: how many it has."""

    sample_id: str
    dataset: str
    skill: str
    status: str
    text: str
    images: int
    pictures: list[Picture]


@dataclass(frozen=True, slots=True)
class Pair:
    """A pruned sample and the one that it repeats. extreme: "most" or "least" alike of its timestep's pairs."""

    timestep: int
    cluster: int
    similarity: float
    extreme: str
    pruned: Side
    neighbour: Side


def pairs_of(stores: Stores, found: Decided, pictures: Pictures | Links, most: int) -> list[Pair]:
    """The pairs of a timestep that are most alike, and last the one that is least alike of all that went."""
    gone = found.table[found.table["pruned"] & found.table["neighbour"].notna()]
    gone = gone.sort_values(["similarity", "sample_id"], ascending=[False, True], ignore_index=True)
    shown = gone.head(most - 1).assign(extreme="most")
    if len(gone) > len(shown):
        shown = type(gone)([*shown.to_dict("records"), gone.iloc[-1].to_dict() | {"extreme": "least"}])
    ids = [*shown["sample_id"], *shown["neighbour"]] if len(shown) else []
    sides = {row.sample_id: _side(row, pictures) for row in stores.pool.rows(stores.pool.ordinals(ids))}
    return [
        Pair(
            timestep=found.timestep,
            cluster=row["cluster"],
            similarity=row["similarity"],
            extreme=row["extreme"],
            pruned=sides[row["sample_id"]],
            neighbour=sides[row["neighbour"]],
        )
        for row in shown.to_dict("records")
    ]


def _side(row: PoolRow, pictures: Pictures | Links) -> Side:
    return Side(
        row.sample_id,
        row.dataset,
        row.skill,
        row.status,
        text_of(row),
        len(row.images),
        pictures.of(row, IMAGES),
    )
