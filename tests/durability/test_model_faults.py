"""What a model may do wrong: it is told with the step and the samples, survived where it can be, and on record."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lifelong.models.load
from lifelong import Run
from lifelong.config import TrainConfig
from lifelong.errors import TrainingError
from lifelong.measure.passes import AnswerPass
from lifelong.measure.pool import measure
from lifelong.measure.projectors import CountSketch
from lifelong.models.load import VisionLanguageModel
from lifelong.training.train import Trained, train
from lifelong.training.trainer import MAX_SKIPPED
from tests.conftest import Loader, chat, mixed
from tests.lifelong.test_measure_pool import ALL, assert_equal, stored  # noqa: F401
from tests.lifelong.test_train import adapter, distance, same
from tests.runs.small import decisions, entry, feed_entry, rows_of, settings, small_entry, write_rows

SAMPLES = [chat("what is it? " + "please " * (number % 3), "an ox"[: 1 + number % 5]) for number in range(24)]
MARKED = chat("what is ж?", "that")
CONFIG = TrainConfig(batch_size=4, learning_rate=5e-3, weight_decay=0.1, warmup=0.0)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """What is imported by now is left out of the collections that a shortage of memory asks for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def train_on(vlm: VisionLanguageModel, samples: Sequence[Any] = SAMPLES, **options: Any) -> Trained:
    config = CONFIG.model_copy(update=options.pop("config", {}))
    return train(vlm, config, list(range(len(samples))), samples.__getitem__, 0, **options)


Fault = Callable[[torch.Tensor], None]


