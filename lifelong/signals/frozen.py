"""Frozen producers: encoders and raters that see a sample once in its life, whatever the model learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from lifelong.config import RunConfig
from lifelong.errors import UsageError
from lifelong.loader import CarriedLoader

if TYPE_CHECKING:
    from lifelong.models.encode import Conversation
    from stores.pool import PoolRow

BLOCK = 1024
"""Samples whose features are kept at a time: what an interruption loses at most."""


class Producer(Protocol):
    """Makes signals from a sample's content alone."""

    name: str
    """Everything that its output depends on, as one name: kind, weights, options."""
    signals: tuple[str, ...]
    batch_size: int

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, np.ndarray]:
        """Each signal, one row per conversation; a row must not depend on the others."""
        ...


@runtime_checkable
class Lookup(Protocol):
    """A producer that looks samples up by name instead of reading them."""

    name: str
    signals: tuple[str, ...]
    batch_size: int

    def of_rows(self, rows: Sequence[PoolRow]) -> dict[str, np.ndarray]:
        """Each signal, one row per row of the pool."""
        ...


def producer(kind: str, config: RunConfig) -> Producer | Lookup:
    """The producer of a kind ("encoder", "rater") that the configuration names.

    Raises:
        UsageError: there is no such kind.
    """
    if kind == "encoder":
        from lifelong.encoders import encoder

        return encoder(config.encoder)
    if kind == "rater":
        from lifelong.raters import rater_of

        return rater_of(config)
    raise UsageError(f"there is no frozen producer {kind!r}")


def features_of(
    each: Producer | Lookup, loader: CarriedLoader, rows: Sequence[PoolRow]
) -> dict[str, np.ndarray]:
    """Each signal of a block of samples, one row per sample."""
    parts = [
        _made(each, loader, rows[first : first + each.batch_size])
        for first in range(0, len(rows), each.batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in each.signals}


def _made(each: Producer | Lookup, loader: CarriedLoader, rows: Sequence[PoolRow]) -> dict[str, np.ndarray]:
    if isinstance(each, Lookup):
        return each.of_rows(rows)
    return each([loader.conversation(row) for row in rows])
