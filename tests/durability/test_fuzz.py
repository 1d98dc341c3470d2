"""The fuzzer in its bounded form, and that it finds faults where there are some. `make fuzz` runs it in full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong.formats import FORMATS, DatasetError
from lifelong.formats.dataset import Dataset
from lifelong.formats.images import ImageOpener
from lifelong.samples import Image, Row
from tests.durability import fuzz
from tests.durability.fuzz import judge, run_cases, watched
from tests.durability.fuzz_cases import Case, make_case

CASES = 1000


def test_no_case_breaks_a_reader() -> None:
    tally = watched(0, CASES, seed=2)
    assert tally.faults == []
    assert tally.cases == CASES
    assert min(tally.outcomes[name] for name in ("accepted", "rejected", "duplicate", "faulty file")) > 20


def test_metadata_at_which_pyarrow_would_end_the_process() -> None:
    assert watched(2530, 2531, seed=4).faults == []


def test_a_case_is_the_same_whenever_it_is_drawn(tmp_path: Path) -> None:
    def drawn(folder: Path) -> dict[str, bytes]:
        make_case(folder, 7, seed=3)
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
        }

    assert drawn(tmp_path / "a") == drawn(tmp_path / "b")


def test_every_format_is_drawn(tmp_path: Path) -> None:
    assert {make_case(tmp_path / str(number), number).format for number in range(40)} == set(FORMATS)


def _rows_lost(self: Dataset) -> Iterator[Row]:
    yield from list(_rows(self))[1:]


def _rows_raising(self: Dataset) -> Iterator[Row]:
    raise KeyError("a reader's own fault")


def _rows_told_badly(self: Dataset) -> Iterator[Row]:
    for row in _rows(self):
        yield Row(
            row.file, row.row, row.outcome, "\ud800" if row.reason else "", row.fix, row.sample, of=row.of
        )


_rows = Dataset.rows


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (_rows_lost, "rows numbered"),
        (_rows_raising, "KeyError"),
        (_rows_told_badly, "cannot be shown"),
    ],
)
def test_faults_of_a_reader_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Any, fault: str
) -> None:
    monkeypatch.setattr(Dataset, "rows", reader)
    found = run_cases(0, 60, 0, tmp_path).faults
    assert any(fault in told for _, told in found)


def test_an_image_from_outside_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: ImageOpener, reference: Any, members: Any = None) -> Image:
        return self._checked(Path(outside).read_bytes(), None, "an image")

    case = make_case(tmp_path, next(_with_images(tmp_path / "tried")))
    outside = tmp_path / "secret.png"
    monkeypatch.setattr(ImageOpener, "open", opened)
    _, _, wrong = judge(case)
    assert "the secret picture was read" in wrong
    assert f"opened {outside}" in wrong


def _with_images(folder: Path) -> Iterator[int]:
    """Cases in which a row with an image is accepted."""
    for number in range(1000):
        case = make_case(folder / str(number), number)
        try:
            rows = list(fuzz.open_dataset(case.path, images=case.images, format=case.told).rows())
        except DatasetError:
            continue
        if any(row.sample is not None and row.sample.images for row in rows):
            yield number


def _dying_or_hanging(case: Case) -> tuple[dict[str, int], float, list[str]]:
    match case.path.parent.parent.name:
        case "case-3":
            raise SystemExit(9)
        case "case-5":
            time.sleep(60)
    return {}, 0.0, []


def test_a_process_that_dies_or_hangs_is_a_fault_of_its_case() -> None:
    tally = watched(0, 8, seed=0, judge=_dying_or_hanging, patience=6)
    assert tally.faults == [(3, "the process ended with 9"), (5, "no end within 6 s")]
    assert (tally.cases, tally.silent) == (8, 2)
