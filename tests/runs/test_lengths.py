"""Batches are put together by what the model's processor makes of a sample, not by its characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from lifelong.context import Stores
from lifelong.lengths import sample_lengths
from lifelong.models.load import load
from lifelong.training.train import epoch_batches
from stores.shards import read_shard
from tests.runs.small import entry, feed_entry, small_entry

BATCH = 4
EPOCHS = 2


def padding(lengths: np.ndarray, total: int) -> float:
    """lengths: (n,) tokens in the order in which they are trained on."""
    batches = [lengths[batch] for batch in epoch_batches(total, EPOCHS, BATCH)]
    return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)


def tokens_of(run: Run, stores: Stores, ordinals: np.ndarray) -> np.ndarray:
    encoder = load(run.config.model, run.config.lora, 0).encoder
    conversations = stores.loader.conversations(ordinals)
    return np.array([encoder.training([each]).inputs["input_ids"].shape[1] for each in conversations])


@pytest.mark.parametrize("recipe", ["el2n", "multitask"])
def test_a_batch_holds_samples_of_as_many_tokens(new_run: Callable[..., Run], recipe: str) -> None:
    """Of scripts that cost few and many tokens a character; with a model that measures, and with none that does."""
    run = new_run(recipe=recipe, train={"budget": "100%", "batch_size": BATCH, "epochs": EPOCHS})
    for name in ("tux_caption", "emoji_multilingual"):
        feed_entry(run, entry(name))
    with run.reading() as stores:
        arrays = stores.pool.arrays()
        ordinals = arrays["ordinal"]
        tokens = tokens_of(run, stores, ordinals)
        np.testing.assert_array_equal(sample_lengths(stores.pool, arrays, np.arange(len(ordinals))), tokens)
        order = read_shard(stores.ledger.file(2, "order"))["ordinal"]
    trained = tokens[np.searchsorted(ordinals, order)]
    assert padding(trained, len(order)) < 0.10
    assert padding(np.random.default_rng(0).permutation(trained), len(order)) > 0.30


def test_where_they_are_not_known_images_and_characters_stand_in(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(recipe="el2n")
    feed_entry(run, small_entry(tmp_path, "ground_mix", rows=12, evals=0))
    with run._writing() as stores:
        arrays, rows = stores.pool.arrays(), np.array([3, 1])
        stores.db.execute("DELETE FROM lengths WHERE ordinal = ?", [int(arrays["ordinal"][1])])
        assert stores.pool.tokens(arrays["ordinal"][rows])[1] == 0
        expected = arrays["n_images"][rows] * 100_000 + arrays["text_chars"][rows]
        np.testing.assert_array_equal(sample_lengths(stores.pool, arrays, rows), expected)
