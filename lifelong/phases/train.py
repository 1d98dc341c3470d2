"""Train: the adapter learns the selection, in the order that was committed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lifelong.context import ADAPTER, TRAJECTORY, Context, Outcome
from lifelong.engines.training import Training
from lifelong.engines.work import places_of
from lifelong.errors import TrainingError
from lifelong.models.encode import Conversation
from lifelong.trackers import training as tracked
from lifelong.training.average import averaged
from lifelong.training.checkpoints import TrainingStates
from lifelong.training.held_out import best_weight
from stores.checkpoints import CHECKPOINTS_FOLDER, commit_checkpoint, path_of
from stores.commit import Committed, sweep
from stores.media import MediaRow
from stores.pool import PoolRow


def train(context: Context) -> Outcome:
    """Commit the adapter after training on the selection, from the last timestep's or from the base; or a mean of the
    two.

    A training that was stopped goes on from the newest state that it left, to the same bits.

    Raises:
        TrainingError: training cannot go on; nothing is committed.
    """
    order = context.arrays("order")["ordinal"]
    start = context.method.start
    before = 0 if start.from_base else context.timestep - 1
    adapter = context.adapter(before)
    ledger = context.stores.ledger
    states = TrainingStates(context, order, adapter)
    resumed = states.newest()
    if resumed is None:
        # It is done from its start, and the checkpoints on its way with it.
        states.release()
        ledger.release_shards(context.timestep, TRAJECTORY)
    sweep(context.root, ledger.known_paths(), (CHECKPOINTS_FOLDER,))
    training = Training(
        context.timestep,
        context.config.train,
        order.tolist(),
        context.within(adapter),
        context.seed("train"),
        context.config.measure.trajectory if context.method.measures.trajectory else 0,
        states.identity,
        context.within(resumed) if resumed else None,
        bool(context.config.report_to),
    )
    try:
        with tracked(context) as trackers:
            desk = TrainDesk(context, context.timestep, order, states, trackers=trackers)
            done = context.engine.train(training, desk)
    except TrainingError as error:
        raise TrainingError(
            error.fault,
            f"{error.fix}, then go on with `lifelong resume {context.root}`",
            error.step,
            _sample_ids(context, error.items),
            f"timestep {context.timestep}: ",
        ) from error
    trained, kept = done.trained, done.adapter
    after = path_of(context.root, done.adapter)
    weight, tried = best_weight(context, adapter, after)
    if weight < 1:
        fill = averaged(adapter, after, weight)
        kept = commit_checkpoint(context.root, context.timestep, fill)
    result = {
        "samples": len(order),
        "steps": trained.steps,
        "loss": None if math.isnan(trained.loss) else trained.loss,
        "from_timestep": before,
        "weight": weight,
        "tried": tried,
        "skipped": [
            {"step": skipped["step"], "samples": _sample_ids(context, skipped["items"])}
            for skipped in trained.skipped
        ],
        "split": trained.split,
    }
    return Outcome(result, [(ADAPTER, kept)], states.release)


class TrainDesk:
    """Gives a training its samples, and puts on record what it leaves on its way. states: None where it keeps none."""

    def __init__(
        self,
        context: Context,
        timestep: int,
        order: np.ndarray,
        states: TrainingStates | None = None,
        doing: str = "training steps",
        trackers: Sequence[Any] = (),
    ) -> None:
        self._context = context
        self._timestep = timestep
        self._order = order
        self._states = states
        self._doing = doing
        self._trackers = trackers
        self.load = loading(context)

    def carried(self) -> tuple[dict[int, PoolRow], dict[str, MediaRow]]:
        stores = self._context.stores
        rows = {row.ordinal: row for row in stores.pool.rows(np.unique(self._order).tolist())}
        return rows, places_of(stores.media, list(rows.values()))

    def step(self, done: int, total: int) -> None:
        self._context.progress.step(self._doing, done, total)

    def saved(self, step: int, state: Committed) -> None:
        assert self._states is not None
        self._states.record(step, state)

    def kept(self, number: int, step: int, adapter: Committed) -> None:
        ledger = self._context.stores.ledger
        # A training that goes on passes again where it was before it was stopped.
        if all(shard.position != number for shard in ledger.shards(self._timestep, TRAJECTORY)):
            ledger.shard_commit(self._timestep, TRAJECTORY, number, adapter, step)

    def tracked(self, event: str, args: Any, state: Any, logs: dict[str, float] | None) -> None:
        from transformers import TrainerControl

        others = {} if logs is None else {"logs": logs}
        for callback in self._trackers:
            getattr(callback, event)(args, state, TrainerControl(), **others)

    def interrupted(self) -> bool | None:
        return None


def loading(context: Context) -> Callable[[int], Conversation]:
    """Reads one sample of the pool by its ordinal, in this process or in one forked from it."""
    stores, owner = context.stores, os.getpid()

    def load(ordinal: int) -> Conversation:
        nonlocal stores, owner
        if os.getpid() != owner:
            # A connection to the database must not be used across a fork.
            stores, owner = stores.reopened(), os.getpid()
        (conversation,) = stores.loader.conversations([ordinal])
        return conversation

    return load


def _sample_ids(context: Context, ordinals: Sequence[int]) -> list[str]:
    return [row.sample_id for row in context.stores.pool.rows(ordinals)]
