"""The vectors that the report draws its maps from are those that the timestep compared its samples by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lifelong import Run
from lifelong.config import RunConfig, parse_config
from lifelong.recorded import config_of
from lifelong.report.absent import AbsentError
from lifelong.report.vectors import vectors_of
from lifelong.signals.pool import ALIGNMENT, MEASURED, trajectory_kind
from stores.features import open_features
from stores.shards import ShardReader, write_shard


def asked(stores: Any, config: RunConfig, ordinals: np.ndarray, timestep: int = 2) -> np.ndarray:
    ids = [row.sample_id for row in stores.pool.rows(ordinals)]
    return vectors_of(stores, timestep, config, ordinals, ids)


def test_gradients_come_in_the_order_asked(finished: Run) -> None:
    with finished.reading() as stores:
        config = config_of(stores, 2)
        assert config is not None
        reader = ShardReader(stores.root, stores.ledger.shards(2, MEASURED))
        ordinals, gradients = reader.column("ordinal"), reader.matrix("gradient")
        rows = np.random.default_rng(0).permutation(len(ordinals))[:15]
        found = asked(stores, config, ordinals[rows])
        np.testing.assert_array_equal(found, gradients[rows].astype(np.float32))
        both = asked(stores, config, np.array([10**6, ordinals[3]])[1:])
        np.testing.assert_array_equal(both, gradients[3:4].astype(np.float32))


def test_trajectories_have_a_column_for_each_checkpoint(copied: Run) -> None:
    config = parse_config({"recipe": "xmas", "measure": {"trajectory": 2}})
    with copied._writing() as stores:
        ordinals = np.array([row.ordinal for row in stores.pool.rows([24, 25, 30])])
        with pytest.raises(AbsentError, match="kept no checkpoints"):
            asked(stores, config, ordinals)
        for checkpoint in range(2):
            kind, values = trajectory_kind(checkpoint), np.float32([1, 2]) + 10 * checkpoint
            shard = write_shard(stores.root, 2, kind, 0, {"ordinal": ordinals[:2], ALIGNMENT: values})
            stores.ledger.shard_commit(2, kind, 0, shard, 2)
        found = asked(stores, config, ordinals[::-1])
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [2, 12], [1, 11]])


def test_features_of_an_encoder_are_read_without_it(copied: Run) -> None:
    config = parse_config(
        {"recipe": {"recipe": "semdedup", "vectors": "encoded"}, "encoder": {"kind": "clip"}}
    )
    with copied.reading() as stores:
        ordinals = np.array([5, 3])
        with pytest.raises(AbsentError, match="features"):
            asked(stores, config, ordinals)
        ids = [row.sample_id for row in stores.pool.rows(ordinals)]
        with open_features(stores.root / "features") as features:
            arrays = {
                "image_feature": np.float32([[3, 4], [0, 2]]),
                "text_feature": np.float32([[5, 0], [0, 1]]),
            }
            features.add("clip-of-a-kind", ids, arrays)
        np.testing.assert_allclose(asked(stores, config, ordinals), [[0.6, 0.8, 1, 0], [0, 1, 0, 1]])
        with open_features(stores.root / "features") as features:
            features.add("clip-of-another", ids, arrays)
        with pytest.raises(AbsentError, match="2 encoders"):
            asked(stores, config, ordinals)


def test_a_recipe_without_vectors_says_so(finished: Run) -> None:
    with finished.reading() as stores, pytest.raises(AbsentError, match="compares no vectors"):
        asked(stores, RunConfig(recipe="random"), np.array([0, 1]))
