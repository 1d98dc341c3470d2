"""Training on the selection: the Trainer of transformers, over samples in an order that was persisted."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lifelong.config import TrainConfig
from lifelong.interrupt import deferred_interrupt
from lifelong.measure.passes import predictions
from lifelong.models.encode import Batch, Conversation
from lifelong.models.load import VisionLanguageModel, quiet
from lifelong.training.peers import ALONE, Peers
from lifelong.training.shared import SharedTrainer
from lifelong.training.trainer import AdapterTrainer, Task

BUCKET_BATCHES = 50
"""About this many batches are drawn at random before samples are brought together by length."""

LOGGED = 100
"""About this many steps of a training are logged to trackers."""

Save = Callable[[int, Callable[[Path], None]], None]
"""Keeps the state of a training: (optimiser steps done, what fills a folder with it)."""


def training_order(lengths: np.ndarray, epochs: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """(n · epochs,) int64 positions: the order in which n samples are trained on.

    lengths: (n,) any measure that grows with a sample's cost. Within an epoch every sample comes once; a
    batch (`epoch_batches`) holds samples of like length, so that little is padded; the batches themselves come
    in random order, a short one last.
    """
    count = len(lengths)
    total = -(-count // batch_size)
    buckets = max(1, round(total / BUCKET_BATCHES))
    cuts = [total * number // buckets * batch_size for number in range(1, buckets)]
    order: list[np.ndarray] = []
    for _ in range(epochs):
        shuffled = rng.permutation(count)
        batches: list[np.ndarray] = []
        for bucket in np.split(shuffled, cuts):
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
            batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
        # A short batch anywhere but at the end would shift all later batch boundaries of the epoch.
        short = [batch for batch in batches if len(batch) < batch_size]
        full = [batch for batch in batches if len(batch) == batch_size]
        order += [full[i] for i in rng.permutation(len(full))] + short
    return np.concatenate(order) if order else np.empty(0, np.int64)


def epoch_batches(total: int, epochs: int, batch_size: int) -> list[range]:
    """The batches of an order of `total` positions: consecutive, of one epoch each, the last of an epoch the rest.

    Raises: ValueError if the epochs cannot be of one length.
    """
    if total % epochs:
        raise ValueError(f"an order of {total} positions is not one of {epochs} epochs")
    length = total // epochs
    return [
        range(start, min(start + batch_size, end))
        for end in range(length, total + 1, length or 1)
        for start in range(end - length, end, batch_size)
    ]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training did: optimiser steps and the mean training loss (nats a token).

    skipped: steps without effect, since their gradient was not finite: {"step": from 1, "items": as loaded};
    split: how many times a batch was halved because it did not fit in memory.
    """

    steps: int
    loss: float
    skipped: list[dict[str, Any]] = field(default_factory=list)
    split: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """The task of the loop: conversations, whose answers are to be predicted."""

    vlm: VisionLanguageModel

    def collate(self, items: list[Conversation]) -> dict[str, Any]:
        batch = self.vlm.encoder.training(items)
        return {**batch.inputs, "labels": batch.labels()}

    def loss(self, model: Any, inputs: dict[str, Any], tokens: torch.Tensor | int | None) -> torch.Tensor:
        labels = inputs.pop("labels")
        empty = torch.zeros_like(labels, dtype=torch.bool)
        return answer_loss(self.vlm, Batch(inputs, labels != -100, empty, empty), tokens, model)


def answer_loss(
    vlm: VisionLanguageModel, batch: Batch, tokens: torch.Tensor | int | None = None, model: Any = None
) -> torch.Tensor:
    """Mean cross-entropy of a batch's answer tokens: transformers' own loss, at answer positions only.

    tokens: answer tokens of the whole optimiser step, where gradients accumulate; None: of this batch.
    """
    with predictions(vlm, batch) as caught:
        (model or vlm.model)(**batch.inputs, use_cache=False)
    (found,) = caught
    total = cross_entropy(vlm.logits(found.hidden).float(), found.labels, reduction="sum")
    return total / (len(found.labels) if tokens is None else tokens)


