"""The JSON readers against Python's own, at chunk sizes that split everything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.formats import Limits, jsontext
from lifelong.formats.faults import FileError
from lifelong.formats.jsontext import MAX_ROW_CHARS, line_records, list_records
from lifelong.formats.validate import Record

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TEXTS = st.text(alphabet=st.sampled_from('"\\{}[],: \nab\u00e9\U0001f600'), max_size=12)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
CHUNKS = st.integers(1, 40)
SPACES = st.sampled_from(["", " ", "\n", "\r\n\t "])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "rows.json"


def read(path: Path, data: bytes, chunk: int = 7) -> tuple[list[Record], FileError | None]:
    path.write_bytes(data)
    records: list[Record] = []
    try:
        for record in list_records(path, Limits(), chunk):
            records.append(record)
    except FileError as fault:
        return records, fault
    return records, None


@given(
    values=st.lists(VALUES, max_size=6), chunk=CHUNKS, ascii=st.booleans(), space=SPACES, mark=st.booleans()
)
@settings(max_examples=200)
def test_list_reads_as_json_loads_does(
    scratch: Path, values: list[Any], chunk: int, ascii: bool, space: str, mark: bool
) -> None:
    body = f"{space},{space}".join(json.dumps(value, ensure_ascii=ascii) for value in values)
    text = f"{space}[{space}{body}{space}]{space}"
    data = text.encode("utf-8-sig" if mark else "utf-8", "replace")
    records, fault = read(scratch, data, chunk)
    assert fault is None
    wanted = json.loads(data.decode("utf-8-sig"))
    assert repr([record.raw for record in records]) == repr(wanted)  # repr, for NaN is not equal to itself
    assert [record.fault is None for record in records] == [is_plain(value) for value in wanted]


def is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    return all(is_plain(item) for item in value) if isinstance(value, list) else True


@given(values=st.lists(VALUES, min_size=1, max_size=4), chunk=CHUNKS, data=st.data())
@settings(max_examples=200)
def test_a_cut_anywhere_is_a_fault_after_the_whole_rows(
    scratch: Path, values: list[Any], chunk: int, data: st.DataObject
) -> None:
    whole = json.dumps(values).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    records, fault = read(scratch, whole[:cut], chunk)
    assert fault is not None
    assert repr([record.raw for record in records]) == repr(values[: len(records)])


@given(noise=st.binary(max_size=60), chunk=CHUNKS)
@settings(max_examples=300)
def test_noise_never_raises_anything_else(scratch: Path, noise: bytes, chunk: int) -> None:
    records, fault = read(scratch, noise, chunk)
    if fault is None:
        assert noise.strip().removeprefix(b"\xef\xbb\xbf").strip().startswith(b"[")
    again, same = read(scratch, noise, 1 << 20)
    assert repr([record.raw for record in again]) == repr([record.raw for record in records])
    assert str(same) == str(fault)


def test_a_malformed_element_costs_one_row(scratch: Path) -> None:
    records, fault = read(scratch, b'[{"a": 1}, {"b": nope}, , {"c": 3}]')
    assert fault is None
    assert [record.raw for record in records] == [{"a": 1}, None, None, {"c": 3}]
    assert "not valid JSON" in records[1].fault.reason
    assert "between two commas" in records[2].fault.reason


@pytest.mark.parametrize("depth", [64, 65, 500, 100_000])
def test_nesting_is_a_fault_of_the_row_alone(scratch: Path, depth: int) -> None:
    records, fault = read(scratch, b'[1, %s, "end"]' % (b"[" * depth + b"]" * depth), 4096)
    assert fault is None
    assert [record.fault is None for record in records] == [True, depth <= 64, True]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_others_cannot_read_are_faults_of_the_row(scratch: Path, number: str) -> None:
    records, fault = read(scratch, f'[1, {{"score": {number}}}, 2]'.encode())
    assert fault is None
    assert [record.fault is None for record in records] == [True, False, True]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b'{"data": []}', "an object where a JSON list"),
        (b"id,image\n", "starts with 'i'"),
        (b"[1, 2] [3]", "text after the end of the list (after row 1)"),
        (b"[1, 2}", "a stray }"),
        (b'[{"a": 1}, {"a": "', "cut off after row 0, at byte 18"),
        (b'["ok", "caf\xe9"]', "not UTF-8: byte 0xe9 at offset 11"),
        ("[1]".encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_faults_of_the_file_name_the_place(scratch: Path, data: bytes, reason: str, chunk: int) -> None:
    fault = read(scratch, data, chunk)[1]
    assert fault is not None
    assert reason in fault.reason
    assert fault.fix


@given(values=st.lists(VALUES, max_size=6), blank=st.booleans(), end=st.booleans())
@settings(max_examples=100)
def test_lines_read_as_json_loads_does(scratch: Path, values: list[Any], blank: bool, end: bool) -> None:
    lines = [json.dumps(value) for value in values]
    text = ("\n\n" if blank else "\n").join(lines) + ("\n" if end else "")
    scratch.write_text("\ufeff" + text, encoding="utf-8")
    assert repr([record.raw for record in line_records(scratch, Limits())]) == repr(values)


def test_lines_tell_a_cut_from_a_malformed_row(scratch: Path) -> None:
    scratch.write_bytes(b'{"a": 1}\n{"b": \n{"c": 3}\n{"d": "')
    records = line_records(scratch, Limits())
    assert [next(records).fault is None for _ in range(3)] == [True, False, True]
    with pytest.raises(FileError, match="cut off after row 2, at byte 32"):
        next(records)


def test_lines_name_the_byte_that_is_not_utf8(scratch: Path) -> None:
    scratch.write_bytes(b'{"a": 1}\n{"b": "caf\xe9"}\n')
    with pytest.raises(FileError, match="byte 0xe9 at offset 19"):
        list(line_records(scratch, Limits()))


def test_a_line_without_end_is_refused_before_it_fills_memory(scratch: Path) -> None:
    scratch.write_bytes(b'{"a": 1}\n' + b"x" * 5000)
    _, refused = line_records(scratch, Limits(), max_chars=1000)
    assert refused.fault is not None
    assert "the line is longer than 1,000 bytes" in refused.fault.reason


def test_after_a_line_that_is_too_long_comes_the_next_row(scratch: Path) -> None:
    scratch.write_bytes(b'{"a": 1}\n' + b"x" * 5000 + b'\n{"b": "caf\xe9"}\n')
    records = line_records(scratch, Limits(), max_chars=1000)
    assert [next(records).fault is None for _ in range(2)] == [True, False]
    with pytest.raises(FileError, match="byte 0xe9 at offset 5020"):
        next(records)


@pytest.mark.parametrize("start", ["iVBOR", "data:image/png;base64,", "data:image\\/png;base64,"])
def test_images_in_base64_may_make_a_row_long(scratch: Path, start: str) -> None:
    row = f'{{"image": "{start}{"A" * (MAX_ROW_CHARS + 100)}", "more": ["]"]}}'
    records, fault = read(scratch, f'[{row}, {row},{{"b": 2}}]'.encode(), 1 << 20)
    assert fault is None
    assert [record.fault is None for record in records] == [True, True, True]
    scratch.write_text(f'{row}\n{{"b": 2}}\n{row}\n')
    assert [record.fault is None for record in line_records(scratch, Limits())] == [True, True, True]


@pytest.mark.parametrize("long", ['"%s"', '{"a": ["iVBOR", "\\"%s\\\\", "]"]}', "[%s1]", '"iVBOR%s"'])
def test_a_row_that_is_too_long_costs_one_row(
    scratch: Path, long: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in {"MAX_ROW_CHARS": 4000, "MAX_INLINE_CHARS": 9000}.items():
        monkeypatch.setattr(jsontext, name, limit)
    row = long % ("A," * 5000 if '"' in long else "1," * 5000)
    for chunk in (1, 7, 1 << 20):
        records, fault = read(scratch, f'[{{"a": 1}}, {row} , {row},{{"b": 2}}]'.encode(), chunk)
        assert fault is None
        assert [record.raw for record in records] == [{"a": 1}, None, None, {"b": 2}]
        assert "the row is longer than 4,000 characters" in records[1].fault.reason
        records, fault = read(scratch, f'[{{"a": 1}}, {row[:-1]}'.encode(), chunk)
        assert [record.raw for record in records] == [{"a": 1}]
        assert "row 1 is longer than 4,000 characters and does not end" in fault.reason
