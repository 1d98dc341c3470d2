"""The Trainer of a training that peers share (`lifelong.peers`): each does its part of every batch.

What goes wrong with one of them all are told at the end of the step, and all stop for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from lifelong import seeds
from lifelong.errors import TrainingError
from lifelong.peers import Peers, part_of, sum_gradients
from lifelong.trainer import AdapterTrainer

_NOTHING = "nothing"


class SharedTrainer(AdapterTrainer):
    """Is fed this worker's part of each batch, and takes the step of the whole batch."""

    def __init__(self, *given: Any, peers: Peers, **options: Any) -> None:
        super().__init__(*given, **options)
        self._peers = peers
        self._fed = [part_of(batch, peers) for batch in self._batches]
        self._fault: TrainingError | None = None
        self._loss = 0.0
        self._split = 0

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The parts of a step's batches, and the answer tokens of the whole step."""
        batches: list[dict[str, Any]] = []
        try:
            batches.extend(islice(self._sound(epoch_iterator), num_batches))
        except TrainingError as error:
            self._fault = error
        # As transformers counts: the first position predicts nothing.
        mine = sum(int((batch["labels"][..., 1:] != -100).sum()) for batch in batches if "labels" in batch)
        (tokens,) = self._agree(float(mine))
        return batches, int(tokens)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        number = self.record.batches
        self.record.batches += 1
        loss = torch.zeros((), device=self.args.device)
        if _NOTHING in inputs or self._fault is not None:
            return loss
        # Each part draws its dropout anew, so that a training which goes on draws the same.
        torch.manual_seed(seeds.derive(self.args.seed, number, "train", f"part {self._peers.rank}"))
        split = self.record.split
        try:
            items = self._items(self._fed, number, number + 1)
            loss, value = self._finite(model, inputs, num_items_in_batch, items)
            self._loss += value
        except TrainingError as error:
            self._fault = error
        self._split += self.record.split - split
        self.record.split = split
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        loss, split = self._agree(self._loss, float(self._split))
        self.record.loss += loss
        self.record.split += int(split)
        self._tr_loss += loss - self._loss  # what transformers logs is the whole batch's too
        self._loss, self._split = 0.0, 0
        sum_gradients(list(model.parameters()), self._peers)
        return super()._clip_grad_norm(model)

    def _collate(self, read: list[Any]) -> dict[str, Any]:
        # A batch may have fewer samples than there are peers.
        return super()._collate(read) if read else {_NOTHING: True}

    def _agree(self, *values: float) -> list[float]:
        """Sums of everybody's values. Raises: TrainingError, everywhere, if one of the peers has met one."""
        told = torch.tensor([float(self._fault is not None), *values], dtype=torch.float64)
        # A group of GPUs may have no means to add up what is elsewhere.
        faults, *sums = self._peers.sum(told.to(self.args.device)).tolist()
        if faults:
            raise next(error for error in self._peers.everybody(self._fault) if error is not None)
        return sums
