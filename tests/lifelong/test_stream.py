"""Stream files: paths relative to the file, and errors that name file, dataset and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong.config import read_config
from lifelong.errors import InputError, UsageError
from lifelong.run import label_of
from lifelong.stream import located, read_stream
from tests.streams import stream_path


def write(folder: Path, text: str, name: str = "stream.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    absolute = tmp_path / "elsewhere" / "b.json"
    path = write(
        tmp_path,
        "name: two\n"
        "datasets:\n"
        "  - {name: a, skill: vqa, format: llava, train: a/train.json, images: a/images, eval: a/eval.json, "
        "eval_images: a/shown, eval_format: jsonl, metric: anls, licence: CC0, origin: a shop}\n"
        f"  - {{name: b, train: {absolute}}}\n",
    )
    stream = read_stream(path)
    assert stream.name == "two"
    first, second = stream.datasets
    assert (first.train, first.images, first.eval) == tuple(
        str(tmp_path / "a" / name) for name in ("train.json", "images", "eval.json")
    )
    assert (first.images_of_eval, first.format_of_eval) == (str(tmp_path / "a" / "shown"), "jsonl")
    assert (second.images_of_eval, second.format_of_eval) == (None, None)
    assert (first.skill, first.format, first.metric) == ("vqa", "llava", "anls")
    assert (second.train, second.skill) == (str(absolute), "b")
    assert (second.images, second.eval, second.metric, second.format) == (None, None, None, None)


def test_a_relative_stream_path_gives_absolute_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "datasets: [{name: a, train: a.json}]")
    monkeypatch.chdir(tmp_path)
    stream = read_stream(Path("stream.yaml"))
    assert stream.name == "stream"
    assert stream.datasets[0].train == str(tmp_path / "a.json")


def test_a_hub_name_stays_as_it_is(tmp_path: Path) -> None:
    assert located("HuggingFaceM4/VQAv2", tmp_path) == "HuggingFaceM4/VQAv2"
    assert located("a/FineVision:sharegpt4v(coco):train", tmp_path) == "a/FineVision:sharegpt4v(coco):train"
    assert located("a/LLaVA-1.5", tmp_path) == "a/LLaVA-1.5"
    assert located("../data", tmp_path) == str(tmp_path / ".." / "data")
    (tmp_path / "local").mkdir()
    assert located("local/data", tmp_path) == str(tmp_path / "local" / "data")
    assert located("absent/data.json", tmp_path) == str(tmp_path / "absent" / "data.json")
    assert located("data", tmp_path) == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("dataset", "label"),
    [
        ("ocr/train.json", "ocr"),
        ("releases/ocr-{000..003}.tar", "ocr"),
        ("a/the_cauldron:ai2d", "the_cauldron-ai2d"),
        ("a/name.v2:b:test", "name-b-test"),
        ("a/name::test", "name-test"),
    ],
)
def test_a_dataset_without_a_name_is_called_after_its_file(dataset: str, label: str) -> None:
    assert label_of(dataset) == label


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("[{name: a}]", r"dataset 1 \(a\) has no field 'train'"),
        ("[{name: a, train: a.json}, {train: b.json}]", r"dataset 2 \(no name\) has no field 'name'"),
        ("[{name: a, train: ''}]", r"dataset 1 \(a\) has no field 'train'"),
        (
            "[{name: a, train: a.json, imags: i}]",
            r"dataset 1 \(a\): unknown field 'imags'; did you mean 'images'",
        ),
        (
            "[{name: a, train: a.json, zzz: i}]",
            r"dataset 1 \(a\): unknown field 'zzz'; fields are name, skill",
        ),
        ("[{name: a, train: a.json, skill: 3}]", r"dataset 1 \(a\): field 'skill' is 3; write text"),
        ("[{name: a, train: [a.json]}]", r"dataset 1 \(a\): field 'train' is \['a.json'\]; write text"),
        ("[{name: a, train: a.json}, {name: a, train: b.json}]", "two datasets are named 'a'"),
        ("[a.json]", "dataset 1 is not a set of fields"),
        ("{name: a}", "a stream is `name:` and a list `datasets:`"),
    ],
)
def test_faults_name_file_dataset_and_field(tmp_path: Path, datasets: str, message: str) -> None:
    path = write(tmp_path, f"name: s\ndatasets: {datasets}\n")
    with pytest.raises(InputError, match=message) as caught:
        read_stream(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"datasets: [", b"\xff\xfe\x00", b"name: \x00", b"[" * 5000],
    ids=lambda value: value[:10],
)
def test_what_is_no_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stream.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        read_stream(path)
    with pytest.raises(InputError, match=r"absent\.yaml"):
        read_stream(tmp_path / "absent.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """All but the last would be dropped without a word."""
    rows = "datasets: [{name: a, train: a.json}]\n"
    with pytest.raises(InputError, match=r"(?s)'datasets' stands twice.*line 2"):
        read_stream(write(tmp_path, rows + rows.replace("a", "b").replace("dbtbsets", "datasets")))
    with pytest.raises(InputError, match="'train' stands twice"):
        read_stream(write(tmp_path, "datasets: [{name: a, train: a.json, train: b.json}]"))
    with pytest.raises(UsageError, match="'seed' stands twice"):
        read_config(write(tmp_path, "seed: 1\nseed: 2\n", "config.yaml"))
    merged = "base: &b {train: a.json, skill: x}\ndatasets: [{<<: *b, name: a, train: b.json}]"
    assert read_stream(write(tmp_path, merged)).datasets[0].train == str(tmp_path / "b.json")


@pytest.mark.parametrize("name", ["real10", "real10-mini"])
def test_a_real_stream(name: str) -> None:
    folder = stream_path(name)
    (path,) = folder.glob("*.yaml")
    stream = read_stream(path)
    assert len(stream.datasets) == 10
    assert len({feed.skill for feed in stream.datasets}) == 10
    for feed in stream.datasets:
        assert Path(feed.train.split("{")[0]).parent.exists(), feed.train
        assert feed.metric
