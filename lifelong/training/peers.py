"""Workers that share a training: each does its part of every batch, and all take the same step.

Gradients are summed once an optimiser step, over the adapter's weights alone; the loss is divided by the answer tokens
of all parts, so the sum is the gradient of the whole batch. Everything else (model, optimiser, schedule) is alike in
all of them and stays so, since they do the same with the same numbers. Nothing is averaged over peers, so parts may
be of any size, and of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


class Peers(Protocol):
    """This worker among those that train together."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's tensor, in place, in whatever order is fastest."""
        ...

    def sum_by_rank(self, values: torch.Tensor) -> torch.Tensor:
        """The same, added up in the order of the ranks: the bits that one process gets that adds them up so."""
        ...

    def everybody(self, value: Any) -> list[Any]:
        """Everybody's small object, by rank."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """No peers."""

    rank: int = 0
    size: int = 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def sum_by_rank(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def everybody(self, value: Any) -> list[Any]:
        return [value]


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of torch.distributed's default group."""

    rank: int
    size: int

    @classmethod
    def joined(cls) -> Peers:
        """The group that this process has joined; alone where it is the only one."""
        size = torch.distributed.get_world_size()
        return cls(torch.distributed.get_rank(), size) if size > 1 else ALONE

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(values)
        return values

    def sum_by_rank(self, values: torch.Tensor) -> torch.Tensor:
        given = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(given, values)
        values.copy_(given[0])
        for others in given[1:]:
            values += others
        return values

    def everybody(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found


def part_of(batch: Sequence[int], part: int, parts: int) -> list[int]:
    """The consecutive positions of a batch that are one of its parts; none where there are fewer than parts.

    >>> [part_of(range(7), part, 3) for part in range(3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    return [int(position) for position in np.array_split(np.asarray(batch, dtype=np.int64), parts)[part]]


def sum_gradients(weights: Sequence[torch.Tensor], peers: Peers, by_rank: bool) -> None:
    """Put the sum of everybody's gradients in the place of each weight's own. by_rank: see `Peers.sum_by_rank`."""
    if peers.size == 1:
        return
    present = [weight for weight in weights if weight.requires_grad]
    by_kind: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for weight in present:
        by_kind.setdefault((weight.dtype, weight.device), []).append(weight)
    for alike in by_kind.values():
        flat = torch.cat(
            [torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten() for each in alike]
        )
        (peers.sum_by_rank if by_rank else peers.sum)(flat)
        start = 0
        for each in alike:
            each.grad = flat[start : start + each.numel()].view_as(each).clone()
            start += each.numel()
