"""Frozen producers: encoders and raters that see a sample once in its life, whatever the model learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from lifelong.config import RunConfig
from lifelong.errors import UsageError
from lifelong.loader import ConversationLoader
from stores.features import Features

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


def produce(
    each: Producer | Lookup,
    features: Features,
    loader: ConversationLoader,
    ordinals: np.ndarray,
    sample_ids: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Make and keep the features of the samples that the producer has not seen; returns how many."""
    missing = features.missing(each.name, sample_ids)
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        arrays = features_of(each, loader, ordinals[block].tolist())
        features.add(each.name, [sample_ids[position] for position in block], arrays)
        progress(start + len(block), len(missing))
    return len(missing)


def features_of(
    each: Producer | Lookup, loader: ConversationLoader, ordinals: Sequence[int]
) -> dict[str, np.ndarray]:
    """Each signal of a block of samples, one row per sample."""
    parts = [
        _made(each, loader, ordinals[first : first + each.batch_size])
        for first in range(0, len(ordinals), each.batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in each.signals}


def _made(
    each: Producer | Lookup, loader: ConversationLoader, ordinals: Sequence[int]
) -> dict[str, np.ndarray]:
    if isinstance(each, Lookup):
        return each.of_rows(list(loader.pool.rows(ordinals)))
    return each(list(loader.conversations(ordinals)))
