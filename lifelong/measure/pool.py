"""Measure samples of the pool, shard by shard, in batches of like length."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lifelong.errors import InputError, ModelError
from lifelong.formats.faults import FaultError
from lifelong.loader import CarriedLoader
from lifelong.measure.passes import Arrays, Pass
from lifelong.measure.plan import OF_IMAGES
from lifelong.memory import first_line, out_of_memory, release_memory
from lifelong.models.encode import Conversation
from stores.pool import PoolRow

REFUSED = (
    InputError,
    FaultError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
)
"""What reading a sample, and a model's processor, raise of one that they cannot take."""

COUNTS = ("answer_tokens", "tokens")
"""Kept of every sample that is read: its answer's tokens, and all of them."""


@dataclass(slots=True)
class Measured:
    """A shard's signals: row i of every array is of sample ordinals[i].

    faults: ordinal → why it has none; halved: how many times a batch was halved because memory was short.
    """

    ordinals: np.ndarray
    arrays: Arrays
    faults: dict[int, str] = field(default_factory=dict)
    halved: int = 0

    def to_arrays(self, vector_dtype: str) -> Arrays:
        """As a shard file holds it: arrays of many columns in `vector_dtype`, if it holds them, the rest in float32."""
        stored = {name: _stored(array, vector_dtype) for name, array in self.arrays.items()}
        faults = json.dumps(self.faults, sort_keys=True).encode()
        return {
            "ordinal": self.ordinals,
            "faults": np.frombuffer(faults, dtype=np.uint8),
            "halved": np.array([self.halved], dtype=np.int64),
            **stored,
        }


def _stored(array: np.ndarray, vector_dtype: str) -> np.ndarray:
    largest = np.abs(array, where=np.isfinite(array), out=np.zeros(array.shape, array.dtype)).max(initial=0)
    fits = array.ndim > 1 and largest <= np.finfo(vector_dtype).max
    return array.astype(vector_dtype if fits else "float32")


def faults_in(stored: np.ndarray) -> dict[int, str]:
    """The faults that a shard file holds."""
    return {int(ordinal): reason for ordinal, reason in json.loads(stored.tobytes()).items()}


def measure(
    rows: Sequence[PoolRow],
    loader: CarriedLoader,
    passes: Sequence[Pass],
    batch_size: int,
    signals: frozenset[str],
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Signals of `rows`, in their order; a sample that cannot be measured is left out, with its reason.

    Samples are batched by length, so that little is padded; a sample's signals do not depend on its batch.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (len(rows[i].images), rows[i].text_chars, i))
    found: dict[int, dict[str, np.ndarray]] = {}
    faults: dict[int, str] = {}
    halved = 0
    for start in range(0, len(rows), batch_size):
        positions = by_length[start : start + batch_size]
        batch = [rows[i] for i in positions]
        halved += _measure_batch(batch, positions, loader, passes, signals, found, faults)
        progress(len(positions))
    order = sorted(found)
    names = sorted(set().union(*(found[i] for i in order))) if order else []
    arrays = {name: np.stack([found[i][name] for i in order]) for name in names}
    ordinals = np.array([rows[i].ordinal for i in order], dtype=np.int64)
    return Measured(ordinals, arrays, {rows[i].ordinal: reason for i, reason in faults.items()}, halved)


def _measure_batch(
    rows: Sequence[PoolRow],
    positions: Sequence[int],
    loader: CarriedLoader,
    passes: Sequence[Pass],
    signals: frozenset[str],
    found: dict[int, dict[str, np.ndarray]],
    faults: dict[int, str],
) -> int:
    """Fill `found` or `faults` for every position; a batch that fails is tried again one by one.

    A batch that does not fit in memory is tried again in halves. Returns how many times that was done.
    """
    short_of_memory = False
    try:
        conversations = [loader.conversation(row) for row in rows]
        arrays = _signals(conversations, passes, signals)
    except ModelError:
        raise
    except REFUSED as error:
        fault = f"the model's processor cannot take it: {error}"
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        short_of_memory, fault = True, f"it does not fit in memory: {first_line(error)}"
    else:
        _keep(arrays, positions, found, faults)
        return 0
    if len(rows) == 1:
        faults[positions[0]] = fault
        return 0
    if short_of_memory:
        release_memory()
    size = -(-len(rows) // 2) if short_of_memory else 1
    return int(short_of_memory) + sum(
        _measure_batch(rows[i : i + size], positions[i : i + size], loader, passes, signals, found, faults)
        for i in range(0, len(rows), size)
    )


def _keep(
    arrays: Arrays,
    positions: Sequence[int],
    found: dict[int, dict[str, np.ndarray]],
    faults: dict[int, str],
) -> None:
    for i, position in enumerate(positions):
        sample = {name: array[i] for name, array in arrays.items()}
        broken = [
            name for name, value in sample.items() if name not in OF_IMAGES and not np.isfinite(value).all()
        ]
        if broken:
            faults[position] = f"the model gives it no finite {' and '.join(sorted(broken))}"
        else:
            found[position] = sample


def _signals(
    conversations: Sequence[Conversation], passes: Sequence[Pass], wanted: frozenset[str]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for each in passes:
        arrays.update(each(conversations))
    return {name: array for name, array in arrays.items() if name in wanted or name in COUNTS}
