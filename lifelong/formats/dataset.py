"""A dataset as a stream of rows, each accepted, rejected or told to be a duplicate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lifelong.errors import require_utf8
from lifelong.formats import hfdatasets, jsonl, llava, parquet, sharegpt, webdataset
from lifelong.formats.detect import detect_format, find_files
from lifelong.formats.faults import DEFAULT_LIMITS, LFS_POINTER, DatasetError, FileError, Limits, RowError
from lifelong.formats.fields import source_id
from lifelong.formats.images import ImageOpener
from lifelong.formats.pairs import answers_left
from lifelong.formats.validate import Record, to_sample
from lifelong.samples import Row


class Format(Protocol):
    """What a format's module offers: a reader, and whether a row without an id is refused."""

    NEEDS_ID: bool

    def read(self, path: Path, limits: Limits) -> Iterator[Record]:
        """Yield the records of one file. Raises: FileError."""


FORMATS: dict[str, Format] = {
    "llava": llava,
    "sharegpt": sharegpt,
    "jsonl": jsonl,
    "parquet": parquet,
    "webdataset": webdataset,
    "huggingface": hfdatasets,
}


def open_dataset(
    path: str | Path,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Dataset:
    """Open a dataset for reading; see `find_files` for what `path` may be.

    images: the image root; by default the folder of each file, then `images/` in it. format: a key of
    FORMATS; by default told from the content of the first file.
    Raises: DatasetError if there is nothing to read, InputError if a name is not in UTF-8. What is wrong inside a
    file comes out of `rows`.
    """
    folder, files = find_files(path)
    require_utf8(*files, *filter(None, [images]))
    name = format or detect_format(files[0])
    if name not in FORMATS:
        raise DatasetError(f'unknown format "{name}"; use one of {", ".join(FORMATS)}')
    if images is not None and not Path(images).is_dir():
        raise DatasetError(f"the image root {images} is not a folder; pass --images with the one to use")
    return Dataset(name, files, folder, Path(images) if images is not None else None, limits)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files of one dataset, in one format. `folder` is what the file names of rows are relative to."""

    format: str
    files: list[Path]
    folder: Path
    images: Path | None
    limits: Limits

    def rows(self) -> Iterator[Row]:
        """Yield exactly one Row for each row of each file, in order, and one more for each file at fault.

        A file's fault (`row` is None) comes after the good rows before it: a reader in constant memory cannot
        know of it sooner. Whoever must not use part of a broken dataset reads to the end before using any.
        Rows may share an id, as all rows of an image do in LLaVA-Instruct: content tells them apart.
        Memory: one row, and 16 bytes with their overhead for each accepted row.
        """
        seen: set[bytes] = set()
        for file in self.files:
            name = os.path.relpath(file, self.folder)
            opener = ImageOpener(file, self.images, self.limits)
            position = 0
            try:
                _refuse_pointer(file)
                for record in FORMATS[self.format].read(file, self.limits):
                    yield self._row(record, name, position, opener, seen)
                    position += 1
                if position == 0:
                    raise FileError("the file has no rows", "fetch it again, or remove it from the dataset")
            except FileError as fault:
                yield Row(name, None, "rejected", fault.reason, fault.fix)
            except OSError as error:
                reason = f"cannot be read: {error.strerror or error}"
                yield Row(name, None, "rejected", reason, "mend the file or its permissions")

    def _row(self, record: Record, file: str, row: int, opener: ImageOpener, seen: set[bytes]) -> Row:
        identity: dict[str, Any] = {"raw": record.raw, "source_id": _source_id_of(record)}
        try:
            needs_id = FORMATS[self.format].NEEDS_ID
            sample = to_sample(record, opener, self.limits, needs_id=needs_id)
            content = bytes.fromhex(sample.sample_id)
            if content in seen:
                reason = f"the same images and text as an earlier row (sample {sample.sample_id})"
                fix = "nothing to do; the earlier row is used"
                return Row(file, row, "duplicate", reason, fix, sample, of=sample.sample_id, **identity)
        except RowError as fault:
            return Row(file, row, "rejected", fault.reason, fault.fix, **identity)
        seen.add(content)
        several = answers_left(record.fields)
        return Row(file, row, "accepted", sample=sample, several=several, **identity)


def _refuse_pointer(file: Path) -> None:
    """Raises: FileError if Git LFS has not fetched the file yet."""
    if file.is_file():
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise FileError("a Git LFS pointer, not the file itself", "fetch it: git lfs pull")


def _source_id_of(record: Record) -> str | None:
    """The row's id, for telling of the row even where the id is what is wrong with it."""
    try:
        return source_id(record.fields)
    except RowError:
        return None
