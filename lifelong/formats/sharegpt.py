"""ShareGPT JSON: a list of {"messages" or "conversations", "images": [...]}; an id is optional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lifelong.formats.faults import Limits
from lifelong.formats.jsontext import list_records
from lifelong.formats.turns import to_text
from lifelong.formats.validate import Record
from lifelong.samples import Sample

NEEDS_ID = False


def read(path: Path, limits: Limits) -> Iterator[Record]:
    """Yield the rows of the list. Raises: FileError as `list_records` does."""
    return list_records(path, limits)


def export_row(sample: Sample, image_names: Sequence[str]) -> dict[str, Any]:
    """Return the sample as a row with `messages` and `images`. Its id is the sample_id."""
    row: dict[str, Any] = {"id": sample.sample_id}
    if sample.source_id is not None:
        row["source_id"] = sample.source_id
    row["messages"] = [
        {"role": message["role"], "content": to_text(message["content"])} for message in sample.messages
    ]
    row["images"] = list(image_names)
    return row
