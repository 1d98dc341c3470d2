"""Bad input with the outcome that is expected of each row and each file."""

from __future__ import annotations

import json

import pytest

from lifelong.formats import open_dataset
from lifelong.formats.check import check, summarise
from lifelong.samples import Row
from tests.streams import outcomes_of_hostile, stream_path

ROWS = range(60)
FILES = {
    "not_json.json": "where a JSON list of rows is expected",
    "truncated.json": "cut off after row 1, at byte 445",
    "latin1.json": "not UTF-8: byte 0xe9 at offset 126",
    "bom.json": "",
    "empty_list.json": "no rows",
    "dict_not_list.json": "an object where a JSON list",
    "truncated.parquet": "not a whole Parquet file",
    "corrupt.tar": "not a whole tar file",
}
REASONS = {
    1: "turn 2 (assistant) is empty",
    3: "unknown role 'narrator'",
    5: "surrogate",
    7: "dict instead of text",
    9: "1 <image> tag(s) in the user's turns for 2 image(s)",
    11: 'image "p56.png" is too small: 1x1',
    13: 'image "p30.png" not found under images/',
    15: "turn 2 is by user where one by assistant is due",
    17: "not finite",
    19: '"../../../etc/passwd" leaves the image root',
    21: 'image "p33.png" is not an image',
    23: 'image "p32.png" is empty',
    25: 'image "p55.gif" is animated',
    27: "the conversation is empty",
    29: "0 <image> tag(s)",
    33: 'image "p34.png" is too large',
    35: "NUL",
    37: "does not end with an answer",
    39: "not finite",
    41: "leaves the image root",
    43: 'image "p31.jpg" cannot be decoded',
    45: "2 <image> tag(s) in the user's turns for 1 image(s)",
    47: 'no "id"',
    49: 'no "conversations"',
    51: "the same images and text",
    53: "nested deeper than 64 levels",
    55: '"/etc/passwd" is an absolute path',
    57: "nothing instead of text",
    59: "204,835 characters of text",
}


@pytest.fixture(scope="module")
def expected() -> dict:
    return outcomes_of_hostile()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    folder = stream_path("hostile")
    return list(open_dataset(folder / "hostile.json", images=folder / "images").rows())


@pytest.mark.parametrize("number", ROWS)
def test_row_has_the_expected_outcome_with_reason_and_fix(
    number: int, rows: list[Row], expected: dict
) -> None:
    row, wanted = rows[number], expected[str(number)]
    assert (row.row, row.file, row.outcome) == (number, "hostile.json", wanted["outcome"])
    assert REASONS.get(number, "") in row.reason
    assert bool(row.reason) == bool(row.fix) == (row.outcome != "accepted")
    assert (row.sample is None) == (row.outcome == "rejected")
    if row.outcome == "duplicate":
        assert row.of == rows[wanted["of"]].sample.sample_id


def test_every_expectation_is_tested(expected: dict) -> None:
    assert set(expected) == {str(number) for number in ROWS} | set(FILES)
    assert {int(key) for key in expected if key.isdigit() and expected[key]["outcome"] != "accepted"} == set(
        REASONS
    )


@pytest.mark.parametrize("name", FILES)
def test_file_has_the_expected_outcome(name: str, expected: dict) -> None:
    rows = list(open_dataset(stream_path("hostile") / name).rows())
    faults = [row for row in rows if row.row is None]
    assert ("rejected" if faults else "accepted") == expected[name]["outcome"]
    for fault in faults:
        assert (fault.file, fault.outcome) == (name, "rejected")
        assert FILES[name] in fault.reason
        assert fault.fix
    if not faults:
        assert [row.outcome for row in rows] == ["accepted"] * expected[name]["rows"]


def test_check_tells_and_counts_every_row() -> None:
    folder = stream_path("hostile")
    dataset = open_dataset(folder / "hostile.json", images=folder / "images")
    objects = list(check(dataset))
    assert all(list(item) == ["file", "row", "outcome", "reason", "fix"] for item in objects)
    assert json.loads(json.dumps(objects)) == objects
    summary = summarise(objects)
    assert (summary.accepted, summary.rejected, summary.duplicate) == (31, 28, 1)
    assert (summary.rows, summary.faulty_files, summary.sound) == (60, 0, False)


def test_a_fault_of_a_file_is_no_row() -> None:
    summary = summarise(check(open_dataset(stream_path("hostile") / "truncated.json")))
    assert (summary.rows, summary.accepted, summary.faulty_files, summary.sound) == (2, 2, 1, False)