@contextmanager
def before_forward(vlm: VisionLanguageModel, fault: Fault) -> Any:
    """Call `fault` with the batch's token ids whenever the real model is about to run."""

    def hook(_: torch.nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        fault(keywords["input_ids"])

    handle = vlm.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def room_for(samples: int, error: Exception) -> Fault:
    def fault(ids: torch.Tensor) -> None:
        if len(ids) > samples:
            raise error

    return fault


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


# A loss that is not finite.


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_samples(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    with torch.no_grad():
        vlm.decoder_layers[1].mlp.down_proj.base_layer.weight[3, 3] = float("nan")
    before = adapter(vlm)
    with pytest.raises(
        TrainingError, match=r"training step 1: the loss is nan, on samples 0, 1, 2, 3; lower"
    ):
        train_on(vlm)
    assert same(before, adapter(vlm))
    assert not vlm.model.training


def test_the_step_and_the_samples_are_those_of_the_batch(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    marked = set(vlm.encoder.training([MARKED]).inputs["input_ids"][0].tolist())
    marked -= set(vlm.encoder.training(SAMPLES).inputs["input_ids"].flatten().tolist())
    handle = vlm.head.register_forward_pre_hook(lambda _, hidden: (hidden[0] * marking["value"],))
    marking = {"value": 1.0}

    def poison(ids: torch.Tensor) -> None:
        marking["value"] = float("inf") if torch.isin(ids, torch.tensor(sorted(marked))).any() else 1.0

    samples = [*SAMPLES[:13], MARKED, *SAMPLES[13:]]
    with before_forward(vlm, poison), pytest.raises(TrainingError) as caught:
        train_on(vlm, samples, config={"accumulate": 2})
    handle.remove()
    assert (caught.value.step, caught.value.items) == (2, [12, 13, 14, 15])


def test_a_run_that_diverges_can_be_mended_and_resumed(
    new_run: Callable[..., Run], edit_config: Callable[..., None], tmp_path: Path
) -> None:
    rows = small_entry(tmp_path, "easyvqa", rows=24, evals=4)
    train_section = {"budget": "16", "batch_size": 4, "checkpoint_steps": 1, "warmup": 0.0}
    sane = new_run("sane", train=train_section | {"learning_rate": 1e-3})
    feed_entry(sane, rows)

    run = new_run("wild", train=train_section | {"learning_rate": 1e30})
    with pytest.raises(TrainingError) as caught:
        feed_entry(run, rows)
    message = str(caught.value)
    assert message.startswith(f"timestep 1: training step {caught.value.step}: the loss is nan, on samples ")
    known = {row["sample_id"] for row in decisions_of(run)}
    assert len(caught.value.items) == 4
    assert set(caught.value.items) <= known
    assert "train.learning_rate" in message
    assert f"`lifelong resume {run.root}`" in message
    assert run.status()["phase"] == "train"
    with pytest.raises(TrainingError):
        run.resume()

    edit_config(run, train={"learning_rate": 1e-3, "budget": "4"})
    assert run.resume()
    assert run.status()["phase"] is None
    assert run.digest() == sane.digest()


def decisions_of(run: Run) -> list[dict[str, str]]:
    with run.reading() as stores:
        return [{"sample_id": row.sample_id} for row in stores.pool.rows(stores.pool.arrays()["ordinal"])]


# A gradient that is not finite.


@contextmanager
def exploding(vlm: VisionLanguageModel, steps: set[int], done: Callable[[], int]) -> Any:
    """The gradient of one adapter weight is infinite in some steps, counted from 1."""
    weight = next(w for name, w in vlm.model.named_parameters() if "lora_B" in name)
    handle = weight.register_hook(
        lambda gradient: gradient * float("inf") if done() + 1 in steps else gradient
    )
    try:
        yield
    finally:
        handle.remove()


class Steps:
    """The adapter after each step, by step."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = vlm
        self.adapters = [adapter(vlm)]

    def __call__(self, done: int, total: int) -> None:
        self.adapters.append(adapter(self.vlm))

    def done(self) -> int:
        return len(self.adapters) - 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_costs_its_step_alone(load_tiny: Loader, accumulate: int) -> None:
    vlm = load_tiny("llava", dropout=0.0)
    steps = Steps(vlm)
    with exploding(vlm, {2}, steps.done):
        result = train_on(vlm, config={"accumulate": accumulate}, progress=steps)
    size = 4 * accumulate
    assert result.steps == 24 // size
    assert result.skipped == [{"step": 2, "items": list(range(size, 2 * size))}]
    changed = [not same(a, b) for a, b in zip(steps.adapters, steps.adapters[1:], strict=False)]
    assert changed[:2] == [True, False]
    assert changed[2]
    assert all(weight.isfinite().all() for weight in adapter(vlm).values())


def test_skipped_steps_in_a_row_stop_the_training(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    steps = Steps(vlm)
    wild = {1, *range(3, 3 + MAX_SKIPPED)}
    with (
        exploding(vlm, wild, steps.done),
        pytest.raises(
            TrainingError, match=rf"step {2 + MAX_SKIPPED}: .* {MAX_SKIPPED}th step in a row"
        ) as caught,
    ):
        train_on(vlm, config={"batch_size": 2}, progress=steps)
    assert caught.value.items == [2 * (1 + MAX_SKIPPED), 2 * (1 + MAX_SKIPPED) + 1]
    assert same(steps.adapters[2], adapter(vlm))


def test_what_was_skipped_is_remembered_across_a_stop(load_tiny: Loader, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        steps(done, total)
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    vlm = load_tiny("llava")
    steps = Steps(vlm)
    with exploding(vlm, {2}, steps.done), pytest.raises(KeyboardInterrupt):
        train_on(vlm, progress=stop, save=lambda step, write: write(tmp_path))
    again = train_on(load_tiny("llava"), resume=tmp_path)
    assert again.skipped == [{"step": 2, "items": [4, 5, 6, 7]}]
    assert again.steps == 6


# Memory.


@pytest.mark.parametrize(
    ("family", "error"),
    [("llava", SHORT[0]), ("qwen2_5_vl", SHORT[1]), ("idefics3", SHORT[2])],
    ids=["llava-device", "qwen2_5_vl-cpu", "idefics3-python"],
)
def test_training_goes_on_in_halves(load_tiny: Loader, family: str, error: Exception) -> None:
    """With the same loss, and the same weights but for rounding."""
    whole, halved = (load_tiny(family, dropout=0.0) for _ in range(2))
    before = adapter(whole)
    samples = mixed()
    config = {"batch_size": 8, "accumulate": 2}
    expected = train_on(whole, samples, config=config)
    with before_forward(halved, room_for(2, error)):
        found = train_on(halved, samples, config=config)
    assert expected.split == 0
    # Each batch of eight: once itself, and its two halves.
    assert found.split == 2 * 3
    assert found.steps == expected.steps == 1
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert distance(adapter(halved), adapter(whole)) < 1e-2 * distance(before, adapter(whole))


def test_gradients_that_a_failed_backward_left_do_not_count(load_tiny: Loader) -> None:
    """The memory runs out half-way down, once, when the upper layers have their gradients."""
    whole, halved = (load_tiny("llava", dropout=0.0) for _ in range(2))
    before = adapter(whole)
    config = {"batch_size": 8, "schedule": "constant"}
    train_on(whole, config=config)
    failed: list[int] = []

    def run_out(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        if not failed:
            failed.append(len(arguments[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    layer = halved.decoder_layers[1].mlp.down_proj
    handle = layer.register_full_backward_pre_hook(run_out)
    found = train_on(halved, config=config)
    handle.remove()
    assert failed == [8]
    assert found.split == 1
    # Twice the first gradient would show in the second step: AdamW's moments remember it.
    assert distance(adapter(halved), adapter(whole)) < 1e-3 * distance(before, adapter(whole))


def test_a_sample_that_alone_does_not_fit_is_named(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    with before_forward(vlm, room_for(0, SHORT[0])), pytest.raises(TrainingError) as caught:
        train_on(vlm)
    assert str(caught.value).startswith(
        "training step 1: out of memory on one sample alone (CUDA out of memory."
    )
    assert caught.value.items == [0]


def test_another_error_of_the_model_is_not_taken_for_memory(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with before_forward(vlm, room_for(2, error)), pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_on(vlm)


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_measuring_goes_on_in_halves(load_tiny: Loader, stored: Any, error: Exception) -> None:  # noqa: F811
    vlm = load_tiny("llava")
    rows, loader = stored(mixed())
    passes = [AnswerPass(vlm, (1,), CountSketch(32, 0), hidden=1)]
    expected = measure(rows, loader, passes, 8, ALL)
    with before_forward(vlm, room_for(3, error)):
        found = measure(rows, loader, passes, 8, ALL)
    assert (expected.halved, found.halved) == (0, 2 * 3)
    assert found.faults == {}
    assert_equal(found, expected, range(16))
    assert found.to_arrays("float32")["halved"].tolist() == [6]


def test_a_sample_that_alone_does_not_fit_is_set_aside(load_tiny: Loader, stored: Any) -> None:  # noqa: F811
    vlm = load_tiny("llava")
    rows, loader = stored([*SAMPLES[:5], chat("long " * 300, "yes"), *SAMPLES[5:9]])

    def fault(ids: torch.Tensor) -> None:
        if ids.numel() > 600:
            raise SHORT[0]

    with before_forward(vlm, fault):
        found = measure(rows, loader, [AnswerPass(vlm)], 4, frozenset({"el2n"}))
    assert found.faults == {5: f"it does not fit in memory: {SHORT[0]}"}
    assert found.ordinals.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_a_run_with_little_memory_says_so(
    new_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lifelong.models.load.load
    hooks = ExitStack()

    def load_with_little_memory(*arguments: Any) -> VisionLanguageModel:
        vlm = real(*arguments)
        hooks.enter_context(before_forward(vlm, room_for(2, SHORT[0])))
        return vlm

    monkeypatch.setattr(lifelong.models.load, "load", load_with_little_memory)
    run = new_run(train={"budget": "8", "batch_size": 4}, measure={"batch_size": 4, "shard_size": 16})
    feed_entry(run, small_entry(tmp_path, "easyvqa", rows=24, evals=0))
    with run.reading() as stores:
        measured, trained = (stores.ledger.phase(1, phase).result for phase in ("measure", "train"))
    assert (measured["halved"], measured["quarantined"]) == (6, 0)
    assert (trained["split"], trained["skipped"]) == (2, [])


# The processor.


def test_a_picture_that_the_processor_cannot_take_is_quarantined(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Qwen's image processor raises at a ratio of sides above 200; the file itself is sound."""
    rows = rows_of("easyvqa")[:12]
    images = tmp_path / "images"
    images.mkdir()
    source = Path(entry("easyvqa")["images"])
    for row in rows:
        (images / Path(row["image"]).name).write_bytes((source / row["image"]).read_bytes())
        row["image"] = Path(row["image"]).name
    Image.new("RGB", (6000, 28), "red").save(images / "strip.png")
    rows[7]["image"] = "strip.png"
    run = Run.create(
        tmp_path / "run", model=str(model_folders["qwen2_5_vl"]), recipe="random", config=settings()
    )
    status = run.feed(write_rows(tmp_path / "rows.json", rows), images=images)
    assert (status["pool"]["live"], status["pool"]["quarantined"]) == (11, 1)
    (row,) = (row for row in decisions(run, 1) if row["reason"].startswith("quarantined"))
    assert "aspect ratio" in row["reason"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_the_processor_cannot_take_in_training_is_named(
    load_tiny: Loader, workers: int
) -> None:
    vlm = load_tiny("llava")
    vlm.encoder.max_length = 100
    samples = [*SAMPLES[:9], chat("why? " * 100, "because"), *SAMPLES[9:]]
    with pytest.raises(TrainingError) as caught:
        train_on(vlm, samples, config={"workers": workers})
    assert (caught.value.step, caught.value.items) == (3, [9])
    assert "longer than the model's 100" in str(caught.value)
    assert "Traceback" not in str(caught.value)