def train(
    vlm: VisionLanguageModel,
    config: TrainConfig,
    order: Sequence[int],
    load: Callable[[int], Any],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoints: int = 0,
    keep: Callable[[int, int], None] = lambda number, step: None,
    task: Task | None = None,
    save: Save | None = None,
    resume: Path | None = None,
    interrupted: Callable[[], bool] | None = None,
    peers: Peers = ALONE,
    trackers: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train the adapter in place on what `load` gives, in `order` (ordinals, config.epochs of one length each).

    load: conversations, or what `task` collates; by default their answers are learned. With config.workers it
    is called in forked processes.

    seed: of dropout. keep: called (number, step) at `checkpoints` steps spaced evenly, the last step among
    them; fewer where there are not so many steps. The process's global generators are left as they were.

    save: called every config.checkpoint_steps steps, and at Ctrl-C, which then ends the training after the step
    that it falls in. resume: a folder that it filled; the training goes on from there to the same bits. interrupted:
    tells of Ctrl-C where this process does not get it.

    peers: those that train together, each of them calling this with the same arguments but for progress, keep, save and
    trackers. trackers: told of the loss, the learning rate and the gradient's norm, at about LOGGED steps.

    Raises:
        TrainingError: the loss is not finite, or the gradient was not for several steps; a sample is refused by the
            model's processor, or alone does not fit in memory. The adapter is then that of the last step.
    """
    if not len(order):
        return Trained(0, float("nan"))
    signal = deferred_interrupt() if save and interrupted is None else nullcontext(interrupted or _never)
    with _preserved_generators(), tempfile.TemporaryDirectory() as scratch, signal as stopping:
        shared: dict[str, Any] = {}
        turns = 1
        if peers.size > 1 or config.parts > 1:
            parts = peers.size if peers.size > 1 else config.parts
            shared = {"peers": peers, "parts": parts, "by_rank": config.parts > 1}
            turns = parts // peers.size
        with quiet():  # transformers would share the training in its own way, and warns that it is not let
            arguments = _arguments(vlm, config, seed, scratch, turns, len(order) if trackers else 0)
        trainer = (SharedTrainer if shared else AdapterTrainer)(
            vlm.model,
            task or Answers(vlm),
            order,
            epoch_batches(len(order), config.epochs, config.batch_size),
            load,
            **shared,
            args=arguments,
            callbacks=[_Progress(progress), _Checkpoints(checkpoints, keep), *trackers],
        )
        trainer.remove_callback(PrinterCallback)
        if save:
            trainer.add_callback(_Saving(trainer, save, config.checkpoint_steps, stopping))
        vlm.model.train()
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        finally:
            vlm.model.eval()
    steps, record = trainer.state.global_step, trainer.record
    return Trained(steps, record.loss / steps, record.skipped, record.split)


def _never() -> bool:
    return False


def _arguments(
    vlm: VisionLanguageModel, config: TrainConfig, seed: int, scratch: str, turns: int, logged: int
) -> TrainingArguments:
    """turns: parts of each batch that are fed one by one; logged: samples of a training that is logged, else 0."""
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate * turns,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=seed % (1 << 31),
        use_cpu=vlm.device.type == "cpu",
        save_strategy="no",
        logging_strategy="steps" if logged else "no",
        logging_steps=max(1, logged // (config.batch_size * config.accumulate * LOGGED)),
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=vlm.device.type != "cpu" and config.workers > 0,
    )


class _Progress(TrainerCallback):
    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps)


class _Checkpoints(TrainerCallback):
    def __init__(self, count: int, keep: Callable[[int, int], None]) -> None:
        self.count = count
        self.keep = keep

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = {round(state.max_steps * number / self.count) for number in range(1, self.count + 1)}
        due = sorted(steps - {0})
        if state.global_step in due:
            self.keep(due.index(state.global_step), state.global_step)


class _Saving(TrainerCallback):
    """Saves the state every `interval` steps (0: never), and before it gives way to Ctrl-C."""

    def __init__(
        self, trainer: AdapterTrainer, save: Save, interval: int, interrupted: Callable[[], bool]
    ) -> None:
        self.trainer = trainer
        self.save = save
        self.interval = interval
        self.interrupted = interrupted
        self.leaving = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        due = self.interval and step % self.interval == 0 and step < state.max_steps
        interrupted = self.interrupted()
        if due or interrupted:
            self.save(step, self.trainer.write)
        self.leaving = interrupted
        if interrupted and not control.should_log:
            raise KeyboardInterrupt

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Trackers, which come before, have been told of the step that is kept.
        if self.leaving:
            raise KeyboardInterrupt


@contextmanager
def _preserved_generators() -> Iterator[None]:
    """The Trainer seeds the process's global generators; give them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
