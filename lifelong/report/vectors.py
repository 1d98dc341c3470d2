"""The vectors that a timestep compared its samples by, read back for some of them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from lifelong.config import RunConfig
from lifelong.context import Stores
from lifelong.method import method
from lifelong.report.absent import AbsentError, telling
from lifelong.signals import ALIGNMENT, MEASURED
from policies.arrays import unit_rows
from stores.database import open_database
from stores.features import INDEX, MIGRATIONS, Features
from stores.shards import Shard, read_array


def vectors_of(
    stores: Stores, timestep: int, config: RunConfig, ordinals: np.ndarray, sample_ids: list[str]
) -> np.ndarray:
    """(n, d) float32: the vectors of samples, NaN where a sample has none.

    ordinals: (n,); sample_ids: of the same samples. Raises: AbsentError saying why there are none.
    """
    with telling("the recipe"):
        name = method(config.recipe, config).vectors.signal
    if name is None:
        raise AbsentError("the recipe compares no vectors (its word for them is `none`)")
    if name == "encoded":
        return _encoded(stores, config, sample_ids)
    shards = stores.ledger.shards(timestep)
    if not any(shard.kind == MEASURED for shard in shards):
        raise AbsentError("the vectors were let go, as `keep.signals` in the configuration said")
    if name == "trajectory":
        kinds = sorted({shard.kind for shard in shards if shard.kind.startswith(ALIGNMENT)})
        if not kinds:
            raise AbsentError("the training before it kept no checkpoints to follow a sample over")
        columns = [_rows(stores, _of_kind(shards, kind), ALIGNMENT, ordinals) for kind in kinds]
        return np.concatenate(columns, axis=1)
    return _rows(stores, _of_kind(shards, MEASURED), name, ordinals)


def _of_kind(shards: list[Shard], kind: str) -> list[Shard]:
    return [shard for shard in shards if shard.kind == kind and shard.rows]


def _rows(stores: Stores, shards: list[Shard], name: str, ordinals: np.ndarray) -> np.ndarray:
    """(n, d) float32: one signal of the samples asked for, a shard at a time."""
    order = np.argsort(ordinals)
    found: np.ndarray | None = None
    for shard in shards:
        with telling(f"the vectors ({shard.path})"):
            held = read_array(stores.root / shard.path, "ordinal")
            if not np.isin(held, ordinals).any():
                continue
            array = read_array(stores.root / shard.path, name)
        if found is None:
            found = np.full((len(ordinals), array[0].size), np.nan, dtype=np.float32)
        here = np.flatnonzero(np.isin(held, ordinals))
        places = order[np.searchsorted(ordinals[order], held[here])]
        found[places] = array[here].reshape(len(here), -1)
    if found is None:
        raise AbsentError("not one of the samples has a vector on record")
    return found


def _encoded(stores: Stores, config: RunConfig, sample_ids: list[str]) -> np.ndarray:
    """(n, 2d): image and text side by side, as the frozen encoder left them."""
    place = Path(config.encoder.cache) if config.encoder.cache else stores.root / "features"
    with telling(f"the features in {place}"):
        db = open_database(place / INDEX, migrations=MIGRATIONS, read_only=True)
        with closing(db):
            features = Features(place, db)
            producers = {block.producer for block in features.blocks()}
            kind = config.encoder.kind
            makers = [name for name in producers if name.startswith(f"{kind}-")]
            if len(makers) != 1:
                raise AbsentError(f"{place} holds the features of {len(makers)} encoders of kind {kind}")
            image, text = (
                unit_rows(features.read(makers[0], sample_ids, name))
                for name in ("image_feature", "text_feature")
            )
    return np.concatenate([image, text], axis=1)
