"""Tables and archives as nobody's exporter writes them: odd column types, lying tar headers, altered saved datasets."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

BLOCK = tarfile.BLOCKSIZE
_TYPES = (
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
)
_ODD_TYPES = b"\0001234567gxLKSVX?"


def strange_table(rows: Any, rng: random.Random, picture: bytes) -> pa.Table:
    """The rows as a table where their types allow it, else a plain one; sometimes with a column of an odd type."""
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
        table = pa.table({"messages": [turns] * 3})
    if table.num_rows and rng.random() < 0.4:
        images = [[{"bytes": picture, "path": None}]] * table.num_rows
        table = _with(table, "images", pa.array(images))
    if table.num_rows and rng.random() < 0.5:
        name = rng.choice(("id", "image", "images", "messages", "conversations", "extra", "system", ""))
        table = _with(table, name, rng.choice(_COLUMNS)(table.num_rows))
    return table


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """With the column in place of its namesake, or after it: Arrow allows two of one name."""
    place = table.schema.get_field_index(name)
    if place >= 0:
        return table.set_column(place, name, column)
    return table.append_column(name, column)


def _twins(count: int) -> pa.Array:
    return pa.StructArray.from_arrays([pa.array([1] * count), pa.array(["b"] * count)], names=["a", "a"])


_COLUMNS: tuple[Callable[[int], pa.Array], ...] = (
    lambda n: pa.array([2**62] * n, pa.timestamp("us")),
    lambda n: pa.array([123456789] * n, pa.timestamp("ns")),
    lambda n: pa.array([0] * n, pa.timestamp("s", tz="Nowhere/Land")),
    lambda n: pa.array([2**31 - 1] * n, pa.int32()).cast(pa.date32()),
    lambda n: pa.array([2**62] * n, pa.duration("s")),
    lambda n: pa.array([1] * n, pa.duration("ns")),
    lambda n: pa.array([1] * n, pa.time64("ns")),
    lambda n: pa.array([decimal.Decimal("1.5")] * n, pa.decimal128(38, 10)),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([b"\xff\xfe"] * n),
    lambda n: pa.array(["x"] * n).dictionary_encode(),
    lambda n: pa.array([[("role", "user")]] * n, pa.map_(pa.string(), pa.string())),
    lambda n: pa.array([[1, 2]] * n, pa.list_(pa.int8(), 2)),
    lambda n: pa.array([datetime.datetime(1, 1, 1)] * n),
    lambda n: pa.nulls(n),
    lambda n: pa.array([[["a"]]] * n),
    lambda n: pa.array([{"bytes": None, "path": "/etc/passwd"}] * n),
    lambda n: pa.array([{"bytes": b"", "path": "../secret.png"}] * n),
    _twins,
)


def tar_bytes(texts: list[bytes], pictures: list[bytes], rng: random.Random) -> tuple[bytes, int | None]:
    """An archive of a .json and its pictures per row, and how many groups it holds (None if that is unsure)."""
    sink = io.BytesIO()
    sure = rng.random() < 0.5
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=sink, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as out:
        for number, text in enumerate(texts):
            members = [(f"{number:04}.json", text)]
            members += [
                (f"{number:04}.{n}.png", data) for n, data in enumerate(pictures[: rng.randint(0, 2)])
            ]
            rng.shuffle(members)
            for name, data in members:
                _add(out, name, data, rng, plain=sure)
    packed = bytearray(sink.getvalue())
    if sure or rng.random() < 0.3:
        return bytes(packed), len(texts) if sure and texts else None
    _alter_header(packed, rng)
    return bytes(packed), None


def _add(out: tarfile.TarFile, name: str, data: bytes, rng: random.Random, *, plain: bool) -> None:
    member = tarfile.TarInfo(name)
    if not plain and rng.random() < 0.3:
        member.name = rng.choice(
            (
                "../x.json",
                "/etc/x.json",
                "a" * 300 + ".json",
                "\udcff.json",
                "x",
                "d/.json",
                "0000.json",
                "😀.png",
            )
        )
        member.type = rng.choice(_TYPES)
        member.linkname = rng.choice(("../secret.png", "/etc/passwd", member.name, "x" * 200))
        if out.format == tarfile.PAX_FORMAT and rng.random() < 0.6:
            key = rng.choice(
                ("size", "path", "mtime", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset", "SCHILY.x")
            )
            member.pax_headers = {
                key: rng.choice(("-1", "9" * 30, "1,2,3", "0", "BINARY", "1e400", "nan", "../x"))
            }
    member.size = len(data) if member.isreg() else 0
    try:
        out.addfile(member, io.BytesIO(data))
    except (ValueError, UnicodeError):  # ustar has no room for every name
        _add(out, name, data, rng, plain=True)


def _alter_header(packed: bytearray, rng: random.Random) -> None:
    """Change a header's size, type or name and put its sum right, so that readers believe it."""
    headers = [
        place for place in range(0, len(packed), BLOCK) if packed[place + 257 : place + 262] == b"ustar"
    ]
    for place in rng.sample(headers, min(len(headers), rng.randint(1, 3))):
        match rng.randrange(4):
            case 0:
                sizes = (
                    b"77777777777\0",
                    b"\xff" * 12,
                    b"\x80" + b"\xff" * 11,
                    b"\x80" + bytes(10) + b"\x01",
                    b"",
                )
                packed[place + 124 : place + 136] = rng.choice((*sizes, b"-0000000012\0")).ljust(12, b"\0")
            case 1:
                packed[place + 156] = rng.choice(_ODD_TYPES)
            case 2:
                packed[place : place + 100] = rng.randbytes(rng.randint(1, 99)).ljust(100, b"\0")
            case _:
                field = rng.randrange(100, 512)
                packed[place + field] = rng.randrange(256)
        packed[place + 148 : place + 156] = b" " * 8
        packed[place + 148 : place + 156] = b"%06o\0 " % sum(packed[place : place + BLOCK])


