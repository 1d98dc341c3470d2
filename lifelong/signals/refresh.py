"""Which samples a timestep measures, and which keep the signals that an earlier one left (`measure.refresh`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong.config import RunConfig
from lifelong.recipes.method import method
from lifelong.recorded import config_of
from lifelong.signals.pool import ALIGNMENT, MEASURED, ORIGINS, Origins, origins_of

if TYPE_CHECKING:
    from lifelong.context import Context
    from stores.commit import Committed


def due(context: Context) -> np.ndarray:
    """Ordinals of the live samples that this timestep measures, ascending: (m,) int64.

    The same whenever it is asked: it follows from the configuration and from what earlier timesteps committed.
    """
    live = context.stores.pool.live()
    return np.setdiff1d(live, _carried(context).ordinals, assume_unique=True)


def commit_origins(context: Context, fresh: np.ndarray) -> tuple[dict[str, Any], list[tuple[str, Committed]]]:
    """Where the signals of this timestep's samples are, as a file; none if all were measured now.

    fresh: (m,) ordinals that were. Returns also what the phase's result says of the others: how many there are, and
    samples by the age of their signals in timesteps.
    """
    carried = _carried(context)
    if not len(carried.ordinals):
        return {}, []
    ordinals = np.concatenate([fresh, carried.ordinals])
    timesteps = np.concatenate([np.full(len(fresh), context.timestep, np.int32), carried.timesteps])
    order = np.argsort(ordinals, kind="stable")
    arrays = {"ordinal": ordinals[order], "timestep": timesteps[order]}
    ages, counts = np.unique(context.timestep - timesteps, return_counts=True)
    told = {
        "carried": len(carried.ordinals),
        "ages": {str(age): count for age, count in zip(ages.tolist(), counts.tolist(), strict=True)},
    }
    return told, [(ORIGINS, context.commit_arrays(ORIGINS, arrays))]


def _carried(context: Context) -> Origins:
    """The live samples that keep their signals."""
    oldest = oldest_used(context.config.measure.refresh, context.timestep)
    if oldest >= context.timestep or context.timestep == 1:
        return Origins(np.empty(0, np.int64), np.empty(0, np.int32))
    before = origins_of(context.stores, context.timestep - 1)
    usable = [
        each for each in np.unique(before.timesteps).tolist() if each >= oldest and _alike(context, each)
    ]
    keep = np.isin(before.timesteps, usable) & np.isin(before.ordinals, context.stores.pool.live())
    return Origins(before.ordinals[keep], before.timesteps[keep])


def oldest_used(refresh: str, timestep: int) -> int:
    """The earliest timestep whose signals serve at `timestep`."""
    match refresh:
        case "all":
            return timestep
        case "new":
            return 0
        case _:
            return timestep - int(refresh.removeprefix("stale(").removesuffix(")"))


def _alike(context: Context, timestep: int) -> bool:
    """Whether a timestep measured what this one needs: another recipe, or layer, or length, is measured anew."""
    config = config_of(context.stores, timestep)
    if config is None or _asked(config) != _asked(context.config):
        return False
    trajectories = _kinds(context, timestep) or not context.trajectory_checkpoints()
    return not context.method.measures.trajectory or bool(trajectories)


def _asked(config: RunConfig) -> tuple[Any, ...]:
    measured = method(config.recipe, config).measures
    return measured, config.measure.vector_dtype, config.measure.trajectory


def _kinds(context: Context, timestep: int) -> Iterable[str]:
    kinds = {shard.kind for shard in context.stores.ledger.shards(timestep) if shard.kind != MEASURED}
    return [kind for kind in kinds if kind.startswith(ALIGNMENT)]
