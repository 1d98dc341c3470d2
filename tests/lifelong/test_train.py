"""Training: the loss is the model's own, runs are repeatable to the bit, and the model learns."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lifelong.config import TrainConfig
from lifelong.measure.passes import answer_nll
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel
from lifelong.training.train import BUCKET_BATCHES, Trained, answer_loss, epoch_batches, train, training_order
from tests.conftest import IMAGE, Loader, assert_close, chat, mixed

Weights = dict[str, torch.Tensor]


def adapter(vlm: VisionLanguageModel) -> Weights:
    return {name: w.detach().clone() for name, w in vlm.model.named_parameters() if w.requires_grad}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def run(
    vlm: VisionLanguageModel,
    conversations: Sequence[Conversation],
    order: Sequence[int] | None = None,
    seed: int = 0,
    **config: object,
) -> Trained:
    values = {"batch_size": 4, "learning_rate": 5e-3, **config}
    return train(
        vlm,
        TrainConfig(**values),
        list(range(len(conversations)) if order is None else order),
        conversations.__getitem__,
        seed,
    )


def test_loss_and_gradients_are_the_models_own(family: str, load_tiny: Loader) -> None:
    vlm = load_tiny(family, trained=("lm_head",))
    batch = vlm.encoder.training(mixed()[:6])
    weights = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    expected = vlm.model(**batch.inputs, labels=batch.labels()).loss
    found = answer_loss(vlm, batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    pairs = zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True)
    for gradient, wanted in pairs:
        assert_close(gradient.flatten()[None], wanted.flatten()[None], 1e-4)


def test_loss_over_the_tokens_of_a_whole_step(vlm: VisionLanguageModel) -> None:
    batch = vlm.encoder.training(mixed()[:3])
    tokens = int(batch.answer.sum())
    with torch.no_grad():
        halved, whole = answer_loss(vlm, batch, 2 * tokens), answer_loss(vlm, batch)
    torch.testing.assert_close(2 * halved, whole)


def test_equal_runs_give_equal_bits(family: str, load_tiny: Loader, tmp_path: Path) -> None:
    vlm = load_tiny(family, dropout=0.1)
    vlm.save_adapter(tmp_path)
    first = run(vlm, mixed()[:8])
    trained = adapter(vlm)
    vlm.load_adapter(tmp_path)
    assert not same(trained, adapter(vlm))
    assert run(vlm, mixed()[:8]) == first
    assert same(trained, adapter(vlm))

    torch.manual_seed(1234)
    fresh = load_tiny(family, dropout=0.1)
    assert run(fresh, mixed()[:8]) == first
    assert same(trained, adapter(fresh))


def test_another_order_or_seed_gives_another_adapter(family: str, load_tiny: Loader) -> None:
    results = []
    for order, seed in ((range(8), 0), (range(7, -1, -1), 0), (range(8), 1)):
        vlm = load_tiny(family, dropout=0.1)
        run(vlm, mixed()[:8], list(order), seed)
        results.append(adapter(vlm))
    assert not same(results[0], results[1])
    assert not same(results[0], results[2])


def test_samples_come_in_the_order_given(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    asked: list[int] = []
    steps: list[tuple[int, int]] = []

    def load(ordinal: int) -> Conversation:
        asked.append(ordinal)
        return chat("what?", str(ordinal))

    order = [41, 3, 7, 3, 12, 5]
    config = TrainConfig(batch_size=4)
    result = train(vlm, config, order, load, 0, lambda done, total: steps.append((done, total)))
    assert asked == order
    assert steps == [(1, 2), (2, 2)]
    assert result.steps == 2
    assert not vlm.model.training


def test_no_samples_change_nothing(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    before = adapter(vlm)
    result = run(vlm, [])
    assert result.steps == 0
    assert np.isnan(result.loss)
    assert same(before, adapter(vlm))


def test_global_generators_are_left_as_they_were(family: str, load_tiny: Loader) -> None:
    vlm = load_tiny(family)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    run(vlm, mixed()[:4])
    assert random.getstate() == states[0]
    np.testing.assert_equal(np.random.get_state(), states[1])
    assert torch.get_rng_state().equal(states[2])


def distance(a: Weights, b: Weights) -> float:
    return float(sum((a[name] - b[name]).square().sum() for name in a)) ** 0.5


@pytest.mark.parametrize("change", [{"accumulate": 2, "batch_size": 4}, {"accumulate": 8, "batch_size": 1}])
def test_accumulated_batches_are_one_batch(family: str, load_tiny: Loader, change: dict[str, int]) -> None:
    """One step of 8 samples in parts: the same mean over all answer tokens, however they fall on the parts."""
    results = []
    for config in ({"batch_size": 8}, change):
        vlm = load_tiny(family, dropout=0.0)
        before = adapter(vlm)
        results.append((run(vlm, mixed(), **config), adapter(vlm)))
    (whole, expected), (parts, found) = results
    assert whole.steps == parts.steps == 2
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert distance(found, expected) < 1e-2 * distance(before, expected)


def test_checkpointing_changes_memory_only(family: str, load_tiny: Loader) -> None:
    results = []
    for on in (False, True):
        vlm = load_tiny(family, dropout=0.1, gradient_checkpointing=on)
        before = adapter(vlm)
        run(vlm, mixed()[:8])
        results.append(adapter(vlm))
    assert distance(*results) < 1e-3 * distance(before, results[0])


def plain_picture(number: int) -> Image.Image:
    """One of sixteen plain colours: eight hues, bright and dark."""
    red, green, blue = colorsys.hsv_to_rgb(number % 8 / 8, 1, 1 if number < 8 else 0.45)
    return Image.new("RGB", (56, 56), (int(255 * red), int(255 * green), int(255 * blue)))


def test_it_learns(family: str, load_tiny: Loader) -> None:
    """Sixteen pictures, each with a name of one letter and all with the same question.

    Without sight the best is to guess one name of sixteen and to know where it ends: (log 16 + 0) / 2 tokens
    = 1.39 nats. Every picture has to come out below 0.5, so each has been told from all the others.
    """
    conversations = [
        Conversation(chat(f"{IMAGE}who?", name).messages, [plain_picture(number)])
        for number, name in enumerate("abcdefghijklmnop")
    ]
    vlm = load_tiny(family, rank=8, alpha=8, dropout=0.0, trained=("lm_head",))
    before = answer_nll(vlm, conversations)
    order = training_order(np.ones(16), 70, 16, np.random.default_rng(0)).tolist()
    result = run(vlm, conversations, order, learning_rate=1e-2, batch_size=16, epochs=70)
    after = answer_nll(vlm, conversations)
    assert result.steps == 70
    assert before.min() > 5
    assert after.max() < 0.5
    assert after.mean() < result.loss < before.mean()


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), max_size=300),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_every_sample_once_an_epoch(lengths: list[int], epochs: int, batch_size: int, seed: int) -> None:
    values = np.array(lengths, dtype=np.int64)
    orders = [training_order(values, epochs, batch_size, np.random.default_rng(seed)) for _ in range(2)]
    np.testing.assert_array_equal(*orders)
    assert orders[0].dtype == np.int64
    for epoch in orders[0].reshape(epochs, len(lengths)):
        assert sorted(epoch) == list(range(len(lengths)))


def padding(lengths: np.ndarray, order: np.ndarray, epochs: int, batch_size: int) -> float:
    """Share of the tokens of all batches that are padding."""
    batches = [lengths[order[batch]] for batch in epoch_batches(len(order), epochs, batch_size)]
    whole = sum(len(batch) * batch.max() for batch in batches)
    return 1 - lengths[order].sum() / whole


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("count", [250, 443, 2000])
def test_batches_are_of_like_length_in_every_epoch(count: int, epochs: int) -> None:
    """Also where an epoch does not end with a full batch: none of the next one fills it up."""
    rng = np.random.default_rng(3)
    lengths = rng.lognormal(4, 0.7, count).astype(int) + 10
    order = training_order(lengths, epochs, 8, rng)
    assert padding(lengths, order, epochs, 8) < 0.10
    assert padding(lengths, rng.permutation(len(order)) % count, epochs, 8) > 0.35


@given(count=st.integers(0, 50), epochs=st.integers(1, 4), batch_size=st.integers(1, 9))
def test_batches_are_the_order_cut_within_its_epochs(count: int, epochs: int, batch_size: int) -> None:
    batches = epoch_batches(count * epochs, epochs, batch_size)
    assert [position for batch in batches for position in batch] == list(range(count * epochs))
    assert len(batches) == epochs * -(-count // batch_size)
    assert all(len({position // count for position in batch}) == 1 for batch in batches)
    assert all(len(batch) == batch_size or (batch.stop % count == 0) for batch in batches)


def test_an_order_that_is_not_of_whole_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match="7 positions is not one of 2 epochs"):
        epoch_batches(7, 2, 4)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 6), (2, 3), (4, 2), (6, 1)])
def test_steps_count_the_batches_of_all_epochs(load_tiny: Loader, accumulate: int, steps: int) -> None:
    """Five samples in batches of two, twice: three batches an epoch, which accumulate across its end."""
    order = [*range(5), *range(4, -1, -1)]
    shapes: list[int] = []
    vlm = load_tiny("llava")
    hook = vlm.model.register_forward_pre_hook(
        lambda model, args, inputs: shapes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    result = run(vlm, mixed()[:5], order, epochs=2, batch_size=2, accumulate=accumulate)
    hook.remove()
    assert shapes == [2, 2, 1, 2, 2, 1]
    assert result.steps == steps


def test_batches_come_in_random_order() -> None:
    lengths = np.arange(8 * BUCKET_BATCHES)
    order = training_order(lengths, 2, 8, np.random.default_rng(0))
    first, second = order.reshape(2, -1)
    heads = first.reshape(-1, 8)[:, 0]
    assert abs(np.corrcoef(heads, np.arange(len(heads)))[0, 1]) < 0.5
    assert not np.array_equal(first, second)
    other = training_order(lengths, 2, 8, np.random.default_rng(1))
    assert not np.array_equal(order, other)