_STATE = {
    "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
    "_fingerprint": "0123456789abcdef",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}


def damaged_saved(
    folder: Path,
    table: pa.Table,
    rng: random.Random,
    damage: Callable[[bytes, random.Random], bytes],
    text: Callable[[], str],
) -> int | None:
    """What `save_to_disk` writes, then altered in its JSON, its table or its files; the rows if they are still sure."""
    folder.mkdir()
    split = rng.choice((folder, folder, folder / "train", folder / "only"))
    if split != folder:
        split.mkdir()
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split.name]}))
    sink = io.BytesIO()
    try:
        with pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table, max_chunksize=rng.choice((1, 100)))
    except pa.ArrowException:  # too deep for it
        table, sink = table.select([]), io.BytesIO()
        pa.ipc.new_stream(sink, table.schema).close()
    files = {
        "data-00000-of-00001.arrow": sink.getvalue(),
        "state.json": json.dumps(_STATE).encode(),
        "dataset_info.json": json.dumps({"description": "", "features": None}).encode(),
    }
    rows = table.num_rows or None
    kind = rng.randrange(6)
    if kind == 0:
        state = json.loads(files["state.json"])
        name = rng.choice((*(up * "../" + "secret.arrow" for up in (1, 2, 3)), "/etc/passwd", text(), None))
        key = rng.choice(("_data_files", "_data_files", "_format_type", "_format_columns", "_split"))
        state[key] = [{"filename": name}] if key == "_data_files" else rng.choice((name, "numpy", ["id"], 3))
        files["state.json"], rows = json.dumps(state).encode(), None
    elif kind < 4:
        name = rng.choice(("data-00000-of-00001.arrow",) * 3 + ("state.json", "dataset_info.json"))
        files[name], rows = damage(files[name], rng), None
    for name, data in files.items():
        (split / name).write_bytes(data)
    if kind == 4:
        path = split / "data-00000-of-00001.arrow"
        path.unlink()
        target = (
            next(parent for parent in path.parents if (parent / "secret.arrow").exists()) / "secret.arrow"
        )
        path.symlink_to(os.path.relpath(target, path.parent))
        rows = None
    return rows
