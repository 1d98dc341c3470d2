"""LLaVA JSON: a list of {"id", "image", "conversations": [{"from", "value"}]}, text with <image> tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lifelong.formats.faults import Limits
from lifelong.formats.jsontext import list_records
from lifelong.formats.turns import to_text
from lifelong.formats.validate import Record
from lifelong.samples import Sample

NEEDS_ID = True
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def read(path: Path, limits: Limits) -> Iterator[Record]:
    """Yield the rows of the list. Raises: FileError as `list_records` does."""
    return list_records(path, limits)


def export_row(sample: Sample, image_names: Sequence[str]) -> dict[str, Any]:
    """Return the sample as a LLaVA row. Its id is the sample_id, which no other sample shares."""
    row: dict[str, Any] = {"id": sample.sample_id}
    if sample.source_id is not None:
        row["source_id"] = sample.source_id
    if image_names:
        row["image"] = image_names[0] if len(image_names) == 1 else list(image_names)
    row["conversations"] = [
        {"from": SPEAKERS[message["role"]], "value": to_text(message["content"])}
        for message in sample.messages
    ]
    return row
