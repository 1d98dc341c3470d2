"""Write samples of a run for other trainers: a timestep's selection, or the live pool."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from lifelong.context import Stores
from lifelong.errors import InputError
from lifelong.formats import write_samples
from lifelong.formats.images import SUFFIXES
from lifelong.samples import Image, Sample


def export(stores: Stores, out: Path, format: str, timestep: int | None = None) -> int:
    """Write the selection of `timestep` in its order, or with None the live pool; returns the samples written.

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
    return write_samples(_samples(stores, ordinals.tolist()), out, format)


def _samples(stores: Stores, ordinals: Iterable[int]) -> Iterator[Sample]:
    for row in stores.pool.rows(ordinals):
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
