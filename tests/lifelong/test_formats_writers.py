"""Round trips: what is written reads back as the same samples, in the same order."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from PIL import Image as PillowImage

from lifelong.formats import Dataset, DatasetError, open_dataset, write_rows, write_samples
from lifelong.formats.columns import columns_of
from lifelong.formats.shardwriter import write_shards
from lifelong.formats.writers import SAMPLE_FORMATS, misnamed
from lifelong.samples import Row, Sample
from tests.streams import stream_path

REAL = {
    "llava": ("easyvqa/train.json", "easyvqa/images"),
    "sharegpt": ("flags_knowledge/train.json", "flags_knowledge"),
    "jsonl": ("bbh_lang/train.jsonl", None),
    "parquet": ("nlvr/train-00000-of-00001.parquet", None),
    "webdataset": ("sroie_ocr/train-000000.tar", None),
}


def open_real(format: str) -> Dataset:
    name, images = REAL[format]
    folder = stream_path("real10-mini")
    return open_dataset(folder / name, images=folder / images if images else None)


def ids(rows: list[Row]) -> list[str]:
    assert {row.outcome for row in rows} == {"accepted"}
    return [row.sample.sample_id for row in rows]


@pytest.mark.parametrize("format", REAL)
def test_a_selection_keeps_format_order_and_records(format: str, tmp_path: Path) -> None:
    dataset = open_real(format)
    chosen = list(dataset.rows())[::3]
    out = tmp_path / f"selection{dataset.files[0].suffix}"
    pairs = ((row.raw, row.sample) for row in chosen)
    assert write_rows(pairs, out, format, like=dataset.files[0]) == len(chosen)
    again = open_dataset(out, images=dataset.images)
    assert again.format == format
    rows = list(again.rows())
    assert ids(rows) == ids(chosen)
    assert [row.raw for row in rows] == [row.raw for row in chosen]
    assert list(tmp_path.iterdir()) == [out]  # nothing staged is left
    if format == "parquet":
        schema = pyarrow.parquet.read_schema(dataset.files[0])
        assert pyarrow.parquet.read_schema(out).equals(schema, check_metadata=True)


@pytest.mark.parametrize(
    ("name", "format", "right"),
    [
        ("a.json", "llava", ""),
        ("a.jsonl", "llava", "a.json"),
        ("a.ndjson", "jsonl", ""),
        ("a.json", "jsonl", ""),
        ("a.parquet", "jsonl", "a.jsonl"),
        ("a.b.json", "trl", "a.b.parquet"),
        ("a.json", "webdataset", "a.tar"),
        ("a.tar", "huggingface", "a"),
        ("folder", "huggingface", ""),
        ("a.txt", "parquet", ""),
    ],
)
def test_a_name_that_tells_of_another_format_is_noticed(name: str, format: str, right: str) -> None:
    assert misnamed(Path(name), format) == right


def with_columns(path: Path, **columns: Any) -> Path:
    turns = [[{"role": "user", "content": f"{path.stem}?"}, {"role": "assistant", "content": "yes"}]]
    pyarrow.parquet.write_table(pyarrow.table({"id": [path.stem], "messages": turns, **columns}), path)
    return path


def test_a_selection_of_shards_has_the_columns_of_all(tmp_path: Path) -> None:
    (image,) = (row.sample.images[0].read() for row in list(open_real("llava").rows())[:1])
    picture = pyarrow.array([{"bytes": image, "path": "a.png"}])
    files = [
        with_columns(tmp_path / "a-0.parquet", image=pyarrow.nulls(1), size=pyarrow.array([1], "int32")),
        with_columns(tmp_path / "a-1.parquet", image=picture, size=[2], source=["web"]),
    ]
    rows = [row for file in files for row in open_dataset(file).rows()]
    out = tmp_path / "out.parquet"
    assert write_rows(((row.raw, row.sample) for row in rows), out, "parquet", like=files) == 2
    table = pyarrow.parquet.read_table(out)
    assert table["size"].to_pylist() == [1, 2]
    assert table["source"].to_pylist() == [None, "web"]
    assert table["image"].to_pylist() == [None, picture[0].as_py()]
    assert table.schema.field("image").type == picture.type


def test_shards_that_disagree_are_both_named(tmp_path: Path) -> None:
    files = [
        with_columns(tmp_path / "b-0.parquet", size=[1]),
        with_columns(tmp_path / "b-1.parquet", size=["x"]),
    ]
    with pytest.raises(
        DatasetError, match=r'b-0\.parquet and .*b-1\.parquet disagree on the column "size": int64'
    ):
        columns_of(files)


def test_shards_that_each_count_from_0_are_one_archive(tmp_path: Path) -> None:
    """What neighbours in one archive share a key with is taken for one sample."""
    image = PillowImage.new("RGB", (4, 4))
    for shard, shade in enumerate(("red", "green", "blue")):
        image.paste(shade, (0, 0, 4, 4))
        image.save(tmp_path / "a.png")
        turns = [{"role": "user", "content": "<image>hi"}, {"role": "assistant", "content": "yes"}]
        row = {"messages": turns, "images": ["in/a.png"]}
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
            archive.add(tmp_path / "a.png", "in/a.png")
            member = tarfile.TarInfo("in/a.json")
            member.size = len(json.dumps(row))
            archive.addfile(member, io.BytesIO(json.dumps(row).encode()))
    (tmp_path / "a.png").unlink()
    rows = list(open_dataset(tmp_path).rows())
    assert write_rows([(row.raw, row.sample) for row in rows], tmp_path / "out.tar", "webdataset") == 3
    again = list(open_dataset(tmp_path / "out.tar").rows())
    assert [row.outcome for row in again] == ["accepted"] * 3
    assert ids(again) == ids(rows)


def test_what_datasets_is_told_of_columns_is_told_of_their_union(tmp_path: Path) -> None:
    feature = {"id": {"dtype": "string", "_type": "Value"}, "messages": {}, "image": {"_type": "Image"}}
    files = []
    for number, image in enumerate((pyarrow.nulls(1), pyarrow.array([{"bytes": b"", "path": ""}]))):
        files.append(with_columns(tmp_path / f"c-{number}.parquet", image=image))
        told = feature if number else feature | {"image": {"dtype": "null", "_type": "Value"}}
        metadata = {"huggingface": json.dumps({"info": {"features": told}})}
        table = pyarrow.parquet.read_table(files[-1]).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, files[-1])
    columns = columns_of(files)
    assert columns is not None
    assert json.loads(columns.metadata[b"huggingface"]) == {"info": {"features": feature}}


def test_a_selection_of_a_saved_dataset_is_a_saved_dataset(tmp_path: Path) -> None:
    source, cache = str(open_real("parquet").files[0]), str(tmp_path / "cache")
    saved = datasets.Dataset.from_parquet(source, cache_dir=cache)
    saved.info.description, saved.info.license = "Pairs of pictures", "CC-BY-4.0"
    saved.info.citation, saved.info.homepage = "@inproceedings{nlvr}", "https://lil.nlp.cornell.edu/nlvr"
    saved.save_to_disk(tmp_path / "saved")
    dataset = open_dataset(tmp_path / "saved")
    chosen = list(dataset.rows())[::4]
    out = tmp_path / "out" / "selection"
    pairs = ((row.raw, row.sample) for row in chosen)
    assert write_rows(pairs, out, dataset.format, like=dataset.files[0]) == len(chosen) == 24
    assert ids(list(open_dataset(out).rows())) == ids(chosen)
    assert datasets.load_from_disk(out).features == saved.features
    for told in ("description", "license", "citation", "homepage"):
        assert getattr(datasets.load_from_disk(out).info, told) == getattr(saved.info, told)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("format", SAMPLE_FORMATS)
def test_exported_samples_read_back_as_the_same(source: str, format: str, tmp_path: Path) -> None:
    rows = list(open_real(source).rows())[:20]
    out = tmp_path / {"parquet": "out.parquet", "trl": "trl.parquet", "webdataset": "out"}.get(
        format, "out.json"
    )
    assert write_samples((row.sample for row in rows), out, format) == 20
    again = list(open_dataset(out, format={"trl": "parquet"}.get(format, format)).rows())
    assert ids(again) == ids(rows)
    for before, after in zip(rows, again, strict=True):
        assert after.sample.messages == before.sample.messages
        assert [i.read() for i in after.sample.images] == [i.read() for i in before.sample.images]
        if format not in ("trl", "webdataset"):
            assert after.raw.get("source_id") == before.source_id


def test_images_are_named_by_their_hash_wherever_they_go(tmp_path: Path) -> None:
    samples = [row.sample for row in list(open_real("llava").rows())[:3]]
    for media in (tmp_path / "a" / "pictures" / "deep", tmp_path / "a", tmp_path / "elsewhere"):
        out = tmp_path / "a" / "out.json"
        write_samples(samples, out, "llava", media)
        images = media if media.name == "elsewhere" else None
        assert ids(list(open_dataset(out, images=images).rows())) == [sample.sample_id for sample in samples]
        for sample in samples:
            image = sample.images[0]
            assert (media / f"{image.sha256}{image.suffix}").read_bytes() == image.read()


def test_exported_parquet_decodes_in_datasets(tmp_path: Path) -> None:
    rows = list(open_real("parquet").rows())[:2]
    write_samples([row.sample for row in rows], tmp_path / "out.parquet", "parquet")
    table = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table[0]["images"][0].size == (100, 100)
    assert table[0]["messages"][1]["role"] == "assistant"


def test_trl_takes_its_format_as_it_is(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """SFTTrainer's own collator: each picture stands where its part stood, and no tag is left in the text."""
    trainer = pytest.importorskip("trl.trainer.sft_trainer", reason="trl is not installed")
    from lifelong.models.processors import load_processor

    rows = list(open_real("parquet").rows())[:3]  # two pictures each
    write_samples([row.sample for row in rows], tmp_path / "out.parquet", "trl")
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert table.column_names == ["id", "messages", "images"]
    processor = load_processor(str(model_folders["qwen2_5_vl"]))
    batch = trainer.DataCollatorForVisionLanguageModeling(processor)([table[0], table[1]])
    assert len(batch["image_grid_thw"]) == sum(len(row.sample.images) for row in rows[:2])
    for row, tokens in zip(rows, batch["input_ids"], strict=False):
        shown = processor.apply_chat_template(row.sample.messages, tokenize=False)
        read = re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", processor.tokenizer.decode(tokens))
        assert read.replace("<|endoftext|>", "").rstrip() == shown.rstrip()
        assert shown.count("<|image_pad|>") == len(row.sample.images) > 1


