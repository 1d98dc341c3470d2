"""Hostile input, rule by rule: nothing is opened outside of the image root, nothing explodes, no code is run."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as PillowImage
from PIL import ImageFile
from safetensors.torch import load_file

from lifelong.config import LoraConfig, ModelConfig
from lifelong.errors import InputError
from lifelong.formats import FORMATS, open_dataset
from lifelong.formats.check import check, summarise
from lifelong.formats.hfdatasets import _undecoded
from lifelong.models.load import load
from lifelong.samples import Row
from tests.conftest import IMAGE
from tests.durability.fuzz import judge
from tests.durability.fuzz_cases import SECRET, Case, picture
from tests.streams import stream_path
from tests.tiny_models import build

ESCAPES = (
    "../secret.png",
    "/etc/passwd",
    "up/secret.png",
    "out.png",
    "..\\secret.png",
    "file:///etc/passwd",
    "good.png/../../secret.png",
    "dir.png",
    "pipe.png",
    "a/" * 500_000 + "x.png",
)


def turns(text: str = f"{IMAGE}what is it?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An image root with a good picture and ways out of it; a picture, a table and rows lie beside it."""
    import os

    root = tmp_path / "data"
    (root / "dir.png").mkdir(parents=True)
    (root / "good.png").write_bytes(picture("PNG", 1))
    (tmp_path / "secret.png").write_bytes(picture("PNG", 99))
    (root / "out.png").symlink_to("../secret.png")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe.png")
    secret = pa.table({"messages": [turns(SECRET)]})
    with (
        pa.OSFile(str(tmp_path / "secret.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, secret.schema) as out,
    ):
        out.write_table(secret)
    return root


def write(data: Path, format: str, rows: list[dict[str, Any]], images: Path | None = None) -> Path:
    """The rows as a dataset in the image root; `images`: where an archive takes the picture of each row from."""
    match format:
        case "llava" | "sharegpt":
            (data / "train.json").write_text(json.dumps(rows))
        case "jsonl":
            (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), data / "train.parquet")
        case "webdataset":
            with tarfile.open(data / "train.tar", "w") as archive:
                for number, row in enumerate(rows):
                    add(archive, f"{number:03}.json", json.dumps(row).encode())
                    if images and (beside := images / str(row.get("image"))).is_file():
                        add(archive, f"{number:03}{beside.suffix}", beside.read_bytes())
        case _:
            datasets.Dataset.from_list(rows).save_to_disk(data / "train")
    return next(path for path in data.iterdir() if path.name.startswith("train"))


def add(archive: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def rows_of(path: Path, **options: Any) -> list[Row]:
    return list(open_dataset(path, **options).rows())


@pytest.mark.parametrize("format", FORMATS)
def test_no_reader_opens_what_lies_outside_of_the_image_root(data: Path, format: str) -> None:
    names = ["good.png", *ESCAPES]
    rows = [{"id": str(n), "messages": turns(), "images": [name]} for n, name in enumerate(names)]
    path = write(data, format, rows)
    outcomes, _, wrong = judge(Case(format, path, data, format, len(rows)))
    assert wrong == []
    # A name in an archive means its members, of which there are none.
    good = 0 if format == "webdataset" else 1
    assert outcomes == Counter({"accepted": good, "rejected": len(rows) - good}) - Counter()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_is_never_unpacked_and_its_links_lead_nowhere(data: Path, kind: bytes) -> None:
    with tarfile.open(data / "train.tar", "w") as archive:
        add(archive, "../escaped.json", json.dumps({"messages": turns("hi")}).encode())
        add(archive, "a.png", b"", type=kind, linkname="../secret.png")
        add(archive, "a.json", json.dumps({"messages": turns()}).encode())
        add(archive, "/b.json", json.dumps({"messages": turns("what? b")}).encode())
    _, _, wrong = judge(Case("webdataset", data / "train.tar", data, None, 3))
    assert wrong == []
    assert [row.outcome for row in rows_of(data / "train.tar")] == ["accepted", "rejected", "accepted"]
    assert not list(data.parent.rglob("escaped.json"))


@pytest.mark.parametrize(
    "name", ["../secret.arrow", "../../secret.arrow", "link.arrow", "/etc/passwd", "\0", "\ud800"]
)
def test_a_saved_dataset_reads_only_its_own_tables(data: Path, name: str) -> None:
    saved = write(data, "huggingface", [{"messages": turns("hi")}])
    (saved / "link.arrow").symlink_to("../../secret.arrow")
    state = json.loads((saved / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (saved / "state.json").write_text(json.dumps(state))
    (fault,) = rows_of(saved)
    assert (fault.row, fault.outcome) == (None, "rejected")
    assert "leaves the dataset's folder" in fault.reason


def test_images_anywhere_in_a_saved_dataset_stay_encoded(data: Path) -> None:
    """`datasets` would open the path of any image on its way to the row, wherever it is."""
    features = datasets.Features(
        {"messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}]}
        | {"deep": {"image": datasets.Image()}, "image": datasets.Image()}
    )
    saved = data / "train"
    rows: list[dict[str, Any]] = [{"messages": turns(), "deep": {"image": None}, "image": None}]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(saved)
    (file,) = saved.glob("*.arrow")
    schema = pa.ipc.open_stream(file.read_bytes()).schema
    hidden = {"bytes": None, "path": str(data.parent / "secret.png")}
    rows = [{"messages": turns(), "deep": {"image": hidden}, "image": hidden}]
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
        out.write_table(pa.Table.from_pylist(rows, schema))
    _, _, wrong = judge(Case("huggingface", data / "train", data, None, 1))
    assert wrong == []
    (row,) = rows_of(data / "train")
    assert "is an absolute path" in row.reason


def test_the_format_in_which_a_dataset_was_saved_does_not_change_its_rows(data: Path) -> None:
    table = datasets.Dataset.from_list([{"messages": turns("hi"), "x": 1}]).with_format(
        "numpy", columns=["x"]
    )
    table.save_to_disk(data / "train")
    assert [row.outcome for row in rows_of(data / "train")] == ["accepted"]


def test_images_anywhere_in_a_streamed_dataset_stay_encoded(data: Path) -> None:
    hidden = {"bytes": None, "path": str(data.parent / "secret.png")}
    image = datasets.Image()
    features = datasets.Features({"deep": {"image": image}, "list": [image], "image": image})
    rows = {"deep": [{"image": hidden}], "list": [[hidden]], "image": [hidden]}
    table = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    (row,) = _undecoded(table)
    assert row == {"deep": {"image": hidden}, "list": [hidden], "image": hidden}


@pytest.mark.parametrize("format", FORMATS)
def test_every_reader_accounts_for_every_row(data: Path, format: str) -> None:
    rows = json.loads((stream_path("hostile") / "hostile.json").read_bytes())
    (data / "images").symlink_to(stream_path("hostile") / "images")
    if format in ("parquet", "huggingface"):  # a table has one type for a column, and no half characters
        kept = [as_table_row(row) for row in rows]
        rows = [row for row in kept if row is not None]
    path = write(data, format, rows, stream_path("hostile") / "images")
    outcomes = list(check(open_dataset(path, images=stream_path("hostile") / "images", format=format)))
    counts = summarise(outcomes)
    assert counts.rows == counts.accepted + counts.rejected + counts.duplicate == len(rows) > 40
    assert counts.faulty_files == 0
    assert all(
        bool(each["reason"]) == bool(each["fix"]) == (each["outcome"] != "accepted") for each in outcomes
    )
    assert counts.rejected > 5
    assert counts.duplicate >= 1


def as_table_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """The columns that every row has, where they hold what a table can."""
    if not isinstance(row.get("conversations"), list) or not isinstance(row.get("id"), str):
        return None
    image = row.get("image")
    kept = {"id": row["id"], "conversations": row["conversations"], "images": []}
    kept["images"] = [image] if isinstance(image, str) else image or []
    try:
        json.dumps(kept, ensure_ascii=False).encode()
        pa.array(
            [kept["conversations"]], pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
        )
    except (UnicodeEncodeError, pa.ArrowException):
        return None
    return kept


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * width * height + height)) if width * height < 100 else b""
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def scanned(times: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", (64, 64), "red").save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    scan = whole[whole.rindex(b"\xff\xc4", 0, last) : -2]
    return whole[:-2] + scan * times + whole[-2:]


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    )


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (png(12_000, 12_000), "is too large: 12000x12000 pixels"),
        (png(30_000, 30_000), "is too large: Image size (900000000 pixels)"),
        (png(2**31 - 1, 2**31 - 1), "is too large"),
        (bmp(10_000, 12_000), "is too large: 10000x12000 pixels"),
        (png(4, 4, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200 << 20), 9))), "cannot be decoded"),
        (png(4, 4, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(200 << 20), 9))), "cannot be decoded"),
        (scanned(100), "has more than 50 scans"),
    ],
    ids=["png", "large png", "png of all pixels", "bmp", "text", "profile", "scans"],
)
def test_a_picture_that_explodes_is_refused_before_it_is_decoded(
    data: Path, monkeypatch: pytest.MonkeyPatch, image: bytes, reason: str
) -> None:
    assert len(image) < 1 << 20
    (data / "bomb.png").write_bytes(image)
    path = write(data, "sharegpt", [{"messages": turns(), "images": ["bomb.png"]}])
    if reason.startswith(("is too large", "has more")):
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (row,) = rows_of(path)
    assert row.outcome == "rejected"
    assert reason in row.reason


