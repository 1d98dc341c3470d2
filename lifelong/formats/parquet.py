"""Parquet as Hugging Face datasets lay it out: images as struct{bytes, path}, bytes, or file names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.formats.faults import FileError, Limits, RowError, first_line
from lifelong.formats.turns import to_text
from lifelong.formats.validate import Record
from lifelong.samples import Sample

if TYPE_CHECKING:
    import pyarrow

NEEDS_ID = False
BATCH_BYTES = 32 * 2**20
_MAX_BATCH_ROWS = 1024


def read(path: Path, limits: Limits) -> Iterator[Record]:
    """Yield the rows, decoding about `BATCH_BYTES` at a time.

    Raises: FileError if the file is cut off or damaged; rows before the damage have been yielded.
    """
    import pyarrow
    import pyarrow.parquet

    rows = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
                yield from arrow_records(batch)
                rows += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        reason = f"not a whole Parquet file (read {rows} rows): {first_line(error)}"
        raise FileError(reason, "fetch the file again; this copy is cut off or damaged") from None


def arrow_records(batch: pyarrow.RecordBatch) -> Iterator[Record]:
    """One record for each row of the batch; a row with a value that Python cannot hold has its fault."""
    columns = list(zip(batch.schema.names, batch.columns, strict=True))
    for number in range(batch.num_rows):
        fault = None
        row: dict[str, Any] = {}
        for name, column in columns:
            try:
                row[name] = column[number].as_py()
            except (
                Exception
            ) as error:  # text that is not UTF-8, years beyond 9999, unknown zones, twin fields
                reason = f'the value of the column "{name}" cannot be read: {first_line(error)}'
                fault = RowError(reason, "write the column anew in a plain type, or drop it")
                break
        yield Record(row, row, fault=fault)


def _batch_rows(metadata: Any) -> int:
    """Rows that decode to about `BATCH_BYTES`, even if each repeats the longest value of a dictionary.

    What a row group says of itself is an upper bound of that value. What its columns say would be a closer one, but
    pyarrow ends the process where that is damaged.
    """
    sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    return int(max(1, min(_MAX_BATCH_ROWS, BATCH_BYTES // max([1, *sizes]))))


def export_schema() -> pyarrow.Schema:
    """The columns of exported samples, with the metadata that tells `datasets` to decode the images."""
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = {"dtype": "string", "_type": "Value"}
    features = {
        "id": text,
        "source_id": text,
        "messages": {"feature": {"role": text, "content": text}, "_type": "List"},
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("messages", pa.list_(turn)),
        ("images", pa.list_(image)),
    ]
    return pa.schema(columns, metadata=metadata)


def export_row(sample: Sample) -> dict[str, Any]:
    """Return the sample as a row of `export_schema`, with its images' bytes inside."""
    return {
        "id": sample.sample_id,
        "source_id": sample.source_id,
        "messages": [
            {"role": message["role"], "content": to_text(message["content"])} for message in sample.messages
        ],
        "images": [{"bytes": image.read(), "path": image.sha256 + image.suffix} for image in sample.images],
    }
