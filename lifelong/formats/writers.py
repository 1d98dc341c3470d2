"""Writing rows back in the format they came in, and samples in the formats that trainers read."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.formats import jsonl, llava, parquet, sharegpt, trl, webdataset
from lifelong.formats.columns import columns_of, saved_split
from lifelong.formats.detect import KINDS
from lifelong.formats.faults import DatasetError
from lifelong.formats.shardwriter import members, write_shards
from lifelong.formats.staging import staged_folder, write_file
from lifelong.samples import Image, Sample

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 256
_JSON_EXPORTS = {"llava": llava, "sharegpt": sharegpt, "jsonl": jsonl}
_PARQUET_EXPORTS = {"parquet": parquet, "trl": trl}
_KIND_OF = {
    "llava": "json",
    "sharegpt": "json",
    "trl": "parquet",
    "parquet": "parquet",
    "webdataset": "webdataset",
}
SAMPLE_FORMATS = (*_JSON_EXPORTS, *_PARQUET_EXPORTS, "webdataset")


def write_rows(
    rows: Iterable[tuple[Any, Sample]], out: Path, format: str, *, like: Path | Sequence[Path] | None = None
) -> int:
    """Write source records (`Row.raw`) in their own format and order; return how many.

    Image names inside the records stay as they are, so the result is read with the image root of the source.
    like: the source's file or folder, or files, whose Parquet or `datasets` columns are kept; without it they are
    inferred from the first 256 rows. The file appears under its name when it is complete.
    Raises: DatasetError if the format is unknown, or the files of `like` disagree on a column.
    """
    raw = _Counted(record for record, _ in rows)
    if format in ("llava", "sharegpt"):
        write_file(out, lambda path: _write_list(raw, path))
    elif format == "jsonl":
        write_file(out, lambda path: _write_lines(raw, path))
    elif format == "parquet":
        write_file(out, lambda path: _write_parquet(raw, path, columns_of(_files(like))))
    elif format == "webdataset":
        write_file(out, lambda path: _write_tar(raw, path))
    elif format == "huggingface":
        _write_saved_dataset(raw, out, _files(like))
    else:
        raise _unknown(format, "llava, sharegpt, jsonl, parquet, webdataset, huggingface")
    return raw.count


def _files(like: Path | Sequence[Path] | None) -> Sequence[Path]:
    if like is None:
        return []
    return [like] if isinstance(like, Path) else like


def misnamed(out: Path, format: str) -> str:
    """What a file of a format would be called where its name tells of another; "" where it does not."""
    says = KINDS.get(out.suffix)
    fits = {"json", "jsonl"} if format == "jsonl" else {_KIND_OF.get(format, "")}
    if says is None or says in fits:
        return ""
    suffix = next((suffix for suffix, kind in KINDS.items() if kind in fits), "")
    return out.with_suffix(suffix).name


def write_samples(samples: Iterable[Sample], out: Path, format: str, media_dir: Path | None = None) -> int:
    """Write samples in one of SAMPLE_FORMATS; return how many.

    parquet and trl hold the images' bytes; webdataset writes a folder `out` of shards, or one shard if the name ends
    with .tar. For the others they are written to `media_dir` (default: `images/` beside
    `out`) as files named by their SHA-256, and rows name them relative to `out` where `media_dir` lies under
    it, otherwise relative to `media_dir`. Reading the result gives the same sample_ids.
    Raises: DatasetError if the format is unknown; ValueError or OSError if an image cannot be read any more.
    """
    if format in _PARQUET_EXPORTS:
        kind = _PARQUET_EXPORTS[format]
        rows = _Counted(kind.export_row(sample) for sample in samples)
        write_file(out, lambda path: _write_parquet(rows, path, kind.export_schema()))
        return rows.count
    if format == "webdataset":
        if out.suffix == ".tar":
            groups = _Counted(members(sample) for sample in samples)
            write_file(out, lambda path: _write_tar(groups, path))
            return groups.count
        with staged_folder(out) as folder:
            return write_shards(samples, folder)
    if format not in _JSON_EXPORTS:
        raise _unknown(format, ", ".join(SAMPLE_FORMATS))
    media = media_dir if media_dir is not None else out.parent / "images"
    inside = os.path.relpath(media, out.parent)
    prefix = "" if inside.startswith("..") or inside == "." else f"{Path(inside).as_posix()}/"
    export_row = _JSON_EXPORTS[format].export_row
    rows = _Counted(
        export_row(sample, [prefix + _put(image, media) for image in sample.images]) for sample in samples
    )
    write = _write_lines if format == "jsonl" else _write_list
    write_file(out, lambda path: write(rows, path))
    return rows.count


class _Counted:
    """An iterable that knows how many items it has handed out."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.count += 1
            yield item


def _put(image: Image, media: Path) -> str:
    """Write the image under its hash unless it is there; return the file's name."""
    name = image.sha256 + image.suffix
    if not (media / name).exists():
        data = image.read()
        write_file(media / name, lambda path: path.write_bytes(data))
    return name


def _write_list(rows: Iterable[Any], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        before = "[\n"
        for row in rows:
            file.write(before + _json(row))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def _write_lines(rows: Iterable[Any], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_json(row) + "\n" for row in rows)


def _json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _write_tar(groups: Iterable[dict[str, bytes]], path: Path) -> None:
    """Members as they are named; a group in a folder of its own where the one before it has its key, as in shards that
    each count from 0."""
    before = ""
    with tarfile.open(path, "w") as archive:
        for group in groups:
            folder = "again/" if webdataset.key_of(next(iter(group))) == before else ""
            before = webdataset.key_of(folder + next(iter(group)))
            for name, data in group.items():
                member = tarfile.TarInfo(folder + name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _write_parquet(rows: Iterable[dict[str, Any]], path: Path, schema: pyarrow.Schema | None) -> None:
    import pyarrow
    import pyarrow.parquet

    remaining = iter(rows)
    batch = list(itertools.islice(remaining, BATCH_ROWS))
    columns = schema if schema is not None else pyarrow.Table.from_pylist(batch).schema
    with pyarrow.parquet.ParquetWriter(path, columns) as writer:
        while batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=columns))
            batch = list(itertools.islice(remaining, BATCH_ROWS))


def _write_saved_dataset(rows: Iterable[dict[str, Any]], out: Path, like: Sequence[Path]) -> None:
    """Go through Parquet on disk, so that memory does not grow with the rows."""
    import datasets

    with staged_folder(out) as folder, tempfile.TemporaryDirectory(dir=out.parent) as name:
        work = Path(name)
        _write_parquet(rows, work / "rows.parquet", columns_of(like))
        table = datasets.Dataset.from_parquet(str(work / "rows.parquet"), cache_dir=str(work / "cache"))
        for source in filter(Path.is_dir, like):
            told = saved_split(source).info
            table.info.description, table.info.citation = told.description, told.citation
            table.info.homepage, table.info.license = told.homepage, told.license
        table.save_to_disk(str(folder))


def _unknown(format: str, known: str) -> DatasetError:
    return DatasetError(f'cannot write the format "{format}"; use one of {known}')
