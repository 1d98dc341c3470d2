"""The proxy: a training of the given model that gives a one-shot selection its trajectories.

In the loop trajectories come from the last timestep's training, at no extra cost. A selection without a
loop has none, so the model is fine-tuned for one epoch on the whole dataset first, as XMAS does.
"""

from __future__ import annotations

import numpy as np

from lifelong.config import RunConfig
from lifelong.context import Context
from lifelong.measure.plan import TRAJECTORY
from lifelong.recipes.method import method

CHECKPOINTS = 7
"""Points of a trajectory where the configuration does not say: as in XMAS's figure."""


def with_checkpoints(config: RunConfig) -> RunConfig:
    """The configuration with `measure.trajectory` set, if it is not and the method cannot do without trajectories."""
    if config.measure.trajectory:
        return config
    measure = config.measure.model_copy(update={"trajectory": CHECKPOINTS})
    keeping = config.model_copy(update={"measure": measure})
    built = method(config.recipe, keeping)
    optional = any(not TRAJECTORY & set(scorer.needs) for scorer in built.scorers.values())
    return config if optional and built.vectors.signal not in TRAJECTORY else keeping


def train_proxy(context: Context) -> None:
    """Train the adapter for one epoch on all that has joined the pool, with checkpoints spaced evenly.

    They are kept as those of timestep 0, which the measure phase of timestep 1 reads.
    Source: XMAS, arXiv 2510.01454, §4.
    """
    from lifelong.engines.training import Training
    from lifelong.phases.train import TrainDesk
    from lifelong.training.train import training_order

    config = context.config
    rows, lengths = _trainable(context)
    pool = context.stores.pool.arrays()
    order = training_order(lengths, 1, config.train.batch_size, context.rng("proxy", "order"))
    ordinals = pool["ordinal"][rows][order]
    training = Training(
        0,
        config.train.model_copy(update={"epochs": 1}),
        ordinals.tolist(),
        context.within(context.adapter(0)),
        context.seed("proxy"),
        config.measure.trajectory,
    )
    trained = context.engine.train(
        training, TrainDesk(context, 0, ordinals, doing="proxy training steps")
    ).trained
    kept = len(context.trajectory_checkpoints())
    context.progress.say(f"  proxy     {trained.steps} steps on {len(order)} samples, {kept} checkpoints")


def _trainable(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the live pool that the model's processor takes, and their tokens; the rest is quarantined later."""
    from lifelong.measure.passes import ReadPass
    from lifelong.measure.pool import measure

    config, stores = context.config.measure, context.stores
    ordinals = stores.pool.arrays()["ordinal"]
    readable: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    for first in range(0, len(ordinals), config.shard_size):
        rows = list(stores.pool.rows(ordinals[first : first + config.shard_size]))
        passes = [ReadPass(context.current_model())]
        found = measure(rows, stores.loader, passes, config.batch_size, frozenset())
        readable.append(found.ordinals)
        tokens.append(found.arrays.get("tokens", np.empty(0)))
        context.progress.step("samples read", first + len(rows), len(ordinals))
    return np.searchsorted(ordinals, np.concatenate(readable)), np.concatenate(tokens)
