"""States of a training under way, kept in the run so that it goes on from the newest when it was stopped."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from lifelong.context import Context
from stores.checkpoints import CHECKPOINTS_FOLDER
from stores.commit import Committed, sweep, verify
from stores.database import transaction
from stores.errors import DamagedError

TRAINING = "training"
"""Kind of the state from which a stopped training goes on; there is one at most."""
OF = "training-of.txt"
WITHOUT_EFFECT = ("workers", "checkpoint_steps")
"""Fields of the configuration that change how training is run, and not one bit of what it gives."""

log = logging.getLogger(__name__)


class TrainingStates:
    """The newest state of one timestep's training; none outlives the training."""

    def __init__(self, context: Context, order: np.ndarray, adapter: Path) -> None:
        self._context = context
        self._identity = _identity(context, order, adapter)

    def newest(self) -> Path | None:
        """The folder to go on from, or None.

        One that is damaged, or of another training (another order, another configuration), is let go with a
        warning.
        """
        context = self._context
        for shard in context.stores.ledger.shards(context.timestep, TRAINING):
            folder = context.root / shard.path
            fault = ""
            try:
                verify(context.root, Committed(shard.path, shard.sha256, shard.bytes), holds=shard.holds)
                if (folder / OF).read_text(encoding="ascii") != self._identity:
                    fault = f"{folder} is of a training with another order, configuration or adapter"
            except DamagedError as error:
                fault = str(error)
            if not fault:
                return folder
            log.warning("timestep %d trains again from its start: %s", context.timestep, fault)
        return None

    @property
    def identity(self) -> str:
        """What a state of this training has in its file `training-of.txt`."""
        return self._identity

    def record(self, step: int, state: Committed) -> None:
        """Record the state after a step, and let the one before it go."""
        context = self._context
        ledger = context.stores.ledger
        with transaction(context.stores.db):
            ledger.release_shards(context.timestep, TRAINING)
            ledger.shard_commit(context.timestep, TRAINING, step, state, step)
        sweep(context.root, ledger.known_paths(), (CHECKPOINTS_FOLDER,))

    def release(self) -> None:
        """Forget the state; its files are then garbage."""
        self._context.stores.ledger.release_shards(self._context.timestep, TRAINING)


def _identity(context: Context, order: np.ndarray, adapter: Path) -> str:
    """One hash over all that the bits of a training depend on, versions of libraries aside."""
    config = context.config
    parts = {
        "train": config.train.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
        "model": config.model.model_dump(mode="json"),
        "lora": config.lora.model_dump(mode="json"),
        "order": hashlib.sha256(np.ascontiguousarray(order).tobytes()).hexdigest(),
        "adapter": adapter.name,
        "seed": context.seed("train"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