@pytest.mark.parametrize("format", ["llava", "parquet"])
def test_shards_are_as_webdataset_reads_them(format: str, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    samples = [row.sample for row in list(open_real(format).rows())[:10]]
    assert write_shards(samples, tmp_path, most=1_500) == 10
    shards = sorted(tmp_path.iterdir())
    assert len(shards) > 2
    assert shards[0].name == "train-000000.tar"
    read = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("pil"))
    assert [each["__key__"] for each in read] == [sample.sample_id for sample in samples]
    for sample, each in zip(samples, read, strict=True):
        pictures = [each[name.partition(".")[2]] for name in each["json"]["images"]]
        assert [picture.size for picture in pictures] == [(i.width, i.height) for i in sample.images]
    assert ids(list(open_dataset(tmp_path).rows())) == [sample.sample_id for sample in samples]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")

    def failing() -> object:
        yield {"messages": []}, None
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_rows(failing(), out, "sharegpt")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("format", ["llava", "jsonl", "parquet"])
def test_nothing_selected_is_an_empty_file(format: str, tmp_path: Path) -> None:
    assert write_samples([], tmp_path / "out", format) == 0
    (fault,) = open_dataset(tmp_path / "out", format=format).rows()
    assert "no rows" in fault.reason


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='format "csv"; use one of llava, sharegpt, jsonl, parquet'):
        write_samples([], tmp_path / "out", "csv")
    with pytest.raises(DatasetError, match='format "csv"'):
        write_rows([], tmp_path / "out", "csv")


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "日本語 \U0001f600"}, {"role": "assistant", "content": "ja"}]
    (tmp_path / "in.json").write_text(json.dumps([{"messages": messages, "images": []}]), encoding="utf-8")
    (row,) = open_dataset(tmp_path / "in.json").rows()
    sample: Sample = row.sample
    write_rows([(row.raw, sample)], tmp_path / "out.json", "sharegpt")
    assert "日本語 \U0001f600" in (tmp_path / "out.json").read_text(encoding="utf-8")
