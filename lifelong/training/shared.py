"""The Trainer of a training whose batches are done in parts: each part by a peer (`peers`), or all in turn.

Parts are computed apart, each summed over the batches of a step, and the sums added up. So one process that does all
parts in turn gets the bits that as many peers get who add up in the order of the parts.

What goes wrong with one of the peers all are told at the end of the step, and all stop for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from lifelong import seeds
from lifelong.errors import TrainingError
from lifelong.training.peers import Peers, part_of, sum_gradients
from lifelong.training.trainer import AdapterTrainer

_NOTHING = "nothing"


class SharedTrainer(AdapterTrainer):
    """Is fed this worker's part of each batch, or all of them in turn, and takes the step of the whole batch.

    parts: of a batch: as many as there are peers, or any number where there is one. args.gradient_accumulation_steps
    counts what is fed. by_rank: gradients of peers are added up in the order of the parts.
    """

    def __init__(self, *given: Any, peers: Peers, parts: int, by_rank: bool, **options: Any) -> None:
        super().__init__(*given, **options)
        self._peers = peers
        self._by_rank = by_rank
        self._mine = list(range(parts)) if peers.size == 1 else [peers.rank]
        self._turn = 0  # which of them comes next
        self._sums: list[list[torch.Tensor | None]] = []  # gradients of each, where there are several
        self._batches_a_step = self.args.gradient_accumulation_steps // len(self._mine)
        self._fed = [part_of(batch, part, parts) for batch in self._batches for part in self._mine]
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
        number, turn = self.record.batches, self._turn
        self._turn = (turn + 1) % len(self._mine)
        if self._turn == 0:
            self.record.batches += 1
        loss = torch.zeros((), device=self.args.device)
        if _NOTHING in inputs or self._fault is not None:
            return loss
        # Each part draws its dropout anew, so that a training which goes on draws the same.
        torch.manual_seed(seeds.derive(self.args.seed, number, "train", f"part {self._mine[turn]}"))
        split = self.record.split
        self._take_up(turn)
        try:
            fed = number * len(self._mine) + turn
            items = self._items(self._fed, fed, fed + 1)
            loss, value = self._finite(model, inputs, num_items_in_batch, items)
            self._loss += value
        except TrainingError as error:
            self._fault = error
        self._put_aside(turn)
        self._split += self.record.split - split
        self.record.split = split
        return loss

    def _take_up(self, turn: int) -> None:
        """Let a part's gradients be added to what it has from this step's other batches."""
        if len(self._mine) > 1:
            weights = self._trained
            self._sums = self._sums or [[None] * len(weights) for _ in self._mine]
            for weight, kept in zip(weights, self._sums[turn], strict=True):
                weight.grad = kept

    def _put_aside(self, turn: int) -> None:
        if len(self._mine) > 1:
            self._sums[turn] = [weight.grad for weight in self._trained]

    def _add_up(self) -> None:
        """The sums of the parts, in their order, in the place of each weight's gradient."""
        if self._sums:
            for weight, *parts in zip(self._trained, *self._sums, strict=True):
                total = torch.zeros_like(weight) if parts[0] is None else parts[0]
                for part in parts[1:]:
                    total = total if part is None else total + part
                weight.grad = total
            self._sums = []

    def _clip_grad_norm(self, model: Any) -> Any:
        loss, split = self._agree(self._loss, float(self._split))
        self.record.loss += loss
        self.record.split += int(split)
        self._tr_loss += loss - self._loss  # what transformers logs is the whole batch's too
        self._loss, self._split = 0.0, 0
        self._add_up()
        sum_gradients(self._trained, self._peers, self._by_rank)
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