def test_an_ordinary_progressive_picture_is_taken(data: Path) -> None:
    (data / "p.jpg").write_bytes(scanned(0))
    # What phones append after the picture is none of its scans.
    (data / "q.jpg").write_bytes(scanned(1) + b"\0\0" + b"\xff\xda\0\2" * 100)
    path = write(data, "sharegpt", [{"messages": turns(), "images": [name]} for name in ("p.jpg", "q.jpg")])
    assert [row.outcome for row in rows_of(path)] == ["accepted", "accepted"]


def test_a_table_that_repeats_one_long_text_is_read_a_few_rows_at_a_time(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, text = 300, "x" * (1 << 20)
    columns = {"messages": [turns("hi")] * rows, "extra": pa.array([text] * rows).dictionary_encode()}
    pq.write_table(
        pa.table(columns), data / "train.parquet", dictionary_pagesize_limit=1 << 30, store_schema=False
    )
    assert (data / "train.parquet").stat().st_size < 1 << 17
    before = pa.total_allocated_bytes()
    most = 0
    for row in open_dataset(data / "train.parquet").rows():
        assert row.outcome in ("accepted", "duplicate")
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 128 << 20


def header(**fields: bytes) -> bytes:
    """A tar header with raw fields, and its sum."""
    block = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    places = {"name": 0, "size": 124, "type": 156}
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "archive",
    [
        header(size=b"77777777777\0"),
        header(size=b"\x80" + b"\x7f" + b"\xff" * 10),
        header(size=b"\xff" * 10 + b"\xfe\0"),
        header(type=b"L", size=b"77777777777\0") + bytes(1024),
        header(type=b"x", size=b"\xff" * 10 + b"\xfe\0") + bytes(1024),
        header(type=b"S", size=b"77777777777\0") + bytes(1024),
        header(type=b"L", size=b"00000000000\0") * 5000 + bytes(1024),
    ],
    ids=["8 GiB", "8 EiB", "negative", "long name", "negative extended", "sparse", "names of names"],
)
def test_a_tar_whose_headers_lie_ends_with_a_fault(data: Path, archive: bytes) -> None:
    (data / "train.tar").write_bytes(archive)
    outcomes, _, wrong = judge(Case("webdataset", data / "train.tar", data, "webdataset", None))
    assert wrong == []
    assert outcomes.keys() <= {"rejected", "faulty file"}


MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps([{"messages": turns("hi") * 40_000 + turns("")}]), "turn 80001 (user) is empty"),
        (
            json.dumps(
                [{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_001}]}]
            ),
            "does not end with an answer",
        ),
        ("[" * 5 * MIB, "longer than 4,194,304 characters"),
        ('["' + "x" * 5 * MIB, "longer than 4,194,304 characters"),
        ('[{"id": ' + "9" * 5000 + "}]", "not valid JSON"),
        (json.dumps([{"id": "x" * 5000, "messages": turns("hi")}]), "the id has 5,000 characters"),
        (json.dumps([{"id": "\ud800", "messages": turns("hi")}]), "half a surrogate pair"),
        (json.dumps([{"messages": turns("\x1b[2J"), "images": ["\x1b[2J" * 300]}]), "image(s)"),
        (json.dumps([{"messages": turns(), "images": ["\x1b[2J" * 300]}]), "\\x1b[2J"),
    ],
    ids=["turns", "parts", "brackets", "quote", "digits", "long id", "half an id", "escapes", "escaped name"],
)
def test_texts_made_to_take_long_or_to_harm_a_terminal(data: Path, text: str, reason: str) -> None:
    (data / "train.json").write_text(text)
    _, _, wrong = judge(Case("sharegpt", data / "train.json", data, "sharegpt", None))
    assert wrong == []
    (row,) = rows_of(data / "train.json", format="sharegpt")
    assert reason in row.reason
    assert row.reason.isprintable()


