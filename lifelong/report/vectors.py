"""The vectors that a timestep compared its samples by, read back for some of them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from lifelong.config import RunConfig
from lifelong.context import Stores
from lifelong.recipes.method import method
from lifelong.report.absent import AbsentError, telling
from lifelong.signals.pool import ALIGNMENT, MEASURED, Origins, complete, origins_of, reader_of
from policies.arrays import unit_rows
from stores.database import open_database
from stores.features import INDEX, MIGRATIONS, Features


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
    if not complete(stores, timestep):
        raise AbsentError("the vectors were let go, as `keep.signals` in the configuration said")
    with telling("the vectors"):
        origins = origins_of(stores, timestep).of(ordinals)
    if name == "trajectory":
        kinds = {
            shard.kind for t in np.unique(origins.timesteps).tolist() for shard in stores.ledger.shards(t)
        }
        kinds = {kind for kind in kinds if kind.startswith(ALIGNMENT)}
        if not kinds:
            raise AbsentError("the training before it kept no checkpoints to follow a sample over")
        columns = [_rows(stores, origins, kind, ALIGNMENT, ordinals) for kind in sorted(kinds)]
        return np.concatenate(columns, axis=1)
    return _rows(stores, origins, MEASURED, name, ordinals)


def _rows(stores: Stores, origins: Origins, kind: str, name: str, ordinals: np.ndarray) -> np.ndarray:
    """(n, d) float32: one signal of the samples asked for, a shard at a time."""
    with telling("the vectors"):
        reader = reader_of(stores, origins, kind, some=True)
        held, array = reader.column("ordinal"), reader.column(name)
    if not len(held):
        raise AbsentError("not one of the samples has a vector on record")
    order = np.argsort(ordinals)
    found = np.full((len(ordinals), array[0].size), np.nan, dtype=np.float32)
    found[order[np.searchsorted(ordinals[order], held)]] = array.reshape(len(held), -1)
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
