"""The Trainer of transformers over batches that are given, with what a model may do wrong seen to.

A loss that is not finite stops the training. A gradient that is not finite costs its optimiser step, and MAX_SKIPPED
such steps in a row stop the training. A batch that does not fit in memory is done in halves. All of it is on
record, with the items concerned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from lifelong.errors import TrainingError
from lifelong.measure.pool import REFUSED
from lifelong.memory import first_line, out_of_memory, release_memory
from lifelong.training.state import (
    read_generators,
    read_optimizer,
    read_record,
    read_weights,
    write_state,
)

MAX_SKIPPED = 5
"""Optimiser steps in a row that may be skipped for a gradient that is not finite."""
_FAULT = "fault"


class Task(Protocol):
    """What is learned of the items that are loaded."""

    def collate(self, items: list[Any]) -> dict[str, Any]:
        """A batch; its "labels" are the tokens to predict, -100 where there is none."""
        ...

    def loss(self, model: Any, inputs: dict[str, Any], tokens: torch.Tensor | int | None) -> torch.Tensor:
        """Of a batch: the mean over its labels, or their sum over `tokens`, the labels of the whole step."""
        ...


@dataclass(slots=True)
class Record:
    """What has happened so far.

    batches: done; loss: sum over them of their shares in their step's mean loss; skipped: optimiser steps that a
    gradient cost, with their items; in_a_row: how many of them were the last; split: times a batch was halved.
    """

    batches: int = 0
    loss: float = 0.0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    in_a_row: int = 0
    split: int = 0


class _Read(NamedTuple):
    item: int
    value: Any
    fault: str = ""


class _Items(Dataset):  # type: ignore[type-arg]
    def __init__(self, order: Sequence[int], load: Callable[[int], Any]) -> None:
        self.order = order
        self.load = load

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> _Read:
        item = int(self.order[position])
        try:
            return _Read(item, self.load(item))
        except REFUSED as error:
            return _Read(item, None, str(error))


@contextmanager
def _walked_little(model: torch.nn.Module, trained: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within the block `model.zero_grad()` and `model.train()`, which the Trainer calls at every step, do no more than
    they must: going through the thousands of modules of a model with adapters takes longer than many a step's sums."""

    def zero_grad(set_to_none: bool = True) -> None:
        for weight in trained:
            weight.grad = None

    def train(mode: bool = True) -> torch.nn.Module:
        return model if model.training == mode else type(model).train(model, mode)

    shadows = {"zero_grad": zero_grad, "train": train}
    for name, shadow in shadows.items():
        setattr(model, name, shadow)
    try:
        yield
    finally:
        for name in shadows:
            delattr(model, name)


class AdapterTrainer(Trainer):
    """Trains in place what requires a gradient, on `load` of each item of `order`, batch by batch.

    batches: positions in `order`, in the order in which they are fed.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        order: Sequence[int],
        batches: Sequence[Sequence[int]],
        load: Callable[[int], Any],
        **options: Any,
    ) -> None:
        super().__init__(model=model, train_dataset=_Items(order, load), **options)
        # Some families (Qwen-VL) say that their own loss takes no count of tokens; that of a task does.
        self.model_accepts_loss_kwargs = True
        self.record = Record()
        self._task = task
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._batches = batches
        self._fed = batches
        self._batches_a_step = self.args.gradient_accumulation_steps

    def train(self, *arguments: Any, **options: Any) -> Any:
        with _walked_little(self.model, self._trained):
            return super().train(*arguments, **options)

    def write(self, folder: Path) -> None:
        """Write the state as it is at the end of an optimiser step, for `train(resume_from_checkpoint=…)`."""
        write_state(self, folder, asdict(self.record))

    def get_train_dataloader(self) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._fed,
            collate_fn=self._collate,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            # A worker needs the processor and the run's files, not copies of them.
            multiprocessing_context="fork" if workers else None,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        return super().get_batch_samples(self._sound(epoch_iterator), num_batches, device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        return self._task.loss(model, inputs, num_items_in_batch)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        items = self._items(self._batches, self.record.batches, self.record.batches + 1)
        loss, value = self._finite(model, inputs, num_items_in_batch, items)
        self.record.batches += 1
        self.record.loss += value
        return loss

    def _finite(
        self, model: Any, inputs: dict[str, Any], tokens: Any, items: list[int]
    ) -> tuple[torch.Tensor, float]:
        loss = self._forward_backward(model, inputs, tokens, items)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value}",
                "lower the configuration's train.learning_rate or raise its train.warmup",
                self.state.global_step + 1,
                items,
            )
        return loss, value

    def _forward_backward(
        self, model: Any, inputs: dict[str, Any], tokens: Any, items: list[int]
    ) -> torch.Tensor:
        """The loss of a batch, whose gradient is added to what is there; in halves where memory is short."""
        before = [(weight, None if weight.grad is None else weight.grad.clone()) for weight in self._trained]
        try:
            return super().training_step(model, inputs, tokens)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(items) == 1:
                raise TrainingError(
                    f"out of memory on one sample alone ({first_line(error)})",
                    "turn the configuration's model.gradient_checkpointing on, or give the process more memory",
                    self.state.global_step + 1,
                    items,
                ) from error
        # Some gradients may have been added before the memory ran out.
        for weight, gradient in before:
            weight.grad = gradient
        del before
        release_memory()
        self.record.split += 1
        middle = len(items) // 2
        parts = (items[:middle], items[middle:])
        losses = [self._forward_backward(model, self._batch(part), tokens, part) for part in parts]
        return losses[0] + losses[1]

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)
        if torch.isfinite(norm):
            self.record.in_a_row = 0
            return norm
        # Without gradients the optimiser's step changes nothing; the schedule goes on.
        model.zero_grad()
        step = self.state.global_step + 1
        first = self.state.global_step * self._batches_a_step
        items = self._items(self._batches, first, self.record.batches)
        self.record.skipped.append({"step": step, "items": items})
        self.record.in_a_row += 1
        if self.record.in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradient's norm is {norm.item()}, for the {MAX_SKIPPED}th step in a row",
                "lower the configuration's train.learning_rate or raise its train.warmup",
                step,
                items,
            )
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's count goes through the whole model at every step."""
        return 0

    def _items(self, batches: Sequence[Sequence[int]], first: int, end: int) -> list[int]:
        """Those of batches first … end - 1."""
        order = self.train_dataset.order
        return [int(order[position]) for batch in batches[first:end] for position in batch]

    def _batch(self, items: Sequence[int]) -> dict[str, Any]:
        return self._task.collate([self.train_dataset.load(item) for item in items])

    def _collate(self, read: list[_Read]) -> dict[str, Any]:
        """A batch, or what is wrong with one of its items: an exception would lose its words in a worker."""
        for each in read:
            if each.fault:
                return {_FAULT: (each.item, each.fault)}
        try:
            return self._task.collate([each.value for each in read])
        except REFUSED:
            for each in read:
                try:
                    self._task.collate([each.value])
                except REFUSED as error:
                    return {_FAULT: (each.item, str(error))}
            raise

    def _sound(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            if _FAULT in batch:
                item, reason = batch[_FAULT]
                raise TrainingError(
                    f"the model's processor cannot take a sample ({reason})",
                    "the model's folder or the sample's images have changed since it was measured: put them back",
                    self.state.global_step + 1,
                    [item],
                )
            yield batch

    # How transformers goes on from a checkpoint, with files that hold no pickle.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        read_weights(self.model, folder)
        self.record = Record(**read_record(folder))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            read_optimizer(self, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            read_generators(Path(checkpoint))
