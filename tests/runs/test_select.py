"""One-shot selection: exact numbers, the input's own order and format, the same in any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lifelong
from lifelong.cli import invoke
from lifelong.config import budget_of
from lifelong.errors import InputError
from lifelong.formats import open_dataset
from lifelong.progress import Silent
from tests.runs.child import Children
from tests.runs.conftest import ROOT
from tests.runs.small import COLUMNS_AFTER, COLUMNS_BEFORE, entry, rows_of, write_rows

DATASETS = {
    "llava": "easyvqa",
    "sharegpt": "flags_knowledge",
    "jsonl": "bbh_lang",
    "parquet": "nlvr",
    "webdataset": "sroie_ocr",
}
PLACE = ["file", "row", "source_id"]


def select(train: object, out: Path, *options: object, method: str = "random", budget: str = "15%") -> None:
    command = ["select", train, "--method", method, "--out", out, "--budget", budget, "--quiet", *options]
    assert invoke([str(each) for each in command]) == 0


def chosen(out: Path) -> list[dict[str, Any]]:
    """The rows that the decisions beside a selection call selected, in their order."""
    table = pq.read_table(f"{out}.decisions.parquet").to_pylist()
    return [row for row in table if row["selected"]]


@pytest.mark.parametrize("format", DATASETS)
def test_a_selection_keeps_order_and_format(format: str, tmp_path: Path) -> None:
    found = entry(DATASETS[format])
    images = ["--images", found["images"]] if "images" in found else []
    out = tmp_path / f"selected{Path(found['train']).suffix}"
    select(found["train"], out, *images)

    source = open_dataset(found["train"], images=found.get("images"))
    written = open_dataset(out, images=found.get("images"))
    assert (source.format, written.format) == (format, format)
    before = [row for row in source.rows() if row.outcome == "accepted"]
    after = list(written.rows())
    assert len(after) == floor(Fraction(len(before) * 15, 100) + Fraction(1, 2))
    assert [row.outcome for row in after] == ["accepted"] * len(after)

    picked = {(row["file"], row["row"]): row for row in chosen(out)}
    expected = [row for row in before if (row.file, row.row) in picked]
    assert [row.sample.sample_id for row in after] == [row.sample.sample_id for row in expected]
    assert [row.raw for row in after] == [row.raw for row in expected]
    for row in expected:
        decision = picked[row.file, row.row]
        assert (decision["sample_id"], decision["source_id"]) == (row.sample.sample_id, row.source_id)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f"{out.name}.decisions.parquet"}


@pytest.mark.parametrize("out", ["folder", "file/out.json", "x" * 240, "taken"])
def test_a_place_that_cannot_be_written_shows_before_anything_is_measured(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.decisions.parquet").mkdir()
    (tmp_path / "file").touch()
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("lifelong.oneshot.select.run_phases", lambda *_: pytest.fail("measured"))
    command = ["select", entry("bbh_lang")["train"], "--method", "random", "--out", str(tmp_path / out)]
    assert invoke(command) == 1
    assert f"error: cannot write {tmp_path / out}" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["data.json", "link.json", "data.json.decisions.parquet"])
def test_a_selection_does_not_take_the_place_of_its_dataset(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / name, rows_of("easyvqa")[:12])
    if name == "link.json":
        data = data.rename(tmp_path / "data.json")
        (tmp_path / name).symlink_to(data)
    before = data.read_bytes()
    out = str(tmp_path / name).removesuffix(".decisions.parquet")
    images = ["--images", entry("easyvqa")["images"]]
    assert invoke(["select", str(data), *images, "--method", "random", "--out", out]) == 1
    assert "is of the dataset itself; name another file" in capsys.readouterr().err
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("budget", "code", "said"),
    [
        ("13", 1, "the budget asks for 13 rows and only 12 of them can be used; ask for no more"),
        ("4%", 2, "the budget 4% of 12 rows is not one row; ask for a larger share, or for 1"),
    ],
)
def test_a_budget_that_cannot_be_met_shows_before_anything_is_measured(
    budget: str, code: int, said: str, llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("easyvqa")[:12])
    command = ["select", data, "--images", entry("easyvqa")["images"], "--method", "el2n", "--model", llava]
    assert (
        invoke([str(each) for each in [*command, "--out", tmp_path / "out.json", "--budget", budget]]) == code
    )
    told = capsys.readouterr().err
    assert said in told
    assert "ingest" in told
    assert "measure" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_recipe_that_takes_every_row_says_that_it_keeps_to_no_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = entry("bbh_lang")["train"], str(tmp_path / "out.jsonl")
    for method, said in (
        ("multitask", "(budget 5, which this recipe does not keep to)"),
        ("random", "(budget 5)"),
    ):
        assert invoke(["select", data, "--method", method, "--budget", "5", "--out", out]) == 0
        assert said in capsys.readouterr().err


def test_a_share_is_of_the_rows_that_the_model_takes(
    llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of("easyvqa")[:12]
    rows[5]["conversations"][0]["value"] += " please" * 1000
    data = write_rows(tmp_path / "data.json", rows)
    images = ("--images", entry("easyvqa")["images"])
    for share in ("100%", "96%"):
        select(data, tmp_path / "out.json", *images, "--model", llava, method="el2n", budget=share)
        assert len(json.loads((tmp_path / "out.json").read_text())) == 11
    command = ["select", data, *images, "--model", llava, "--method", "el2n", "--out", tmp_path / "b.json"]
    assert invoke([str(each) for each in [*command, "--budget", "12"]]) == 1
    told = capsys.readouterr().err
    assert "asks for 12 rows and only 11 of them can be used (data.json row 5: " in told
    assert not (tmp_path / "b.json").exists()


def test_a_selection_that_is_interrupted_is_begun_again(
    llava: str, tmp_path: Path, children: Children
) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("easyvqa")[:12])
    out = tmp_path / "out.json"
    command = ["select", data, "--images", entry("easyvqa")["images"], "--method", "el2n", "--model", llava]
    command += ["--out", out, "--budget", "3"]
    ended = children.run(*command, at=(1, "shard 0", "before"), do="interrupt")
    assert ended.code == 130
    assert ended.stderr.endswith("interrupted; give the same command again\n")
    assert list(tmp_path.iterdir()) == [data]
    assert children.run(*command).code == 0
    assert len(json.loads(out.read_text())) == 3


def test_decisions_are_replaced_whole(tmp_path: Path) -> None:
    found = entry("easyvqa")
    images = ("--images", found["images"])
    decisions, kept = tmp_path / "out.json.decisions.parquet", tmp_path / "kept"
    select(found["train"], tmp_path / "out.json", *images)
    before = decisions.read_bytes()
    os.link(decisions, kept)
    select(found["train"], tmp_path / "out.json", *images, "--seed", 1)
    assert kept.read_bytes() == before
    assert decisions.read_bytes() != before


@pytest.mark.parametrize("kept", [12, 3])
def test_a_dataset_that_changes_while_it_is_measured_is_told(kept: int, tmp_path: Path) -> None:
    rows = rows_of("easyvqa")[:12]
    data = write_rows(tmp_path / "data.json", rows)

    class Meddler(Silent):
        def say(self, text: str) -> None:
            if text.startswith("  measure"):
                write_rows(data, rows[::-1][:kept])

    with pytest.raises(InputError, match=r"data.json row \d+ has changed since it was measured"):
        lifelong.select(
            data,
            tmp_path / "out.json",
            "random",
            budget=6,
            images=entry("easyvqa")["images"],
            progress=Meddler(),
        )
    assert list(tmp_path.iterdir()) == [data]


def test_the_rows_are_those_of_the_file_to_the_letter(tmp_path: Path) -> None:
    found = entry("easyvqa")
    select(found["train"], tmp_path / "out.json", "--images", found["images"])
    rows = json.loads((tmp_path / "out.json").read_text())
    ids = {row["source_id"] for row in chosen(tmp_path / "out.json")}
    assert rows == [row for row in rows_of("easyvqa") if row["id"] in ids]


def test_the_members_of_an_archive_are_kept(tmp_path: Path) -> None:
    found = entry("sroie_ocr")
    select(found["train"], tmp_path / "out.tar", budget="10")
    members: dict[str, bytes] = {}
    for shard in sorted(Path(found["train"]).parent.glob("train-*.tar")):
        with tarfile.open(shard) as archive:
            members |= {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}
    with tarfile.open(tmp_path / "out.tar") as archive:
        kept = {each.name: archive.extractfile(each).read() for each in archive}
    assert len(kept) == 20
    assert kept.items() <= members.items()


@pytest.mark.parametrize(
    ("budget", "rows"),
    [("6.25%", 2), ("18.75%", 5), ("18.7%", 4), ("7", 7), ("010", 10), ("100%", 24), ("24", 24)],
)
def test_a_share_is_rounded_half_up(budget: str, rows: int, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("easyvqa")[:24])
    select(data, tmp_path / "out.json", "--images", entry("easyvqa")["images"], budget=budget)
    assert len(json.loads((tmp_path / "out.json").read_text())) == rows
    assert len(chosen(tmp_path / "out.json")) == rows


@given(total=st.integers(0, 10**7), tenths=st.integers(1, 1000))
def test_halves_go_up_whatever_a_float_makes_of_them(total: int, tenths: int) -> None:
    exact = Fraction(total * tenths, 1000)
    assert budget_of(f"{tenths / 10}%", total) == floor(exact + Fraction(1, 2))


def test_a_half_that_a_float_would_miss() -> None:
    assert budget_of("64.6%", 250) == 162


def test_the_decisions_tell_of_every_row(llava: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("easyvqa")[:24])
    images = ("--images", entry("easyvqa")["images"])
    select(data, tmp_path / "out.json", *images, "--model", llava, method="adapt-inf", budget="25%")
    table = pq.read_table(tmp_path / "out.json.decisions.parquet")
    experts = ["score_el2n", "score_grounding", "score_perplexity", "score_scalselect"]
    assert table.column_names == PLACE + COLUMNS_BEFORE + experts + COLUMNS_AFTER
    assert table["row"].to_pylist() == list(range(24))
    assert sum(table["selected"].to_pylist()) == 6
    assert all(table["reason"].to_pylist())
    assert not any(table["pruned"].to_pylist())


def test_why_explains_any_row_of_a_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("easyvqa")[:12])
    select(data, tmp_path / "out.json", "--images", entry("easyvqa")["images"], budget="3")
    decisions = tmp_path / "out.json.decisions.parquet"
    for row in pq.read_table(decisions).to_pylist():
        for name in (row["sample_id"][:12], row["source_id"], f"data.json:{row['row']}"):
            capsys.readouterr()
            assert invoke(["why", str(decisions), name]) == 0
            assert row["reason"] in capsys.readouterr().out
    assert invoke(["why", str(decisions), "nobody"]) == 1
    assert "nothing is named 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["easyvqa", "nlvr"])
def test_a_folder_with_a_selection_in_it_is_a_dataset(name: str, tmp_path: Path) -> None:
    found = entry(name)
    images = ["--images", found["images"]] if "images" in found else []
    first = tmp_path / "first" / f"train{Path(found['train']).suffix}"
    select(found["train"], first, *images, budget="12")
    select(first.parent, tmp_path / "again", *images, budget="3")
    table = pq.read_table(tmp_path / "again.decisions.parquet").to_pylist()
    assert [row["file"] for row in table] == [first.name] * 12


def test_the_seed_decides(tmp_path: Path) -> None:
    found = entry("easyvqa")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        select(found["train"], tmp_path / name, "--images", found["images"], "--seed", seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_neither_the_process_nor_the_batch_size_changes_the_selection(llava: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.json", rows_of("tux_caption")[:48])
    images = ("--images", entry("tux_caption")["images"])
    common = ("--model", llava, "--set", "measure.batch_size=4")
    select(data, tmp_path / "here.json", *images, *common, method="el2n")
    select(data, tmp_path / "wide.json", *images, "--model", llava, method="el2n")
    command = [
        sys.executable,
        "-c",
        "from lifelong.cli import main; main()",
        "select",
        data,
        *images,
        *common,
    ]
    command += ["--method", "el2n", "--budget", "15%", "--out", tmp_path / "there.json", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([str(each) for each in command], env=environment, check=True)
    here, there, wide = (tmp_path / f"{name}.json" for name in ("here", "there", "wide"))
    assert len(json.loads(here.read_text())) == 7
    assert here.read_bytes() == there.read_bytes() == wide.read_bytes()
    tables = [pq.read_table(f"{out}.decisions.parquet") for out in (here, there)]
    assert tables[0].equals(tables[1])
    assert [row["rank"] for row in chosen(here)] == [row["rank"] for row in chosen(wide)]


def test_rows_that_are_refused_are_not_counted(tmp_path: Path) -> None:
    rows = rows_of("easyvqa")[:20]
    rows[3]["image"] = "missing.png"
    rows[8] = rows[2] | {"id": "again"}
    data = write_rows(tmp_path / "data.json", rows)
    select(data, tmp_path / "out.json", "--images", entry("easyvqa")["images"], budget="50%")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 9
    table = pq.read_table(tmp_path / "out.json.decisions.parquet")
    assert table["row"].to_pylist() == [*(row for row in range(20) if row not in (3, 8)), 3, 8]


def test_rows_that_are_refused_are_found_by_their_names(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of("easyvqa")[:12]
    rows[3]["image"] = "missing.png"
    rows[5]["conversations"][0]["value"] = "<image>\nWhat does <|image_pad|> stand for?"
    rows[8] = rows[2] | {"id": "again"}
    data = write_rows(tmp_path / "data.json", rows)
    images = ("--images", entry("easyvqa")["images"])
    model = ("--model", model_folders["qwen2_5_vl"])
    select(data, tmp_path / "out.json", *images, *model, method="el2n", budget="2")
    decisions = tmp_path / "out.json.decisions.parquet"
    table = pq.read_table(decisions).to_pylist()
    refused = {row["row"]: row for row in table if row["cluster"] is None}
    assert [*refused] == [5, 3, 8]
    ids = [row["sample_id"] for row in table if row["sample_id"]]
    assert len(set(ids)) == len(ids)
    assert [row["neighbour"] in ids for row in table if row["reason"].startswith("duplicate")] == [True]
    for number, reason in ((3, "missing.png"), (5, "may not be written out"), (8, "earlier row")):
        assert (refused[number]["file"], refused[number]["source_id"]) == ("data.json", rows[number]["id"])
        assert reason in refused[number]["reason"]
        for name in (rows[number]["id"], f"data.json:{number}"):
            capsys.readouterr()
            assert invoke(["why", str(decisions), name]) == 0
            assert reason in capsys.readouterr().out


def test_a_name_of_another_format_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    select(entry("nlvr")["train"], tmp_path / "picked.jsonl")
    assert "picked.jsonl is a file of format parquet" in capsys.readouterr().err
    select(entry("nlvr")["train"], tmp_path / "picked.parquet")
    assert "note" not in capsys.readouterr().err


def test_shards_that_disagree_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(entry("nlvr")["train"])
    for number, extra in enumerate(([1] * len(table), ["x"] * len(table))):
        pq.write_table(table.append_column("extra", [extra]), tmp_path / f"a-{number}.parquet")
    command = ["select", str(tmp_path), "--method", "random", "--out", str(tmp_path / "out.parquet")]
    assert invoke(command) == 1
    said = capsys.readouterr().err
    assert "a-0.parquet and" in said
    assert 'disagree on the column "extra": int64 and string' in said
    assert "ingest" not in said
