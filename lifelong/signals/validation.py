"""The validation set that a user names for LESS: its vectors on the current model, as the pool's are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from lifelong.context import Context
from lifelong.errors import InputError
from lifelong.formats import open_dataset, to_rgb
from lifelong.loader import CarriedLoader
from lifelong.measure.passes import Pass
from lifelong.measure.plan import VALIDATION, MeasurePlan, passes_of
from lifelong.measure.pool import measure
from lifelong.models.encode import Conversation
from lifelong.samples import Image, Sample
from lifelong.signals.pool import VALIDATION as KIND
from policies.arrays import unit_rows
from stores.commit import Committed


def validation_vectors(context: Context) -> list[tuple[str, Committed]]:
    """Commit the mean unit vector of each task of the validation set, (tasks, d), if the method asks for it.

    Every dataset that `measure.validation` names is a task. The vectors are the recipe's: by the same pass,
    with the same projection, on the same model as those of the pool.

    Raises:
        InputError: a dataset cannot be read, has no row that can be used, or has rows of the run's eval sets.
    """
    plan, config = context.method.measures, context.config
    if not plan.signals & VALIDATION:
        return []
    signal = str(context.method.vectors.signal)
    only_vectors = MeasurePlan(frozenset({signal}), plan.gradient)
    passes = passes_of(only_vectors, context.current_model(), config.seed)
    means = [_mean_vector(context, path, passes, signal) for path in config.measure.validation]
    return [(KIND, context.commit_arrays(KIND, {KIND: np.stack(means)}))]


def _mean_vector(context: Context, path: str, passes: list[Pass], signal: str) -> np.ndarray:
    """(d,) float64: mean of a task's vectors, each at length 1."""
    config = context.config.measure
    items = _items(context, path)
    total: np.ndarray | None = None
    count = refused = 0
    while block := list(islice(items, config.shard_size)):
        samples: Any = [item for item in block if item is not None]
        found = measure(samples, _AsTheyAre(), passes, config.batch_size, frozenset({signal}))
        refused += len(block) - len(found.ordinals)
        if len(found.ordinals):
            part = unit_rows(found.arrays[signal]).sum(axis=0, dtype=np.float64)
            total = part if total is None else total + part
            count += len(found.ordinals)
        context.progress.step("validation samples measured", count, 0)
    if total is None:
        raise InputError(f"{path}: no row of the validation set can be used; see `lifelong check {path}`")
    if refused:
        context.progress.say(f"  {refused} rows of the validation set {path} cannot be used")
    return total / count


@dataclass(frozen=True, slots=True)
class _Item:
    """A row of a validation set, as `measure` wants one of the pool."""

    ordinal: int
    sample: Sample

    @property
    def images(self) -> tuple[Image, ...]:
        return self.sample.images

    @property
    def text_chars(self) -> int:
        return self.sample.text_chars


class _AsTheyAre(CarriedLoader):
    """Loads conversations whose images are in no store."""

    def __init__(self) -> None: ...

    def conversation(self, item: Any) -> Conversation:
        images = [to_rgb(image.read()) for image in item.sample.images]
        return Conversation(item.sample.messages, images)


def _items(context: Context, path: str) -> Iterator[_Item | None]:
    """The rows of a dataset in order; None for one that is refused or a duplicate."""
    evals = _eval_samples(context)
    images = context.config.measure.validation_images or None
    for number, row in enumerate(open_dataset(path, images=images).rows()):
        if row.row is None:
            raise InputError(f"{row.file}: {row.reason}; {row.fix}")
        if row.sample is not None and row.sample.sample_id in evals:
            raise InputError(
                f"{path}: row {row.row} of the validation set is in the eval set of {evals[row.sample.sample_id]!r}: "
                "what is chosen by it would flatter the curves. Name other data, or set "
                "measure.validation_of_evals=true"
            )
        yield _Item(number, row.sample) if row.sample is not None and row.outcome == "accepted" else None


def _eval_samples(context: Context) -> dict[str, str]:
    """sample_id → skill of what the run is tested on; nothing if that may be validated on."""
    if context.config.measure.validation_of_evals:
        return {}
    evals = context.stores.evals
    return {item.sample_id: skill.name for skill in evals.skills() for item in evals.items(skill.name)}
