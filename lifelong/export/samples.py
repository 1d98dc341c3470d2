"""Write samples of a run for other trainers: a timestep's selection, or the live pool."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lifelong.context import Stores
from lifelong.errors import InputError
from lifelong.formats import write_samples
from lifelong.formats.images import SUFFIXES
from lifelong.formats.staging import write_file
from lifelong.formats.writers import SAMPLE_FORMATS as FORMATS
from lifelong.samples import Image, Sample

__all__ = ["FORMATS", "export"]
DATASET_INFO = "dataset_info.json"
"""Where LLaMA-Factory finds its datasets, in its `dataset_dir`."""


def export(stores: Stores, out: Path, format: str, timestep: int | None = None) -> int:
    """Write the selection of `timestep` in its order, or with None the live pool; returns the samples written.

    format: one of FORMATS. sharegpt also enters the file in LLaMA-Factory's `dataset_info.json` beside it.
    Samples that were retired are left out.

    Raises:
        InputError: the timestep has selected nothing, or what is pruned and collected since; or the format is unknown.
    """
    if timestep is None:
        ordinals = stores.pool.arrays()["ordinal"]
    else:
        ordinals = stores.ledger.selection(timestep)
        if not len(ordinals):
            raise InputError(
                f"timestep {timestep} has no selection; the last is {stores.ledger.last_timestep()}"
            )
    written = write_samples(_samples(stores, ordinals.tolist()), out, format)
    if format == "sharegpt":
        register_with_llama_factory(out)
    return written


def register_with_llama_factory(out: Path) -> None:
    """Enter a ShareGPT file in the `dataset_info.json` beside it, under its stem; other entries stay.

    Image names in the file are relative to its folder, which is LLaMA-Factory's `media_dir` by default.

    Raises:
        InputError: the file that is there holds no JSON object.
    """
    path = out.parent / DATASET_INFO
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); mend it, or export elsewhere") from error
    if not isinstance(known, dict):
        raise InputError(f"{path} is not a JSON object by dataset names; mend it, or export elsewhere")
    known[out.stem] = {
        "file_name": out.name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    text = json.dumps(known, ensure_ascii=False, indent=2) + "\n"
    write_file(path, lambda staged: staged.write_text(text, encoding="utf-8"))


def _samples(stores: Stores, ordinals: Iterable[int]) -> Iterator[Sample]:
    retired = stores.pool.retired()
    for row in stores.pool.rows(ordinals):
        if row.sample_id in retired:
            continue  # nothing of it is left
        if row.status != "live" and not all(map(stores.media.knows, row.images)):
            raise InputError(
                f"sample {row.sample_id} was {row.status} at timestep {row.changed} and its images are gone since "
                "`lifelong gc`: export a later selection, or the live pool"
            )
        images = tuple(_image(stores, sha256) for sha256 in row.images)
        yield Sample(row.sample_id, row.source_id, row.messages, images)


def _image(stores: Stores, sha256: str) -> Image:
    from PIL import Image as PillowImage

    data = stores.media.read(sha256)
    with PillowImage.open(io.BytesIO(data)) as opened:
        encoding = "JPEG" if opened.format == "MPO" else str(opened.format)
        return Image(sha256, SUFFIXES[encoding], None, data, *opened.size)
