"""Small datasets for the fuzzer, each drawn from its seed: valid ones of every format, then damaged.

A case knows how many rows a reader must tell of, where the damage leaves that known.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from tests.durability.fuzz_archives import damaged_saved, strange_table, tar_bytes
from tests.durability.fuzz_values import hostile_text, scramble

FORMATS = ("llava", "sharegpt", "jsonl", "parquet", "webdataset", "huggingface")
ENCODINGS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SECRET = "what only a file outside of the dataset says"


@dataclass(frozen=True, slots=True)
class Case:
    """What to open, and how. rows: how many a reader must tell of; None where the damage may hide some."""

    format: str
    path: Path
    images: Path
    told: str | None
    rows: int | None


def make_case(folder: Path, number: int, seed: int = 0) -> Case:
    """Write case `number` of a seed into an empty folder; beside its `data/`, the image root, lie secrets."""
    rng = random.Random(f"{seed}:{number}")
    format = rng.choices(FORMATS, weights=(20, 20, 20, 16, 16, 8))[0]
    data = folder / "data"
    data.mkdir(parents=True)
    _secrets(folder)
    _pictures(data, rng)
    rows = [_row(rng, format) for _ in range(rng.randint(1, 5))]
    if rng.random() < 0.75:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            rows = scramble(rows, rng)
    count = _WRITERS[format](data, rows, rng)
    return Case(format, _dataset(data), data, format if rng.random() < 0.7 else None, count)


def _dataset(data: Path) -> Path:
    return next(path for path in data.iterdir() if path.name.startswith("train"))


def _secrets(folder: Path) -> None:
    """What no reader may open: a picture, a table and a list of rows outside of the root."""
    (folder / "secret.png").write_bytes(picture("PNG", 99))
    (folder / "secret.json").write_text(json.dumps([{"id": "s", "messages": _turns(SECRET)}]))
    table = pa.table({"messages": [_turns(SECRET)]})
    with pa.OSFile(str(folder / "secret.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)


def _pictures(data: Path, rng: random.Random) -> None:
    (data / "good.png").write_bytes(picture("PNG", 1))
    (data / "bad.png").write_bytes(damaged_picture(rng))
    (data / "out.png").symlink_to("../secret.png")
    (data / "up").symlink_to("..")
    (data / "loop.png").symlink_to("loop.png")
    (data / "dir.png").mkdir()


@cache
def picture(encoding: str, shade: int) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (5, 4), (shade, 2 * shade % 256, 7)).save(buffer, encoding)
    return buffer.getvalue()


def damaged_picture(rng: random.Random) -> bytes:
    """A picture after some damage; a PNG's sums are often put right again, so that its decoder sees the damage."""
    encoding = rng.choice(ENCODINGS)
    data = damage(picture(encoding, rng.randrange(3)), rng)
    return _with_right_sums(data) if encoding == "PNG" and rng.random() < 0.7 else data


def _with_right_sums(data: bytes) -> bytes:
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(out)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut off, taken out, put in, doubled or overwritten with numbers at the edge."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        place = rng.randrange(len(out))
        match rng.randrange(7):
            case 0:
                out[place] ^= 1 << rng.randrange(8)
            case 1:
                out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7D))
            case 2 if rng.random() < 0.3:
                del out[place:]
            case 3:
                del out[place : place + rng.randint(1, 16)]
            case 4:
                out[place:place] = rng.randbytes(rng.randint(1, 8))
            case 5:
                piece = out[place : place + rng.randint(1, 64)]
                out[rng.randrange(len(out)) : 0] = piece
            case _:
                number = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 65535, 1 << 24))
                out[place : place + 4] = struct.pack(rng.choice(("<i", ">i")), number)
    return bytes(out)


def _turns(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]


def _row(rng: random.Random, format: str) -> dict[str, Any]:
    """A row as its format spells it: no image, one or two, with or without an id."""
    shown = rng.choice((0, 1, 1, 2))
    text = "<image>\n" * shown + f"what is it? {rng.randrange(6)}"
    names = [rng.choice(("good.png", "bad.png")) for _ in range(shown)]
    row: dict[str, Any] = {"id": str(rng.randrange(20))} if format == "llava" or rng.random() < 0.5 else {}
    if format == "llava":
        row["conversations"] = [{"from": "human", "value": text}, {"from": "gpt", "value": "yes"}]
        if names:
            row["image"] = names[0] if shown == 1 else names
    elif rng.random() < 0.3:
        parts = [{"type": "image", "path": name} for name in names] + [{"type": "text", "text": "what?"}]
        row["messages"] = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    else:
        row["messages"] = _turns(text)
        row["images"] = names
    return row


def _dumps(value: Any, rng: random.Random) -> str:
    return json.dumps(value, ensure_ascii=rng.random() < 0.8, indent=rng.choice((None, None, 1)))


def _write(path: Path, data: bytes, rows: int | None, rng: random.Random) -> int | None:
    """Write the file, in a third of the cases damaged; how many rows are then known."""
    if rng.random() < 0.35:
        data, rows = damage(data, rng), None
    path.write_bytes(data)
    return rows


def _list(data: Path, rows: Any, rng: random.Random) -> int | None:
    text = _dumps(rows, rng).encode("utf-8", "surrogatepass")
    known = len(rows) if isinstance(rows, list) and rows else None
    return _write(data / "train.json", text, _encodable(text, known), rng)


def _lines(data: Path, rows: Any, rng: random.Random) -> int | None:
    rows = rows if isinstance(rows, list) else [rows]
    text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.8) for row in rows) + "\n"
    encoded = text.encode("utf-8", "surrogatepass")
    known = len(rows) if rows else None
    return _write(data / "train.jsonl", encoded, _encodable(encoded, known), rng)


def _encodable(text: bytes, rows: int | None) -> int | None:
    """The rows that are known, unless the text is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return None
    return rows


def _parquet(data: Path, rows: Any, rng: random.Random) -> int | None:
    table = strange_table(rows, rng, picture("PNG", 3))
    sink = io.BytesIO()
    options: dict[str, Any] = {"compression": rng.choice(("none", "snappy", "zstd", "gzip"))}
    try:
        pq.write_table(table, sink, row_group_size=rng.choice((1, 2, 100)), **options)
    except pa.ArrowException:  # Parquet has no place for every type of Arrow
        table, sink = table.select([]), io.BytesIO()
        pq.write_table(table, sink)
    return _write(data / "train.parquet", sink.getvalue(), table.num_rows or None, rng)


def _tar(data: Path, rows: Any, rng: random.Random) -> int | None:
    rows = rows if isinstance(rows, list) else [rows]
    texts = [json.dumps(row).encode() for row in rows]
    packed, groups = tar_bytes(texts, [picture("PNG", 4), damaged_picture(rng)], rng)
    return _write(data / "train.tar", packed, groups, rng)


def _saved(data: Path, rows: Any, rng: random.Random) -> int | None:
    table = strange_table(rows, rng, picture("PNG", 5))
    return damaged_saved(data / "train", table, rng, damage, lambda: hostile_text(rng))


_WRITERS: dict[str, Callable[[Path, Any, random.Random], int | None]] = {
    "llava": _list,
    "sharegpt": _list,
    "jsonl": _lines,
    "parquet": _parquet,
    "webdataset": _tar,
    "huggingface": _saved,
}
