"""Parquet, WebDataset and `datasets` folders: what they hold, and damage at any place."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from lifelong.formats import Limits, open_dataset
from lifelong.samples import Row
from tests.streams import stream_path


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def turns(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]


def rows_of(path: Path, **options: Any) -> list[Row]:
    return list(open_dataset(path, **options).rows())


def pack(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pair(key: str, question: str = "<image>hi", **extra: Any) -> list[tuple[str, bytes]]:
    text = json.dumps({"messages": turns(f"{question} {key}"), **extra}).encode()
    return [(f"{key}.png", png()), (f"{key}.json", text)]


@pytest.mark.parametrize("name", ["sroie_ocr/train-{000000..000001}.tar", "nlvr", "emoji_multilingual"])
def test_real_files_are_accepted_whole(name: str) -> None:
    rows = rows_of(stream_path("real10-mini") / name)
    assert len(rows) == 96
    assert {row.outcome for row in rows} == {"accepted"}
    assert all(row.sample.images[0].data for row in rows)


@pytest.mark.parametrize(
    "images",
    [
        [{"bytes": png(1), "path": "x.png"}, {"bytes": png(2), "path": None}],
        [png(1), png(2)],
        ["one.png", "two.png"],
        [{"bytes": None, "path": "one.png"}, {"bytes": None, "path": "two.png"}],
    ],
)
def test_parquet_images_in_every_form(tmp_path: Path, images: list[Any]) -> None:
    (tmp_path / "one.png").write_bytes(png(1))
    (tmp_path / "two.png").write_bytes(png(2))
    table = pa.table({"messages": [turns("<image><image>hi")], "images": [images], "score": [float("nan")]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    (row,) = rows_of(tmp_path)
    assert row.outcome == "accepted", row.reason
    assert [image.read() for image in row.sample.images] == [png(1), png(2)]


def test_parquet_with_one_image_column_and_parts(tmp_path: Path) -> None:
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    question = [{"type": "text", "text": "hi"}, {"type": "image", "text": None}]
    answer = [{"type": "text", "text": "yes"}]
    messages = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}]]
    table = pa.table({"messages": pa.array(messages, pa.list_(turn)), "image": [png()]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert row.sample.messages[0]["content"] == [{"type": "text", "text": "hi"}, {"type": "image"}]


def test_parquet_shards_are_one_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for shard in range(3):
        table = pa.table({"messages": [turns(f"{shard} {row}") for row in range(2)]})
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"train-{shard:05}.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "data" / "eval-00000.parquet")
    rows = rows_of(tmp_path)
    assert [(row.file, row.row) for row in rows][:3] == [
        ("data/train-00000.parquet", 0),
        ("data/train-00000.parquet", 1),
        ("data/train-00001.parquet", 0),
    ]
    assert len(rows) == 6


def test_a_damaged_shard_does_not_hide_the_next(tmp_path: Path) -> None:
    table = pa.table({"messages": [turns("hi")]})
    for name in ("a.parquet", "b.parquet"):
        pyarrow.parquet.write_table(table, tmp_path / name)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    assert [(row.file, row.row, row.outcome) for row in rows_of(tmp_path)] == [
        ("a.parquet", None, "rejected"),
        ("b.parquet", 0, "accepted"),
    ]


def test_captions_of_img2dataset_are_refused_with_the_fix_and_read_once_they_answer_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members: list[tuple[str, bytes]] = []
    for number in range(3):
        key = f"{number:09}"
        told = {
            "caption": f"dog {number}",
            "url": "https://x.org/a.jpg",
            "key": key,
            "status": "success",
            "exif": "{}",
        }
        members += [(f"{key}.jpg", png(number)), (f"{key}.txt", f"dog {number}".encode())]
        members.append((f"{key}.json", json.dumps(told).encode()))
    for row in rows_of(pack(tmp_path / "00000.tar", members)):
        assert row.reason == f'"{row.row:09}.txt" is neither .json nor an image'
        assert 'write one with it, {"question": "Describe the image.", "answer": …}, in the .json' in row.fix
    (row, *_) = rows_of(
        pack(tmp_path / "pairs.tar", [each for each in members if not each[0].endswith(".txt")])
    )
    assert '"caption" is not read' in row.reason
    assert "a caption answers no question: write one with it" in row.fix

    page = (Path(__file__).parents[2] / "docs" / "howto" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import io, json, tarfile.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = rows_of(tmp_path / "captions-00000.tar")
    assert [row.outcome for row in found] == ["accepted"] * 3
    assert [row.sample.messages for row in found] == [
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"dog {number}"}]},
        ]
        for number in range(3)
    ]


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        (pair("a") + pair("deep/b.0"), ["", ""]),
        (pair("a") + pair("dir.d/b"), ["", ""]),
        (pair("a", image="a.png"), [""]),
        (pair("a", image="other/name.png"), [""]),
        (pair("a", "<image><image>", images=["a.png", "x.png"]), ['"x.png" is not in the archive']),
        (pair("a")[:1], ["0 .json members for one sample (a.png)"]),
        (pair("a")[1:], ["1 <image> tag(s) in the user's turns for 0 image(s)"]),
        ([*pair("a"), ("a.txt", b"hi")], ['"a.txt" is neither .json nor an image']),
        ([*pair("a"), ("a.png", png())], ['"a.png" occurs twice']),
        ([("a.json", b"{nope"), *pair("b")], ["not valid JSON", ""]),
        ([("a.json", b'{"x": "\xe9"}'), *pair("b")], ["not UTF-8 at byte 7", ""]),
    ],
)
def test_webdataset_groups(tmp_path: Path, members: list[tuple[str, bytes]], reasons: list[str]) -> None:
    rows = rows_of(pack(tmp_path / "a.tar", members))
    assert [row.row for row in rows] == list(range(len(reasons)))
    for row, reason in zip(rows, reasons, strict=True):
        assert (row.outcome == "accepted") == (reason == "")
        assert reason in row.reason


@given(place=st.integers(0, 8 * 512 - 1), value=st.integers(0, 255), cut=st.integers(0, 10_240))
def test_webdataset_damage_is_a_fault_and_never_silent(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: int
) -> None:
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", pair("a") + pair("b"))
    data = bytearray(path.read_bytes())
    end = 8 * 512  # four headers and four blocks of content
    sound = rows_of(path)
    data[place] = value
    path.write_bytes(data[: max(1, len(data) - cut)])
    rows = rows_of(path, format="webdataset")
    assert rows
    if len(data) - cut < end + 512:  # the end mark is damaged
        assert rows[-1].row is None
    if not any(row.row is None for row in rows):
        assert len(rows) == len(sound)


def test_an_archive_behind_another_in_one_file_is_not_passed_over(tmp_path: Path) -> None:
    first, second = (pack(tmp_path / f"{key}.tar", pair(key)).read_bytes() for key in "ab")
    (tmp_path / "both.tar").write_bytes(first + second)
    row, fault = rows_of(tmp_path / "both.tar")
    assert (row.outcome, fault.row, fault.outcome) == ("accepted", None, "rejected")
    assert "more follows the end of the archive at byte 2560" in fault.reason
    (tmp_path / "padded.tar").write_bytes(first + bytes(1 << 21))
    assert [row.outcome for row in rows_of(tmp_path / "padded.tar")] == ["accepted"]


def test_a_saved_dataset_is_read_with_its_images_undecoded(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "messages": datasets.List(
                {"role": datasets.Value("string"), "content": datasets.Value("string")}
            ),
            "images": datasets.List(datasets.Image()),
        }
    )
    rows = [
        {"messages": turns(f"<image>hi {n}"), "images": [{"bytes": png(n), "path": None}]} for n in range(3)
    ]
    saved = datasets.Dataset.from_list(rows, features=features)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        dataset = open_dataset(tmp_path / name)
        read = list(dataset.rows())
        assert (dataset.format, {row.file for row in read}) == ("huggingface", {name})
        assert [row.outcome for row in read] == ["accepted"] * 3
        assert [row.sample.images[0].read() for row in read] == [png(n) for n in range(3)]


def test_a_damaged_saved_dataset_is_a_fault(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"messages": turns("hi")}]).save_to_disk(tmp_path / "one")
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:40])
    (fault,) = rows_of(tmp_path / "one")
    assert (fault.row, fault.outcome) == (None, "rejected")
    assert "is not a whole Arrow file" in fault.reason


def test_members_over_the_limit_are_refused_unread(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", pair("a"))
    (row,) = rows_of(path, limits=Limits(max_image_bytes=10))
    assert f"too large: {len(png())} bytes, the limit is 10" in row.reason
