"""Train: the adapter learns the selection, in the order that was committed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

from lifelong.checkpoints import TrainingStates
from lifelong.context import ADAPTER, TRAJECTORY, Context, Outcome
from lifelong.errors import TrainingError
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel
from lifelong.train import train as train_adapter
from stores.checkpoints import CHECKPOINTS_FOLDER, commit_checkpoint
from stores.commit import commit_tree, sweep


def train(context: Context) -> Outcome:
    """Commit the adapter after training on the selection, from the last timestep's or from the base.

    A training that was stopped goes on from the newest state that it left, to the same bits.

    Raises:
        TrainingError: training cannot go on; nothing is committed.
    """
    order = context.arrays("order")["ordinal"]
    before = 0 if context.method.start.from_base else context.timestep - 1
    vlm = context.models.with_adapter(context.adapter(before))
    context.models.altered()
    ledger = context.stores.ledger
    states = TrainingStates(context, order, context.adapter(before))
    resumed = states.newest()
    if resumed is None:
        # It is done from its start, and the checkpoints on its way with it.
        states.release()
        ledger.release_shards(context.timestep, TRAJECTORY)
    sweep(context.root, ledger.known_paths(), (CHECKPOINTS_FOLDER,))
    try:
        trained = train_adapter(
            vlm,
            context.config.train,
            order.tolist(),
            loading(context),
            context.seed("train"),
            lambda done, total: context.progress.step("training steps", done, total),
            context.config.measure.trajectory if context.method.measures.trajectory else 0,
            keeping(context, context.timestep, vlm),
            save=states.save,
            resume=resumed,
        )
    except TrainingError as error:
        raise TrainingError(
            error.fault,
            f"{error.fix}, then go on with `lifelong resume {context.root}`",
            error.step,
            _sample_ids(context, error.items),
            f"timestep {context.timestep}: ",
        ) from error
    committed = commit_checkpoint(context.root, context.timestep, vlm.save_adapter)
    result = {
        "samples": len(order),
        "steps": trained.steps,
        "loss": None if math.isnan(trained.loss) else trained.loss,
        "from_timestep": before,
        "skipped": [
            {"step": skipped["step"], "samples": _sample_ids(context, skipped["items"])}
            for skipped in trained.skipped
        ],
        "split": trained.split,
    }
    return Outcome(result, [(ADAPTER, committed)], states.release)


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


def keeping(context: Context, timestep: int, vlm: VisionLanguageModel) -> Callable[[int, int], None]:
    """Keeps the adapter as it is at a step, (number, step), as a checkpoint of a timestep's training, once."""
    ledger = context.stores.ledger

    def keep(number: int, step: int) -> None:
        if any(shard.position == number for shard in ledger.shards(timestep, TRAJECTORY)):
            return
        stem = f"{timestep:04d}-step-{step:06d}"
        committed = commit_tree(context.root, CHECKPOINTS_FOLDER, stem, vlm.save_adapter)
        ledger.shard_commit(timestep, TRAJECTORY, number, committed, step)

    return keep


def _sample_ids(context: Context, ordinals: Sequence[int]) -> list[str]:
    return [row.sample_id for row in context.stores.pool.rows(ordinals)]
