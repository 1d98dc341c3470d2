"""Samples as WebDataset shards: tar files of up to a size, whose members of one key make one sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from lifelong.formats.sharegpt import export_row
from lifelong.samples import Sample

SHARD_BYTES = 10**9
"""Of images and text in a shard, as WebDataset recommends."""


def write_shards(samples: Iterable[Sample], folder: Path, most: int = SHARD_BYTES) -> int:
    """Write `train-000000.tar`, `train-000001.tar`, … into a folder; return how many samples.

    A sample is its images, `KEY.png` or `KEY.0.png`, `KEY.1.png`, …, and `KEY.json` with `messages` and the images'
    names in order; KEY is the sample_id. A shard is closed by the sample that takes it to `most` bytes.
    """
    count, number, size = 0, 0, 0
    archive: tarfile.TarFile | None = None
    try:
        for sample in samples:
            if archive is None:
                archive = tarfile.open(folder / f"train-{number:06d}.tar", "w")  # noqa: SIM115
            for name, data in members(sample).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                size += len(data)
            count += 1
            if size >= most:
                archive.close()
                archive, number, size = None, number + 1, 0
    finally:
        if archive is not None:
            archive.close()
    return count


def members(sample: Sample) -> dict[str, bytes]:
    """A sample's members by name, in the order of the archive."""
    alone = len(sample.images) == 1
    images = {
        f"{sample.sample_id}{'' if alone else f'.{number}'}{image.suffix}": image.read()
        for number, image in enumerate(sample.images)
    }
    row = json.dumps(export_row(sample, list(images)), ensure_ascii=False, allow_nan=False)
    return {**images, f"{sample.sample_id}.json": row.encode()}
