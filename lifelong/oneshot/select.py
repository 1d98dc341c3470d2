"""One-shot selection: a part of one dataset, in the dataset's own order and format, without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.account.decisions import Decisions, decisions_table, quarantined_now
from lifelong.config import RunConfig, budget_of
from lifelong.context import ADAPTER, Context, Feed, ModelHolder, Stores, as_run_errors
from lifelong.engines import open_engine
from lifelong.errors import InputError, UsageError
from lifelong.formats import Dataset, open_dataset, write_rows
from lifelong.formats.columns import columns_of
from lifelong.formats.detect import DECISIONS
from lifelong.formats.staging import require_no_folder, require_place, write_file
from lifelong.loop import PHASES, run_phase
from lifelong.oneshot.proxy import train_proxy, with_checkpoints
from lifelong.progress import Progress, Silent
from lifelong.recipes.method import method
from lifelong.run import DATABASE
from lifelong.samples import Sample
from lifelong.signals.fitted import with_encoder_of_artefacts
from policies.pruners import Pruned
from stores.checkpoints import commit_checkpoint
from stores.database import open_database
from stores.scratch import ScratchFolder

SELECTING = ("ingest", "measure", "cluster", "route", "select")


@dataclass(frozen=True, slots=True)
class Selected:
    """What `select` wrote: rows of the input, rows written, where, and in which format."""

    accepted: int
    selected: int
    out: Path
    decisions: Path
    format: str


def select(
    dataset: str | Path,
    out: str | Path,
    config: RunConfig,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    progress: Progress | None = None,
) -> Selected:
    """Write the part of a dataset that a recipe selects, and every row's decision beside it.

    The same phases as in the loop, on a pool that holds the one dataset, up to the selection. The budget is
    config.train.budget: a count, or a share of the rows that can be used, rounded half up. A method that
    reads trajectories has the model's adapter trained for one epoch first, on a copy that is thrown away.

    Raises:
        InputError: the dataset or the model cannot be read, `out` cannot be written or is of the dataset, the
            budget is a count above the rows that can be used, or the file of ratings has none of them.
        UsageError: the recipe needs a model and none is named, or the budget is a share of less than a row.
    """
    config = with_checkpoints(with_encoder_of_artefacts(config))
    plan = method(config.recipe, config).measures
    if (plan.from_model or plan.trajectory) and not config.model.path:
        raise UsageError(
            f"this method reads {', '.join(sorted(plan.signals))} from a model: pass --model with a folder or hub name"
        )
    source = open_dataset(dataset, images=images, format=format)
    out = Path(out)
    # What would stop the writing shows before anything is measured.
    if source.format == "parquet":
        columns_of(source.files)
    require_no_folder(out) if source.format == "huggingface" else require_place(out)
    require_place(_beside(out))
    _require_another(out, source)
    with scratch(dataset, config, images=images, format=format, progress=progress) as context:
        for name in SELECTING:
            run_phases(context, [name])
            _require_rows(context)
            if name == "measure":
                _require_ratings(context)
        return _write(context, source, out)


def _require_another(out: Path, source: Dataset) -> None:
    """Raises: InputError if `out`, or the decisions beside it, would take the place of a file of the dataset."""
    for path in filter(Path.exists, (out, _beside(out))):
        if any(file.exists() and path.samefile(file) for file in source.files):
            raise InputError(f"cannot write {out}: {path} is of the dataset itself; name another file")


def _require_rows(context: Context) -> None:
    """As soon as it can be known, before more is measured.

    Raises:
        InputError: the budget is a number of rows, and there are not so many that can be used.
        UsageError: it is a share, and of so few rows it is not one.
    """
    asked, accepted = context.config.train.budget, context.result("ingest")["accepted"]
    budget, refused = budget_of(asked, accepted), quarantined_now(context)
    usable = accepted - len(refused)
    if budget == 0:
        raise UsageError(
            f"the budget {asked} of {accepted} rows is not one row; ask for a larger share, or for 1"
        )
    if budget > usable and not asked.endswith("%"):
        others = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        why = "".join(f" ({row.file} row {row.row}{others}: {row.reason})" for row in refused[:1])
        raise InputError(
            f"the budget asks for {budget} rows and only {usable} of them can be used{why}; "
            "ask for no more, or for a share"
        )


def _require_ratings(context: Context) -> None:
    """Raises: InputError if a file of ratings is asked and has none of the rows: the choice would be chance."""
    path = context.config.rater.ratings
    asked = path and "ratings" in context.method.measures.signals
    if asked and np.isnan(context.signals().column("ratings")).all():
        raise InputError(
            f"{path} rates none of the rows; its lines name a sample by its sample_id, or by the source_id "
            "that it has in the dataset"
        )


@contextmanager
def scratch(
    dataset: str | Path,
    config: RunConfig,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Context]:
    """The first timestep of a run that is fed one dataset, in a folder that is gone at the end."""
    feed = Feed(
        "dataset", str(Path(dataset)), "dataset", images=str(images) if images else None, format=format
    )
    with ScratchFolder("lifelong-select-") as folder, as_run_errors(folder.path):
        root = folder.path
        # The dataset outlives the scratch folder: its image files are read where they lie.
        pool = config.pool.model_copy(update={"media": "reference"})
        config = config.model_copy(update={"pool": pool})
        db = open_database(root / DATABASE)
        models = ModelHolder(config)
        engine = open_engine(root, models)
        try:
            yield Context(Stores(root, db), config, 1, feed, models, progress or Silent(), _engine=engine)
        finally:
            engine.close()
            db.close()


def run_phases(context: Context, names: Sequence[str]) -> None:
    """Run some phases of a scratch timestep, in order."""
    if context.config.model.path and context.stores.ledger.phase(0, "start") is None:
        save = context.models.vlm.save_adapter
        committed = commit_checkpoint(context.root, 0, save)
        context.stores.ledger.commit(0, "start", seed=0, result={}, seconds=0.0, files=[(ADAPTER, committed)])
    for name in names:
        if name == "measure" and context.method.measures.trajectory:
            train_proxy(context)
        run_phase(context, 1, name, PHASES[name])


def _write(context: Context, source: Dataset, out: Path) -> Selected:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(context.arrays("clusters")["ordinal"])
    kept = Pruned(np.ones(count, dtype=bool), np.full(count, -1), np.full(count, np.nan, dtype=np.float32))
    decisions = Decisions.of(context, kept)
    table = decisions_table(context, decisions)
    rows = list(context.stores.pool.rows(decisions.ordinals))
    places = [(row.file, row.row) for row in rows]
    ids = [row.sample_id for row in rows]
    chosen = {place: id for place, id, rank in zip(places, ids, decisions.rank, strict=True) if rank >= 0}
    rows += quarantined_now(context)  # as in the table, they come last
    table = table.add_column(0, "file", pa.array([row.file for row in rows]))
    table = table.add_column(1, "row", pa.array([row.row for row in rows], type=pa.int64()))
    table = table.add_column(2, "source_id", pa.array([row.source_id for row in rows], type=pa.string()))
    table = pa.concat_tables([table, _refused(context, table.column_names)], promote_options="permissive")
    beside = _beside(out)

    def write(path: Path) -> None:
        # The rows take their place right before the table does, so that the two belong together.
        pq.write_table(table, path)
        write_rows(_chosen_rows(source, chosen), out, source.format, like=source.files)

    write_file(beside, write)
    return Selected(count, len(chosen), out, beside, source.format)


def _beside(out: Path) -> Path:
    """The table of decisions about what is written to `out`."""
    return out.with_name(out.name + DECISIONS)


def _refused(context: Context, columns: Sequence[str]) -> Any:
    """A table with a row for each row of the dataset that never joined: rejected, or a copy of another."""
    import pyarrow as pa

    refusals = list(context.stores.pool.refusals())
    count = len(refusals)
    known = {
        "file": [each.file for each in refusals],
        "row": pa.array([each.row for each in refusals], type=pa.int64()),
        "source_id": pa.array([each.source_id for each in refusals], type=pa.string()),
        # What a copy repeats: an id stands under sample_id once.
        "neighbour": pa.array([each.of for each in refusals], type=pa.string()),
        "dataset": [context.feed.name] * count,
        "skill": [context.feed.skill] * count,
        "selected": [False] * count,
        "pruned": [False] * count,
        "reason": [f"{each.outcome}: {each.reason}; {each.fix}" for each in refusals],
    }
    return pa.table({name: known.get(name, pa.nulls(count)) for name in columns})


def _chosen_rows(source: Dataset, chosen: dict[tuple[str, int | None], str]) -> Iterator[tuple[Any, Sample]]:
    """The rows with the samples chosen at their places. Raises: InputError if one of them is not there any more."""
    left = dict(chosen)
    for row in source.rows():
        if row.sample is not None and left.get((row.file, row.row)) == row.sample.sample_id:
            del left[row.file, row.row]
            yield row.raw, row.sample
    for file, number in left:
        raise InputError(
            f"{file} row {number} has changed since it was measured; nothing was written: select again"
        )
