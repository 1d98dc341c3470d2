"""The demo's stream and base model: what is written, that it loads, and that it learns."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `demo`")
pytest.importorskip("babel", reason="needs the extra `demo`")

import numpy as np
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lifelong.config import parse_config
from lifelong.demo import data, model
from lifelong.demo.layouts import Example
from lifelong.formats import open_dataset
from lifelong.models.tower import FEATURES, EfficientNetLiteModel, FeatureCache


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.prepare(tmp_path_factory.mktemp("stream"), size="tiny")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.build(tmp_path_factory.mktemp("base"))


def test_stream_has_five_skills_in_five_formats(stream: Path) -> None:
    entries = yaml.safe_load(stream.read_text())["datasets"]
    assert len({entry["skill"] for entry in entries}) == 5
    assert {entry["format"] for entry in entries} == {"llava", "webdataset", "sharegpt", "parquet", "jsonl"}
    assert all(entry["origin"] in ("real", "generated") and entry["source"] for entry in entries)


def test_same_seed_same_files(stream: Path, tmp_path: Path) -> None:
    data.prepare(tmp_path / "again", size="tiny")
    data.prepare(tmp_path / "other", size="tiny", seed=1)
    assert files_of(tmp_path / "again") == files_of(stream.parent)
    assert files_of(tmp_path / "other") != files_of(stream.parent)


def test_rows_and_images_are_where_the_stream_says(stream: Path) -> None:
    root = stream.parent
    shapes = json.loads((root / "shapes/train.json").read_text())
    assert len(shapes) == 24
    assert all((root / "shapes/images" / row["image"]).is_file() for row in shapes)
    flags = json.loads((root / "flags/eval.json").read_text())
    assert all((root / "flags" / name).is_file() for row in flags for name in row["images"])
    pairs = pq.read_table(root / "pairs/eval-00000-of-00001.parquet").to_pylist()
    assert all(row["messages"][0]["content"].count("<image>") == len(row["images"]) == 2 for row in pairs)
    with tarfile.open(root / "digits/train-000001.tar") as tar:
        assert Counter(Path(name).suffix for name in tar.getnames()) == {".png": 12, ".json": 12}
    words = [json.loads(line) for line in (root / "words/train.jsonl").read_text().splitlines()]
    assert {row["messages"][1]["content"] for row in words} == set(data.LANGUAGES.values())


def test_every_row_is_accepted(stream: Path) -> None:
    for entry in yaml.safe_load(stream.read_text())["datasets"]:
        images = stream.parent / entry["images"] if "images" in entry else None
        for split, count in zip(("train", "eval"), data.SIZES["tiny"], strict=True):
            rows = list(
                open_dataset(stream.parent / entry[split], images=images, format=entry["format"]).rows()
            )
            assert [row.outcome for row in rows] == ["accepted"] * count, entry["name"]


@pytest.mark.parametrize("source", data.SOURCES, ids=lambda source: source.name)
def test_no_row_twice_and_no_evaluation_image_in_training(source: data.Source) -> None:
    train = source.make("train", 480, np.random.default_rng(0))
    evaluation = source.make("eval", 80, np.random.default_rng(1))
    assert len(train) == len({(example.question, pictures(example)) for example in train}) == 480
    if source.skill == "language_only":
        assert not words_of(train) & words_of(evaluation)
    else:
        seen = {picture for example in train for picture in pictures(example)}
        assert not seen & {picture for example in evaluation for picture in pictures(example)}


def pictures(example: Example) -> tuple[bytes, ...]:
    return tuple(encoded for _, encoded in example.images)


def words_of(examples: list[Example]) -> set[str]:
    """The names asked about: "Which language is this? A, B, C" or "A, B, C - in which language?"."""
    texts = (example.question.removeprefix("Which language is this? ") for example in examples)
    return {name for text in texts for name in text.removesuffix(" - in which language?").split(", ")}


def test_shapes_cannot_be_guessed_from_the_question() -> None:
    shapes = data.SOURCES[0].make("train", 2000, np.random.default_rng(0))
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for example in shapes:
        answers[example.question][example.answer] += 1
    blind = sum(max(counts.values()) for counts in answers.values()) / len(shapes)
    assert blind < 0.55  # the natural mix gives 0.67


def test_folder_loads_with_the_auto_classes(base: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is red?"}]
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "first"}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "<|user|><image><image>Which is red?<|assistant|>first</s><|user|>Why?<|assistant|>"
    images = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (90, 30), "blue")]
    batch = processor(text=[text], images=[images], return_tensors="pt")
    assert (batch["input_ids"] == loaded.config.image_token_id).sum() == 32
    output = loaded.generate(**batch, max_new_tokens=3)
    assert output.shape[1] > batch["input_ids"].shape[1]


def test_the_cut_tokenizer_spells_everything(base: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(base).tokenizer
    for text in ("What color is the shape?", "Türkiye 42", "żółć", "日本 ☃"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_the_seed_draws_the_random_parts(base: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    model.build(tmp_path / "same")
    model.build(tmp_path / "other", seed=1)
    assert torch.equal(state, torch.get_rng_state())
    weights = base / "model.safetensors"
    assert weights.read_bytes() == (tmp_path / "same/model.safetensors").read_bytes()
    assert weights.read_bytes() != (tmp_path / "other/model.safetensors").read_bytes()


@pytest.fixture
def tower() -> EfficientNetLiteModel:
    FEATURES.clear()
    return model.trained_tower()  # frozen


def test_features_do_not_depend_on_batch_mates(tower: EfficientNetLiteModel) -> None:
    images = torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    alone = tower(images[1:2]).last_hidden_state
    FEATURES.clear()
    together = tower(images).last_hidden_state
    assert together.shape == (3, 16, 1280)
    assert torch.equal(together[1:2], alone)


def test_features_are_computed_once_even_after_a_reload(tower: EfficientNetLiteModel) -> None:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    first = tower(images).last_hidden_state
    again = model.trained_tower().train()
    again.network.extract_features = None  # a second computation would fail
    assert torch.equal(again(images.flip(0)).last_hidden_state, first.flip(0))


def test_other_weights_or_types_do_not_meet_old_features(tower: EfficientNetLiteModel) -> None:
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    before = tower(image).last_hidden_state
    assert tower.to(torch.float64)(image).last_hidden_state.dtype == torch.float64
    tower.to(torch.float32)
    with torch.no_grad():
        tower.network._conv_head.weight.mul_(0.5)
    assert not torch.allclose(tower(image).last_hidden_state, before)
    assert len(FEATURES) == 3


def test_without_gradient_a_loaded_tower_keeps_features_too(base: Path) -> None:
    FEATURES.clear()
    loaded = AutoModelForImageTextToText.from_pretrained(base).model.vision_tower
    with torch.no_grad():
        loaded(torch.zeros(1, 3, 128, 128))
    assert len(FEATURES) == 1


def test_a_trained_tower_gets_gradients_and_keeps_nothing(tower: EfficientNetLiteModel) -> None:
    tower.requires_grad_(True).train()
    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    tower(image).last_hidden_state.sum().backward()
    assert tower.network._conv_stem.weight.grad is not None
    assert tower.training
    assert len(FEATURES) == 0


def test_the_cache_is_bounded_and_drops_the_longest_unused() -> None:
    cache = FeatureCache(2)
    cache.put(b"a", torch.zeros(1))
    cache.put(b"b", torch.ones(1))
    cache.get(b"a")
    cache.put(b"c", torch.ones(1))
    assert len(cache) == 2
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_lora_learns_a_few_flags(base: Path) -> None:
    """Three flags, three rounds of ten steps with the settings of the demo: all three are told apart."""
    loaded = AutoModelForImageTextToText.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base)
    examples = {
        example.answer: example
        for example in data.SOURCES[2].make("train", 96, np.random.default_rng(0))
        if example.answer in ("Canada", "Japan", "Brazil")
    }
    prompt = "<|user|><image>Whose flag is this?<|assistant|>"
    images = [[Image.open(io.BytesIO(example.images[0][1]))] for example in examples.values()]
    batch = processor(
        text=[f"{prompt}{answer}</s>" for answer in examples],
        images=images,
        padding=True,
        return_tensors="pt",
    )
    length = processor(text=[prompt], images=images[:1], return_tensors="pt")["input_ids"].shape[1]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :length] = -100
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(loaded, lora_config())
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=model.DEFAULTS["train"]["learning_rate"])
    for _ in range(30):
        optimiser.zero_grad()
        adapted(**batch, labels=labels).loss.backward()
        optimiser.step()
    adapted.eval()
    asked = processor(text=[prompt] * 3, images=images, return_tensors="pt")
    output = adapted.generate(**asked, max_new_tokens=8)
    assert processor.batch_decode(output[:, length:], skip_special_tokens=True) == list(examples)


def lora_config() -> LoraConfig:
    lora = parse_config(model.DEFAULTS).lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        modules_to_save=list(lora.trained),
    )
