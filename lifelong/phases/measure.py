"""Measure: the current model's signals for every live sample, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lifelong.context import TRAJECTORY, Context, Outcome
from lifelong.engines.work import FeatureBlock, MeasureBlock, ShardPlace, TrajectoryBlock, places_of
from lifelong.measure.pool import faults_in
from lifelong.signals.frozen import BLOCK
from lifelong.signals.pool import MEASURED, trajectory_kind
from lifelong.signals.refresh import commit_origins, due
from lifelong.signals.validation import validation_vectors
from stores.commit import Committed
from stores.features import open_features
from stores.shards import Shard, read_array


def measure(context: Context) -> Outcome:
    """Commit a shard of signals for each block of samples that are due; shards that are there already are kept.

    A sample that the model cannot take is quarantined with the reason, and the run goes on.

    Raises:
        InputError: not one sample of a shard can be measured: the fault is then not the samples'.
    """
    stores = context.stores
    asked = due(context)
    done = sum(shard.rows for shard in stores.ledger.shards(context.timestep, MEASURED))
    measured = 0

    def progress(count: int) -> None:
        nonlocal measured
        measured += count
        context.progress.step("samples measured", done + measured, len(asked))

    _commit_shards(context, _blocks(context, asked), progress)
    _measure_trajectory(context)
    ask_producers(context)
    return _outcome(context, validation_vectors(context))


def _blocks(context: Context, asked: np.ndarray) -> Iterator[MeasureBlock]:
    """The blocks of the samples that are due which have no shard yet."""
    stores, size, plan = context.stores, context.config.measure.shard_size, context.method.measures
    committed = {shard.position for shard in stores.ledger.shards(context.timestep, MEASURED)}
    missing = [position for position in range(-(-len(asked) // size)) if position not in committed]
    if not missing:
        return
    # A one-shot selection that asks nothing of a model needs none.
    needs_model = plan.from_model or context.config.model.path
    adapter = context.within(context.adapter(context.timestep - 1)) if needs_model else ""
    for position in missing:
        ordinals = asked[position * size : (position + 1) * size]
        # Where nothing is asked of the model a sample is only read, once: when it arrives.
        rows = [
            row for row in stores.pool.rows(ordinals) if plan.from_model or row.arrived == context.timestep
        ]
        shard = ShardPlace(context.timestep, MEASURED, position)
        places = places_of(stores.media, rows)
        yield MeasureBlock(shard, adapter, plan, ordinals, rows, places, min(size, len(asked)))


def _commit_shards(
    context: Context,
    blocks: Iterable[MeasureBlock | TrajectoryBlock],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    for block, written in context.engine.map(blocks, progress):
        shard = block.shard
        context.stores.ledger.shard_commit(
            shard.timestep, shard.kind, shard.position, written.committed, written.rows
        )


def _measure_trajectory(context: Context) -> None:
    """The alignment of text and image at each checkpoint that the last training kept, if the method asks for it."""
    if not context.method.measures.trajectory:
        return
    measured = 0

    def progress(count: int) -> None:
        nonlocal measured
        measured += count
        context.progress.step("samples measured for trajectories", measured, 0)

    _commit_shards(context, _trajectory_blocks(context), progress)


def _trajectory_blocks(context: Context) -> Iterator[TrajectoryBlock]:
    stores = context.stores
    measured = stores.ledger.shards(context.timestep, MEASURED)
    for checkpoint, adapter in enumerate(context.trajectory_checkpoints()):
        kind = trajectory_kind(checkpoint)
        committed = {shard.position for shard in stores.ledger.shards(context.timestep, kind)}
        for shard in measured:
            if shard.position in committed:
                continue
            ordinals = read_array(context.root / shard.path, "ordinal")
            rows = [row for row in stores.pool.rows(ordinals) if row.images]
            place = ShardPlace(context.timestep, kind, shard.position)
            yield TrajectoryBlock(place, context.within(adapter), rows, places_of(stores.media, rows))


def ask_producers(context: Context) -> None:
    """Features that depend on content alone, of the samples that have none yet."""
    producers = context.producers()
    if not producers:
        return
    pool = context.stores.pool.arrays()
    sample_ids = pool["sample_ids"].astype(str).tolist()
    with open_features(context.features_folder) as features:
        for kind, each in zip(context.method.measures.producers, producers, strict=True):
            missing = features.missing(each.name, sample_ids)
            done = 0
            jobs = _feature_blocks(context, kind, pool["ordinal"][missing])
            for block, arrays in context.engine.map(jobs):
                features.add(each.name, [row.sample_id for row in block.rows], arrays)
                done += len(block.rows)
                context.progress.step("features of content", done, len(missing))


def _feature_blocks(context: Context, kind: str, ordinals: np.ndarray) -> Iterator[FeatureBlock]:
    stores = context.stores
    for first in range(0, len(ordinals), BLOCK):
        rows = list(stores.pool.rows(ordinals[first : first + BLOCK].tolist()))
        yield FeatureBlock(kind, rows, places_of(stores.media, rows))


def _outcome(context: Context, files: list[tuple[str, Committed]]) -> Outcome:
    shards = context.stores.ledger.shards(context.timestep, MEASURED)
    faults: dict[int, str] = {}
    fresh: list[np.ndarray] = []
    halved = 0
    for shard in shards:
        faults.update(faults_in(read_array(context.root / shard.path, "faults")))
        halved += int(read_array(context.root / shard.path, "halved").sum())
        fresh.append(read_array(context.root / shard.path, "ordinal"))
    carried, origins = commit_origins(context, np.concatenate(fresh or [np.empty(0, np.int64)]))
    result = {
        "measured": sum(shard.rows for shard in shards),
        "quarantined": len(faults),
        "halved": halved,
        "signals": sorted(context.method.measures.signals),
        "passes": list(context.method.measures.passes),
        "bytes": sum(shard.bytes for shard in shards),
        **carried,
    }

    def bury() -> None:
        ordinals = sorted(faults)
        reasons = [faults[ordinal] for ordinal in ordinals]
        context.stores.pool.bury(context.timestep, ordinals, reasons, status="quarantined")
        context.stores.pool.record_tokens(*_tokens_of_arrivals(context, shards))
        # What the last training kept has been measured; the train phase removes the files.
        context.stores.ledger.release_shards(context.timestep - 1, TRAJECTORY)

    return Outcome(result, [*files, *origins], apply=bury)


def _tokens_of_arrivals(context: Context, shards: list[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """(ordinals, tokens) of the samples that arrived at this timestep and were read."""
    first = context.stores.pool.first_of(context.timestep)
    read = [context.root / shard.path for shard in shards if shard.rows]
    ordinals = np.concatenate([read_array(path, "ordinal") for path in read] or [np.empty(0, np.int64)])
    tokens = np.concatenate([read_array(path, "tokens") for path in read] or [np.empty(0)]).astype(np.int64)
    known = (ordinals >= first) & (tokens > 0)
    return ordinals[known], tokens[known]
