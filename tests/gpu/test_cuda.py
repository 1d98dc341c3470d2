"""What a GPU must give: the CPU's values, the same bits twice, and small batches where memory is short.

    python -m pytest tests/gpu

Skipped where torch sees no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong import Run
from lifelong.config import LoraConfig, ModelConfig, TrainConfig
from lifelong.evaluate.metrics import METRICS
from lifelong.evaluate.skills import Item, evaluate
from lifelong.measure.passes import AnswerPass
from lifelong.measure.projectors import CountSketch, Trak
from lifelong.models.load import VisionLanguageModel, load
from lifelong.training.train import train
from tests.conftest import FAMILIES, mixed
from tests.runs.small import RECIPE, settings, write_stream
from tests.tiny_models import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

LORA = LoraConfig(rank=4, dropout=0.0)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Convolutions and products in full single precision, as on the CPU that they are compared with."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in built:
            built[family] = build(family, tmp_path_factory.mktemp("models") / family)
        return built[family]

    return of


def trained(path: Path, device: str, steps: int = 4, batch_size: int = 4) -> VisionLanguageModel:
    vlm = load(ModelConfig(path=str(path), device=device), LORA, seed=0)
    chats = mixed()
    config = TrainConfig(batch_size=batch_size, learning_rate=1e-3)
    train(vlm, config, list(range(steps * batch_size)), lambda item: chats[item % len(chats)], seed=0)
    return vlm


@pytest.mark.parametrize("family", FAMILIES)
def test_signals_are_those_of_the_cpu(folder: Callable[[str], Path], family: str) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        vlm = trained(folder(family), device)
        layers = tuple(range(len(vlm.decoder_layers)))
        measure = AnswerPass(vlm, layers, CountSketch(256, 0), 1, attended=True, alignment=True)
        found[device] = measure(mixed())
    for name, values in found["cpu"].items():
        # Training for four steps on each has moved the last digits apart already.
        np.testing.assert_allclose(found["cuda"][name], values, rtol=5e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_cpu(folder: Callable[[str], Path], family: str) -> None:
    said = {}
    for device in ("cpu", "cuda"):
        vlm = load(ModelConfig(path=str(folder(family)), device=device), LORA, seed=0)
        items = [Item(str(place), chat, "red", ("red", "blue")) for place, chat in enumerate(mixed()[:6])]
        said[device] = [
            [answer.prediction for answer in evaluate(vlm, items, METRICS[name], 4)]
            for name in ("exact_match", "choice")
        ]
    assert said["cuda"] == said["cpu"]


def test_half_precision_measures_and_trains(folder: Callable[[str], Path]) -> None:
    vlm = load(ModelConfig(path=str(folder("llava")), device="cuda", dtype="bfloat16"), LORA, seed=0)
    chats = mixed()
    before = float(np.mean(AnswerPass(vlm)(chats)["nll"]))
    train(vlm, TrainConfig(batch_size=4, learning_rate=5e-3), list(range(16)), chats.__getitem__, seed=0)
    measure = AnswerPass(vlm, (0, 1, 2), CountSketch(256, 0), 1, attended=True, alignment=True)
    after = measure(chats)
    assert np.isfinite(after["gradient"]).all()
    assert float(np.mean(after["nll"])) < before


def test_trak_without_its_kernels(folder: Callable[[str], Path]) -> None:
    vlm = trained(folder("llava"), "cuda")
    found = AnswerPass(vlm, (0, 1, 2), Trak(512, 0))(mixed())["gradient"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-3)


def test_training_twice_gives_the_same_bits(folder: Callable[[str], Path]) -> None:
    first, second = (
        {name: weight.cpu() for name, weight in trained(folder("llava"), "cuda").model.named_parameters()}
        for _ in range(2)
    )
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_batch_that_is_too_large_for_the_gpu_is_halved(folder: Callable[[str], Path]) -> None:
    chats = mixed()
    vlm = load(ModelConfig(path=str(folder("llava")), device="cuda"), LORA, seed=0)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        # Room for little beside what is held: 512 samples at once do not fit.
        torch.cuda.set_per_process_memory_fraction((held + 24 * 2**20) / total)
        config = TrainConfig(batch_size=512, learning_rate=1e-3)
        done = train(vlm, config, list(range(512)), lambda item: chats[item % len(chats)], seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.split > 0
    assert np.isfinite(done.loss)


@pytest.fixture(scope="module")
def runs(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """adapt-inf over two datasets, twice on the GPU and once on the CPU."""
    place = tmp_path_factory.mktemp("runs")
    stream = write_stream(place, names=["easyvqa", "tux_caption"], rows=24, evals=8)
    found = {}
    for name, device in (("first", "cuda"), ("again", "cuda"), ("cpu", "cpu")):
        config = settings(model={"device": device}, measure={"trajectory": 2})
        run = Run.create(place / name, model=str(folder("llava")), recipe=RECIPE, config=config)
        run.run_stream(stream)
        found[name] = run
    return found


def test_a_run_on_a_gpu_comes_to_its_end(runs: dict[str, Any]) -> None:
    matrices = {name: run.skill_matrix().R for name, run in runs.items()}
    assert matrices["first"].shape == matrices["cpu"].shape
    assert np.isfinite(matrices["first"]).all()


def test_a_run_on_a_gpu_gives_the_same_scores_twice(runs: dict[str, Any]) -> None:
    np.testing.assert_array_equal(runs["first"].skill_matrix().R, runs["again"].skill_matrix().R)


def test_the_device_is_on_record(runs: dict[str, Any]) -> None:
    with runs["first"].reading() as stores:
        recorded = {phase.environment.get("device") for phase in stores.ledger.phases(1)}
    assert all(name and name.startswith("cuda (") for name in recorded), recorded
