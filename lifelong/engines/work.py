"""The pieces of work that the phases hand to an engine: blocks to measure, features, eval samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong.engines.base import Worker
from lifelong.errors import InputError
from lifelong.evaluate.skills import Answer, Item, evaluate, metric_named, refusal
from lifelong.loader import CarriedLoader
from lifelong.measure.passes import AlignmentPass, Pass
from lifelong.measure.plan import MeasurePlan
from lifelong.measure.pool import REFUSED, Measured, measure
from lifelong.models.encode import Conversation
from lifelong.signals.frozen import features_of
from stores.commit import Committed
from stores.media import Media, MediaRow
from stores.shards import write_shard

if TYPE_CHECKING:
    from stores.evals import EvalItem
    from stores.pool import PoolRow

ALIGNMENT = frozenset({"alignment"})


def places_of(media: Media, rows: Sequence[PoolRow | EvalItem]) -> dict[str, MediaRow]:
    """Where the images of some rows are. Raises: DamagedError if one was never recorded."""
    return media.locate(sha256 for row in rows for sha256 in row.images)


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that was written, and the samples in it."""

    committed: Committed
    rows: int


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Which shard a block of samples is measured for."""

    timestep: int
    kind: str
    position: int

    def __str__(self) -> str:
        return f"shard {self.position} of {self.kind} of timestep {self.timestep}"


@dataclass(frozen=True, slots=True)
class MeasureBlock:
    """Measure a block of the pool and write its shard.

    adapter: path of the current model's; "" where nothing is asked of a model. plan: what is measured. every: the
    ordinals of the block, of which `rows` need not be all, where nothing is asked of the model. full: samples of a
    whole shard.
    """

    shard: ShardPlace
    adapter: str
    plan: MeasurePlan
    every: np.ndarray
    rows: list[PoolRow]
    places: dict[str, MediaRow]
    full: int

    def __str__(self) -> str:
        return str(self.shard)

    def __len__(self) -> int:
        return len(self.rows)

    def run(self, worker: Worker) -> Written:
        """Raises: InputError if not one sample of a whole shard can be measured."""
        config = worker.models.config.measure
        passes = worker.passes(self.plan, self.adapter) if self.adapter else []
        loader = CarriedLoader(worker.files.images(self.places))
        signals = self.plan.from_model
        measured = measure(self.rows, loader, passes, config.batch_size, signals, worker.progress)
        if len(measured.faults) == self.full:
            reason = next(iter(measured.faults.values()))
            raise InputError(f"none of {len(self.every)} samples can be measured; the first: {reason}")
        if not signals:
            measured = self._read_only(measured)
        measured.arrays.setdefault("tokens", np.zeros(len(measured.ordinals)))  # 0: no pass has read them all
        return _written(worker, self.shard, measured, config.vector_dtype)

    def _read_only(self, measured: Measured) -> Measured:
        """Where nothing is asked of the model a sample is read once, when it arrives; its shard names them all."""
        sound = np.array([each for each in self.every.tolist() if each not in measured.faults], np.int64)
        tokens = np.zeros(len(sound))
        if "tokens" in measured.arrays:
            tokens[np.searchsorted(sound, measured.ordinals)] = measured.arrays["tokens"]
        return Measured(sound, {"tokens": tokens}, measured.faults)


@dataclass(frozen=True, slots=True)
class TrajectoryBlock:
    """Measure the alignment of text and image of a block's samples that have images, at a checkpoint."""

    shard: ShardPlace
    adapter: str
    rows: list[PoolRow]
    places: dict[str, MediaRow]

    def __str__(self) -> str:
        return str(self.shard)

    def __len__(self) -> int:
        return len(self.rows)

    def run(self, worker: Worker) -> Written:
        passes: list[Pass] = [AlignmentPass(worker.model(self.adapter))]
        loader = CarriedLoader(worker.files.images(self.places))
        batch_size = worker.models.config.measure.batch_size
        found = measure(self.rows, loader, passes, batch_size, ALIGNMENT, worker.progress)
        return _written(worker, self.shard, found, "float32")


def _written(worker: Worker, shard: ShardPlace, measured: Measured, vector_dtype: str) -> Written:
    arrays = measured.to_arrays(vector_dtype)
    committed = write_shard(worker.files.root, shard.timestep, shard.kind, shard.position, arrays)
    worker.files.deliver(committed)
    return Written(committed, len(measured.ordinals))


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Make the features of some samples that depend on content alone. kind: of the frozen producer."""

    kind: str
    rows: list[PoolRow]
    places: dict[str, MediaRow]

    def __str__(self) -> str:
        return f"features of {len(self)} samples by the frozen {self.kind}"

    def __len__(self) -> int:
        return len(self.rows)

    def run(self, worker: Worker) -> dict[str, np.ndarray]:
        """Each signal of the producer, one row per sample."""
        loader = CarriedLoader(worker.files.images(self.places))
        return features_of(worker.models.producer(self.kind), loader, self.rows)


_TAKEN_BEFORE = (
    "it could be taken when the eval set arrived: put model.max_length in config.yaml back to what it was then, after "
    "`lifelong rollback` of this timestep where it has measured already"
)


@dataclass(frozen=True, slots=True)
class EvalBlock:
    """Answer some consecutive samples of a skill's eval set with the model and an adapter.

    cell: which cell of the skill matrix, and first: which sample of the eval set, they are for.
    """

    cell: int
    first: int
    adapter: str
    metric: str
    items: list[EvalItem]
    places: dict[str, MediaRow]

    def __str__(self) -> str:
        return f"eval samples {self.first} to {self.first + len(self) - 1} with {self.adapter}"

    def __len__(self) -> int:
        return len(self.items)

    def run(self, worker: Worker) -> list[Answer]:
        """Raises: InputError if the model's processor cannot take one that it could take when the eval set arrived."""
        loader = CarriedLoader(worker.files.images(self.places))
        items = [item_of(item, loader) for item in self.items]
        config = worker.models.config.evaluate
        done = 0

        def progress(count: int, total: int) -> None:
            nonlocal done
            worker.progress(count - done)
            done = count

        vlm: Any = worker.model(self.adapter)
        metric = metric_named(self.metric)
        try:
            return evaluate(vlm, items, metric, config.batch_size, progress)
        except REFUSED as error:
            for item in items:
                if reason := refusal(vlm.encoder, item, metric):
                    raise InputError(f"eval sample {item.sample_id}: {reason}; {_TAKEN_BEFORE}") from error
            raise


def item_of(item: EvalItem, loader: CarriedLoader) -> Item:
    """An eval sample as it is put to the model. Raises: DamagedError if an image is missing or altered."""
    conversation = Conversation(item.messages[:-1], loader.conversation(item).images)
    told = item.reference
    accepted = tuple(told.get("accepted", ()))  # an eval set has none that arrived before several were read
    return Item(item.sample_id, conversation, told["answer"], tuple(told["options"]), accepted)
