"""How much disk a phase will need: a disk that is nearly full should show before hours of work, not after them."""

from __future__ import annotations

from lifelong.context import ADAPTER, Context
from lifelong.errors import InputError
from lifelong.formats.detect import find_files
from lifelong.recipes.asked import weights_kept
from lifelong.signals.pool import MEASURED
from lifelong.signals.refresh import due
from stores.space import require_space

RESERVE = 16 << 20
"""Bytes that every phase needs: for the database's log and for tables."""
PER_SAMPLE = 512
"""Bytes a sample in what a phase writes beside vectors: scores, decisions, rows of the database."""


def require_room(context: Context, timestep: int, phase: str) -> None:
    """Raises: DiskError if the run's disk has less free than the phase will need, by an estimate."""
    require_space(context.root, RESERVE + _needed(context, phase), f"phase {phase!r} of timestep {timestep}")


def _needed(context: Context, phase: str) -> int:
    match phase:
        case "ingest":
            return _arriving(context)
        case "measure":
            return _signals(context)
        case "train":
            return _adapters(context)
        case "start" | "evaluate":
            return 0
        case _:
            return PER_SAMPLE * context.stores.pool.counts()["live"]


def _arriving(context: Context) -> int:
    """Twice the dataset's files: its rows go into the database by way of the log.

    Images that lie beside the dataset are not counted: nobody knows which before the rows are read.
    """
    try:
        _, files = find_files(context.feed.train)
        return 2 * sum(file.stat().st_size for file in files if file.is_file())
    except (InputError, OSError):
        return 0  # ingest says what is wrong with it


def _signals(context: Context) -> int:
    """What the samples that are not measured yet take, at what the last measured ones took each."""
    ledger = context.stores.ledger
    done = sum(shard.rows for shard in ledger.shards(context.timestep, MEASURED))
    left = len(due(context)) - done
    before = [shard for shard in ledger.shards(kind=MEASURED) if shard.rows]
    if before:
        last = before[-1]
        return left * last.bytes // last.rows
    gradient = context.method.measures.gradient
    width = 2 if context.config.measure.vector_dtype == "float16" else 4
    return left * (PER_SAMPLE + (gradient.dim * width if gradient else 0))


def _adapters(context: Context) -> int:
    """The adapter, that which goes into its mean, those kept on the way, and two states of training: one is written
    before the other is let go."""
    files = context.stores.ledger.files(context.timestep - 1)
    adapter = sum(file.committed.bytes for file in files if file.kind == ADAPTER)
    kept = context.config.measure.trajectory if context.method.measures.trajectory else 0
    # Weights, and the two moments that AdamW keeps of each.
    states = 2 * 3 if context.config.train.checkpoint_steps else 0
    mean = min(weights_kept(context.method.start, context.timestep)) < 1
    return adapter * (1 + mean + kept + states)
