"""A training as a piece of work: what a worker needs for it, what it tells on the way, what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lifelong.config import TrainConfig
from lifelong.engines.base import Worker
from lifelong.models.encode import Conversation
from lifelong.trackers.guard import Telling
from lifelong.training.checkpoints import OF
from lifelong.training.peers import ALONE, Peers
from lifelong.training.train import Save, Trained, train
from stores.checkpoints import CHECKPOINTS_FOLDER, commit_checkpoint
from stores.commit import Committed, commit_tree


@dataclass(frozen=True, slots=True)
class Training:
    """What is to be trained.

    timestep: whose checkpoints the training's are. order: ordinals, as they are trained on. adapter: the one that it
    starts from, and state: the state that it goes on from, by path relative to the run's folder. identity: of the
    states that it keeps; "" where it keeps none. checkpoints: adapters kept on the way. seed: of dropout. tracked:
    whether trackers are told of its loss.
    """

    timestep: int
    config: TrainConfig
    order: list[int]
    adapter: str
    seed: int
    checkpoints: int = 0
    identity: str = ""
    state: str | None = None
    tracked: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What a training left. adapter: the folder of the trained adapter."""

    trained: Trained
    adapter: Committed


class Post(Protocol):
    """Is told of what a training does. Nothing goes on before each call has returned."""

    def step(self, done: int, total: int) -> None:
        """An optimiser step is done."""
        ...

    def saved(self, step: int, state: Committed) -> None:
        """The state after a step is on disk."""
        ...

    def kept(self, number: int, step: int, adapter: Committed) -> None:
        """The adapter after a step is on disk, as the checkpoint of that number."""
        ...

    def tracked(self, event: str, args: Any, state: Any, logs: dict[str, float] | None) -> None:
        """A tracker's callback is due: on_train_begin, on_log or on_train_end, with Trainer's arguments and state."""
        ...

    def interrupted(self) -> bool | None:
        """Whether to stop after this step with a state on disk; None: the training is to see for itself."""
        ...


class Silence:
    """The post of those that have nothing to tell."""

    def step(self, done: int, total: int) -> None:
        pass

    def saved(self, step: int, state: Committed) -> None:
        pass

    def kept(self, number: int, step: int, adapter: Committed) -> None:
        pass

    def tracked(self, event: str, args: Any, state: Any, logs: dict[str, float] | None) -> None:
        pass

    def interrupted(self) -> bool:
        return False


class Desk(Post, Protocol):
    """The side of the run's process: it gives the samples, and records what it is told."""

    def load(self, ordinal: int) -> Conversation:
        """One sample, in this process or in one forked from it."""
        ...

    def carried(self) -> tuple[dict[int, Any], dict[str, Any]]:
        """All samples to travel: rows by ordinal, places of their images by sha256."""
        ...


def run_training(
    training: Training, worker: Worker, load: Callable[[int], Conversation], post: Post, peers: Peers = ALONE
) -> Done:
    """Train the worker's model. Of several peers all train, and the first tells and writes.

    Raises: TrainingError, naming ordinals; KeyboardInterrupt.
    """
    vlm = worker.model(training.adapter)
    worker.models.altered()
    root, timestep = worker.files.root, training.timestep
    first = peers.rank == 0
    elsewhere = post.interrupted() is not None

    def save(step: int, write: Callable[[Path], None]) -> None:
        def fill(folder: Path) -> None:
            write(folder)
            (folder / OF).write_text(training.identity, encoding="ascii")

        stem = f"{timestep:04d}-training-{step:06d}"
        post.saved(step, _delivered(worker, commit_tree(root, CHECKPOINTS_FOLDER, stem, fill)))

    def keep(number: int, step: int) -> None:
        stem = f"{timestep:04d}-step-{step:06d}"
        adapter = commit_tree(root, CHECKPOINTS_FOLDER, stem, vlm.save_adapter)
        post.kept(number, step, _delivered(worker, adapter))

    saving: Save | None = save if training.identity and first else None
    trained = train(
        vlm,
        training.config,
        training.order,
        load,
        training.seed,
        post.step if first else lambda done, total: None,
        training.checkpoints if first else 0,
        keep,
        save=saving,
        resume=worker.files.path(training.state) if training.state else None,
        interrupted=(lambda: bool(post.interrupted())) if elsewhere else None,
        peers=peers,
        trackers=[Telling(post.tracked)] if training.tracked and first else (),
    )
    adapter = commit_checkpoint(root, timestep, vlm.save_adapter) if first else Committed("", "", 0)
    return Done(trained, _delivered(worker, adapter) if first else adapter)


def _delivered(worker: Worker, committed: Committed) -> Committed:
    worker.files.deliver(committed)
    return committed