def test_a_white_line_that_is_not_json_is_a_row(data: Path) -> None:
    (data / "train.jsonl").write_text(json.dumps({"messages": turns("hi")}) + "\n\u3000\n \n\x0c\n")
    rows = rows_of(data / "train.jsonl")
    assert [row.outcome for row in rows] == ["accepted", "rejected", "rejected"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([0], pa.timestamp("s", tz="Nowhere/Land")),
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
        pa.array([b"\xff"]).view(pa.string()),
    ],
    ids=["year 148113", "zone", "twins", "not UTF-8"],
)
def test_a_value_that_python_cannot_hold_costs_its_row(data: Path, column: pa.Array) -> None:
    plain = pa.array([None], column.type)
    table = pa.table({"messages": [turns("one"), turns("two")], "x": pa.chunked_array([column, plain])})
    pq.write_table(table, data / "train.parquet")
    rows = rows_of(data / "train.parquet")
    assert [row.outcome for row in rows] == ["rejected", "accepted"]
    assert 'the value of the column "x" cannot be read' in rows[0].reason


class Marking:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "run")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build("llava", tmp_path / "model")


def load_model(folder: Path) -> None:
    load(ModelConfig(path=str(folder), device="cpu"), LoraConfig(rank=2), 0)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(model: Path, tmp_path: Path, file: str) -> None:
    marker = tmp_path / "marker"
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    config = json.loads((model / file).read_text())
    names = (
        "AutoConfig",
        "AutoModelForImageTextToText",
        "AutoProcessor",
        "AutoTokenizer",
        "AutoImageProcessor",
    )
    config["auto_map"] = {name: ["own.Own", "own.Own"] if "Token" in name else "own.Own" for name in names}
    (model / file).write_text(json.dumps(config))
    with suppress(InputError):  # transformers has its own code for this kind, or says that it must be trusted
        load_model(model)
    assert not marker.exists()


def test_code_of_a_model_of_its_own_kind_is_not_run(model: Path, tmp_path: Path) -> None:
    """A kind that transformers does not know has no other code than its own."""
    marker = tmp_path / "marker"
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    config = json.loads((model / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(model)
    assert not marker.exists()


def test_weights_in_a_pickle_run_nothing(model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    weights = dict(copy.copy(load_file(model / "model.safetensors")))
    (model / "model.safetensors").unlink()
    torch.save(weights | {"extra": Marking(marker)}, model / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(model / "pytorch_model.bin", weights_only=True)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(model)
    assert not marker.exists()
