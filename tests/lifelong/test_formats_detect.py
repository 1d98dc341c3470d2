"""What a user names, and which files and format it turns out to be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lifelong.formats import DatasetError, open_dataset
from lifelong.formats.detect import expand_braces
from lifelong.formats.faults import FileError
from lifelong.formats.hfdatasets import read
from tests.streams import stream_path

FORMATS = {
    "easyvqa/train.json": "llava",
    "flags_knowledge/train.json": "sharegpt",
    "puzzlevqa/train.json": "sharegpt",
    "bbh_lang/train.jsonl": "jsonl",
    "nlvr/train-00000-of-00001.parquet": "parquet",
    "sroie_ocr/train-{000000..000001}.tar": "webdataset",
}


@pytest.mark.parametrize("name", FORMATS)
def test_content_tells_the_format_where_the_name_does_not(name: str, tmp_path: Path) -> None:
    path = stream_path("real10-mini") / name
    assert open_dataset(path).format == FORMATS[name]
    if path.is_file():
        (tmp_path / "data").symlink_to(path)
        assert open_dataset(tmp_path / "data").format == FORMATS[name]


@pytest.mark.parametrize("name", ["easyvqa", "flags_knowledge", "bbh_lang", "nlvr", "sroie_ocr"])
def test_a_folder_stands_for_its_train_files(name: str) -> None:
    dataset = open_dataset(stream_path("real10-mini") / name)
    assert all(file.name.startswith("train") for file in dataset.files)
    rows = list(dataset.rows())
    assert len(rows) == 96
    assert {row.outcome for row in rows} == {"accepted"}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            "dev-0.parquet test-0.parquet validation-0.parquet",
            "dev-0.parquet, test-0.parquet, validation-0.parquet",
        ),
        ("llava.jsonl test.jsonl val.jsonl", "llava.jsonl, test.jsonl, val.jsonl"),
        ("a_train.tar a_val.tar", "a_train.tar, a_val.tar"),
        ("val-0.tar valid-1.tar validation-2.tar", ""),
        ("test-0.tar test-1.tar", ""),
        ("attestation.jsonl contest.jsonl developer.jsonl", ""),
        ("train-0.tar val-0.tar", ""),
    ],
)
def test_splits_are_not_mixed(names: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in names.split():
        (tmp_path / "data" / name).write_text("{}")
    if told:
        with pytest.raises(DatasetError, match=rf"several splits and no train-\* \({told}\); name one file"):
            open_dataset(tmp_path, format="jsonl")
    else:
        assert len(open_dataset(tmp_path, format="jsonl").files) == (
            1 if "train-" in names else len(names.split())
        )


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0), "is compressed \\(gzip\\); decompress it first"),
        ("a.tar", gzip.compress(b"{}", mtime=0), "is compressed \\(gzip\\)"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "is compressed \\(zstd\\)"),
        ("a.csv", b"question,answer\n", "a table in text, which is not read; write it as Parquet"),
    ],
)
def test_packed_files_and_tables_are_told(name: str, data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.tar"])
def test_what_git_lfs_has_not_fetched_is_told_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    (fault,) = open_dataset(tmp_path / name).rows()
    assert (fault.row, fault.reason) == (None, "a Git LFS pointer, not the file itself")
    assert fault.fix == "fetch it: git lfs pull"


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "UTF-16"), ("latin-1", "ISO-8859-1")])
def test_the_encoding_to_convert_from_is_told(encoding: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": "é"}]', encoding=encoding)
    fault = list(open_dataset(tmp_path / "a.json").rows())[-1]
    assert f"iconv -f {named} -t UTF-8" in fault.fix


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


@pytest.mark.parametrize("pattern", ["{3..1}", "{x}", "{0..999999999}", "{0..99999}{0..9}"])
def test_braces_that_make_no_sense_are_refused(pattern: str) -> None:
    with pytest.raises(DatasetError):
        expand_braces(pattern)


def test_errors_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "eval.json").write_text("[]")
    (tmp_path / "notes").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-0.tar").write_bytes(b"")
    for path, message in {
        "none.json": "does not exist",
        "a-{0..2}.tar": "2 of the 3 files",
        "empty": "holds no file",
        ".": "several datasets",
        "notes": "in no format that is known",
    }.items():
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path / path)
    with pytest.raises(DatasetError, match='unknown format "csv"; use one of llava, sharegpt'):
        open_dataset(tmp_path / "rows.json", format="csv")
    with pytest.raises(DatasetError, match=r"the image root .* is not a folder"):
        open_dataset(tmp_path / "rows.json", images=tmp_path / "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DatasetError, match="HF_HUB_OFFLINE forbids"):
        open_dataset("owner/name")
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset("owner/name.json")


def test_a_name_on_the_hub_is_one_file_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    dataset = open_dataset("owner/name")
    assert (dataset.format, dataset.files) == ("huggingface", [Path("owner/name")])


def test_a_hub_that_cannot_be_asked_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(FileError, match="`datasets` cannot read it"):
        next(read(Path("no-such-owner/no-such-name"), open_dataset("owner/name").limits))


@pytest.mark.parametrize(
    ("rows", "format"),
    [
        ([{"id": "a", "conversations": []}], "llava"),
        ([{"conversations": []}], "sharegpt"),
        ([{"id": "a", "conversations": [], "images": []}], "sharegpt"),
        ([{"id": "a", "texts": [], "image": "a.png"}], "sharegpt"),
        ([{"id": "a", "prompt": "", "completion": ""}], "sharegpt"),
        ([{"id": "a", "conversations": [], "question": "why?"}], "llava"),
        ([3, {"image": "a.png"}], "sharegpt"),
        ([{"image": "a.png", "conversations": []}], "sharegpt"),
        ([{"image": "a.png"}, {"id": "a"}], "llava"),
        ([], "sharegpt"),
    ],
)
def test_lists_of_rows(rows: list, format: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert open_dataset(tmp_path / "rows.json").format == format


@pytest.mark.parametrize(
    ("name", "answers", "reason"),
    [
        ("owner/two:a", ["a"], ""),
        ("owner/two:b:test", ["b", "test"], ""),
        ("owner/two:b(all,of+it):test", ["b", "test"], ""),
        ("owner/two", [], "available configs: ['a', 'b', 'b(all,of+it)']"),
        ("owner/two:c", [], "Available: ['a', 'b', 'b(all,of+it)']"),
        ("owner/two:a:test", [], "Available splits: ['train']"),
    ],
)
def test_a_subset_and_a_split_on_the_hub(
    name: str, answers: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    _publish(tmp_path / "two")
    load = datasets.load_dataset
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, *rest, **options: load(str(tmp_path / Path(name).name), *rest, **options),
    )
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    rows = list(open_dataset(name).rows())
    found = [row.sample.messages[-1]["content"][0]["text"] for row in rows if row.sample]
    assert found == answers
    if reason:
        assert reason in rows[0].reason
        assert "owner/name:subset:split" in rows[0].fix


def _publish(folder: Path) -> None:
    """A dataset as it lies on the hub: subset a has a train split, b a test split too."""
    import datasets

    b = {"train": ["b"], "test": ["b", "test"]}
    splits = {"a": {"train": ["a"]}, "b": b, "b(all,of+it)": b}
    lines = ["---", "configs:"]
    for subset, answers in splits.items():
        lines += [f"- config_name: '{subset}'", "  data_files:"]
        for split, said in answers.items():
            table = datasets.Dataset.from_dict({"question": ["what?"] * len(said), "answer": said})
            table.to_parquet(str(folder / subset / f"{split}.parquet"))
            lines += [f"  - split: {split}", f"    path: {subset}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---"]), encoding="utf-8")
