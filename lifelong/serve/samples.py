"""Searching the pool, and a sample as the page shows it."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lifelong.context import Stores
from lifelong.report.pictures import Links, text_of
from stores.pool import PoolRow

PICTURES = 4
"""Pictures that are shown of a sample that has more."""
SIDE = 192


def search(stores: Stores, text: str, skill: str, limit: int) -> list[PoolRow]:
    """Samples named by a text as for `lifelong why`; failing that, those that have it in a turn."""
    named = stores.pool.find(text, limit=limit) if text else []
    found = [row for row in named if not skill or row.skill == skill]
    if found:
        return found
    # The names of the parts of a message are no text of the sample.
    with_it = (
        row for row in stores.pool.containing(text, skill=skill) if text.lower() in _turns(row).lower()
    )
    return list(islice(with_it, limit))


def _turns(row: PoolRow) -> str:
    return "\n".join(
        part["text"] for message in row.messages for part in message["content"] if part["type"] == "text"
    )


def sample_of(stores: Stores, row: PoolRow) -> dict[str, Any]:
    """A sample in a few words, with links to its first pictures; told: what they show, or why there are none."""
    pictures = Links(stores, SIDE).of(row, PICTURES)
    shown = [picture.uri for picture in pictures if picture.uri]
    some = f"{len(shown)} of its {len(row.images)} pictures" if len(row.images) > 1 else "its picture"
    return {
        "sample_id": row.sample_id,
        "dataset": row.dataset,
        "origin": row.source_id or f"{row.file} row {row.row}",
        "skill": row.skill,
        "status": row.status,
        "text": text_of(row),
        "pictures": shown,
        "told": some if shown else pictures[0].why,
    }
