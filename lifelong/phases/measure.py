"""Measure: the current model's signals for every live sample, a shard at a time."""

from __future__ import annotations

import numpy as np

from lifelong.context import TRAJECTORY, Context, Outcome
from lifelong.errors import InputError
from lifelong.frozen import produce
from lifelong.measure.passes import AlignmentPass, Pass
from lifelong.measure.plan import passes_of
from lifelong.measure.pool import Measured, faults_in
from lifelong.measure.pool import measure as measure_rows
from lifelong.refresh import commit_origins, due
from lifelong.signals import MEASURED, trajectory_kind
from lifelong.validation import validation_vectors
from stores.commit import Committed
from stores.features import open_features
from stores.shards import Shard, read_array, write_shard

ALIGNMENT = frozenset({"alignment"})


def measure(context: Context) -> Outcome:
    """Commit a shard of signals for each block of samples that are due; shards that are there already are kept.

    A sample that the model cannot take is quarantined with the reason, and the run goes on.

    Raises:
        InputError: not one sample of a shard can be measured: the fault is then not the samples'.
    """
    stores, config = context.stores, context.config.measure
    asked = due(context)
    committed = {shard.position for shard in stores.ledger.shards(context.timestep, MEASURED)}
    missing = [
        position for position in range(-(-len(asked) // config.shard_size)) if position not in committed
    ]
    passes = _passes(context) if missing else []
    for position in missing:
        first = position * config.shard_size
        block = asked[first : first + config.shard_size]
        measured = _measure_block(context, block, passes, first, len(asked))
        arrays = measured.to_arrays(config.vector_dtype)
        shard = write_shard(context.root, context.timestep, MEASURED, position, arrays)
        stores.ledger.shard_commit(context.timestep, MEASURED, position, shard, len(measured.ordinals))
    _measure_trajectory(context)
    ask_producers(context)
    return _outcome(context, validation_vectors(context))


def _measure_trajectory(context: Context) -> None:
    """The alignment of text and image at each checkpoint that the last training kept, if the method asks for it."""
    if not context.method.measures.trajectory:
        return
    stores = context.stores
    measured = stores.ledger.shards(context.timestep, MEASURED)
    for checkpoint, adapter in enumerate(context.trajectory_checkpoints()):
        kind = trajectory_kind(checkpoint)
        committed = {shard.position for shard in stores.ledger.shards(context.timestep, kind)}
        for shard in measured:
            if shard.position in committed:
                continue
            ordinals = read_array(context.root / shard.path, "ordinal")
            passes: list[Pass] = [AlignmentPass(context.models.with_adapter(adapter))]
            rows = [row for row in stores.pool.rows(ordinals) if row.images]
            found = measure_rows(rows, stores.loader, passes, context.config.measure.batch_size, ALIGNMENT)
            written = write_shard(
                context.root, context.timestep, kind, shard.position, found.to_arrays("float32")
            )
            stores.ledger.shard_commit(context.timestep, kind, shard.position, written, len(found.ordinals))
            context.progress.step(
                f"trajectories at checkpoint {checkpoint + 1}", shard.position + 1, len(measured)
            )


def ask_producers(context: Context) -> None:
    """Features that depend on content alone, of the samples that have none yet."""
    producers = context.producers()
    if not producers:
        return
    pool = context.stores.pool.arrays()
    sample_ids = pool["sample_ids"].astype(str).tolist()
    with open_features(context.features_folder) as features:
        for each in producers:
            produce(
                each,
                features,
                context.stores.loader,
                pool["ordinal"],
                sample_ids,
                lambda done, total: context.progress.step("features of content", done, total),
            )


def _passes(context: Context) -> list[Pass]:
    plan = context.method.measures
    if not plan.from_model and not context.config.model.path:
        return []  # a one-shot selection that asks nothing of a model needs none
    return passes_of(plan, context.current_model(), context.config.seed)


def _measure_block(
    context: Context, ordinals: np.ndarray, passes: list[Pass], done: int, total: int
) -> Measured:
    stores, config = context.stores, context.config.measure
    rows = list(stores.pool.rows(ordinals))

    def progress(count: int) -> None:
        nonlocal done
        done += count
        context.progress.step("samples measured", done, total)

    signals = context.method.measures.from_model
    # Where nothing is asked of the model a sample is only read, once: when it arrives.
    asked = rows if signals else [row for row in rows if row.arrived == context.timestep]
    measured = measure_rows(asked, stores.loader, passes, config.batch_size, signals, progress)
    if len(measured.faults) == min(config.shard_size, total):
        reason = next(iter(measured.faults.values()))
        raise InputError(f"none of {len(rows)} samples can be measured; the first: {reason}")
    if not signals:
        sound = np.array([each for each in ordinals.tolist() if each not in measured.faults], dtype=np.int64)
        tokens = np.zeros(len(sound))
        if "tokens" in measured.arrays:
            tokens[np.searchsorted(sound, measured.ordinals)] = measured.arrays["tokens"]
        return Measured(sound, {"tokens": tokens}, measured.faults)
    measured.arrays.setdefault("tokens", np.zeros(len(measured.ordinals)))  # 0: no pass has read them all
    return measured


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
