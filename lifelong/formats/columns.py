"""The columns of a dataset in Parquet shards: the union of what its files have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.formats.faults import DatasetError

if TYPE_CHECKING:
    import pyarrow


def columns_of(files: Sequence[Path]) -> pyarrow.Schema | None:
    """The columns of some Parquet files, or of a saved dataset; None if none of them can be read.

    A column that only some files have is a column of all; a column of nulls takes the type that it has elsewhere.
    Raises: DatasetError if two files disagree on a column's type.
    """
    import pyarrow

    found: dict[Path, pyarrow.Schema] = {}
    for file in files:
        try:
            schema = _schema(file)
        except (pyarrow.ArrowException, OSError):  # whoever reads the rows says what is wrong with it
            continue
        if schema is not None:
            found[file] = schema
    return _union(found) if found else None


def _schema(source: Path) -> pyarrow.Schema | None:
    if not source.exists():
        return None
    import pyarrow.parquet

    if source.is_file():
        return pyarrow.parquet.read_schema(source)
    return saved_split(source).features.arrow_schema


def saved_split(folder: Path) -> Any:
    """The dataset that `save_to_disk` wrote; of several splits the first, whose columns all have."""
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    return next(iter(loaded.values())) if isinstance(loaded, dict) else loaded


def _union(schemas: dict[Path, pyarrow.Schema]) -> pyarrow.Schema:
    import pyarrow

    first = next(iter(schemas.values()))
    if all(schema.equals(first) for schema in schemas.values()):
        return first
    fields: dict[str, pyarrow.Field] = {}
    origin: dict[str, Path] = {}
    for file, schema in schemas.items():
        for field in schema:
            known = fields.get(field.name, field)
            merged = _merged(known.type, field.type)
            if merged is None:
                raise DatasetError(
                    f'{origin[field.name]} and {file} disagree on the column "{field.name}": {known.type} and '
                    f"{field.type}; write both in one type, or use each by itself"
                )
            if field.name not in fields or not merged.equals(known.type):
                origin[field.name] = file
            fields[field.name] = pyarrow.field(field.name, merged, metadata=known.metadata)
    metadata = dict(first.metadata or {})
    metadata.pop(b"huggingface", None)
    metadata |= _features(schemas, origin)
    return pyarrow.schema(list(fields.values()), metadata=metadata or None)


def _merged(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType | None:
    """The type that holds what both hold; None if they contradict each other."""
    import pyarrow
    from pyarrow import types

    if one.equals(other) or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_dictionary(one) or types.is_dictionary(other):
        return _merged(*(each.value_type if types.is_dictionary(each) else each for each in (one, other)))
    if types.is_struct(one) and types.is_struct(other):
        inner = {field.name: field.type for field in one}
        for field in other:
            inner[field.name] = _merged(inner.get(field.name, field.type), field.type)
        return None if None in inner.values() else pyarrow.struct(list(inner.items()))
    lists = [each for each in (one, other) if types.is_list(each) or types.is_large_list(each)]
    if len(lists) == 2:
        value = _merged(one.value_type, other.value_type)
        large = types.is_large_list(one) or types.is_large_list(other)
        kind = pyarrow.large_list if large else pyarrow.list_
        return None if value is None else kind(value)
    widest = {
        _is_text: pyarrow.large_string(),
        _is_bytes: pyarrow.large_binary(),
        types.is_unsigned_integer: pyarrow.uint64(),
        _fits_int64: pyarrow.int64(),
        types.is_floating: pyarrow.float64(),
    }
    return next((kind for family, kind in widest.items() if family(one) and family(other)), None)


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind)


def _fits_int64(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_integer(kind) and not types.is_uint64(kind)


def _is_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _features(schemas: dict[Path, pyarrow.Schema], origin: dict[str, Path]) -> dict[bytes, bytes]:
    """The metadata for `datasets`, where every column's file has it: which columns are images to decode."""
    told: dict[str, Any] = {}
    for name, file in origin.items():
        try:
            given = json.loads((schemas[file].metadata or {})[b"huggingface"])["info"]["features"]
            told[name] = given[name]
        except (KeyError, ValueError, TypeError):
            return {}
    return {b"huggingface": json.dumps({"info": {"features": told}}).encode()}
