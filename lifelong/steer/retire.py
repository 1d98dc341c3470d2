"""Data that must go: its content leaves the run for good; what stays is each sample's id, and why it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong.context import ADAPTER, DATABASE, Stores
from lifelong.errors import InputError, RunError, UsageError
from lifelong.recorded import FEEDING
from lifelong.upkeep.between import copy_and_sweep
from stores.commit import commit_file
from stores.database import connect, transaction
from stores.expunge import blank_shards, cut_media, forget_features, scrub, tombstone
from stores.features import INDEX, open_features
from stores.undo import forget_undone

if TYPE_CHECKING:
    from lifelong.run import Run

KIND = "retired"
REPORT = "report.html"
UNDER_WAY = "retiring"
"""Key of the retirement whose files have yet to be rewritten; null where none is."""


@dataclass(frozen=True, slots=True)
class Retired:
    """What a retirement did, and what it could not undo.

    trained_on: timesteps whose selection had some of the samples; tainted: those whose adapter has learned from them,
    directly or from an earlier one; clean: the last timestep before all those, from which a clean model can be rebuilt;
    outside: image files used in place, which are the user's to delete.
    """

    samples: int
    reason: str
    trained_on: tuple[int, ...]
    tainted: tuple[int, ...]
    clean: int
    last: int
    evals: int
    shards: int
    packs: int
    features: int
    outside: tuple[str, ...]


def find(stores: Stores, *, dataset: str | None, samples: Sequence[str], where: str | None) -> np.ndarray:
    """Ordinals of the samples of a dataset, of those named, or of those that an SQL condition holds for.

    where: over the columns of `samples` and `text`, all that a sample says, such as `text LIKE '%Jane Doe%'`.

    Raises:
        InputError: there is no such dataset or sample, or the condition holds for none.
        UsageError: the condition is no SQL.
    """
    found: set[int] = set()
    if dataset is not None:
        rows = stores.db.execute("SELECT ordinal FROM samples WHERE dataset = ?", [dataset]).fetchall()
        if not rows:
            known = ", ".join(each.name for each in stores.pool.datasets())
            raise InputError(f"{stores.root}: no dataset {dataset!r}; there are: {known or 'none'}")
        found |= {ordinal for (ordinal,) in rows}
    for sample in samples:
        matches = stores.pool.find(sample)
        if len(matches) != 1:
            # What is named by half must not go for good.
            said = "no sample is" if not matches else f"{len(matches)} samples are"
            raise InputError(
                f"{stores.root}: {said} named {sample!r}: give the whole sample id (`lifelong why` tells it)"
            )
        found.add(matches[0].ordinal)
    if where is not None:
        found |= _where(stores, where)
    gone = "SELECT ordinal FROM samples JOIN retired USING (sample_id)"
    found -= {ordinal for (ordinal,) in stores.db.execute(gone)}
    if not found:
        raise InputError(f"{stores.root}: nothing to retire: no sample is meant that is not retired already")
    return np.array(sorted(found), dtype=np.int64)


def retire(stores: Stores, ordinals: np.ndarray, reason: str) -> Retired:
    """Retire samples: one transaction for the tombstones, then every file that holds something of them.

    Killed on the way, the rest is done when the run is next written to. What a rollback had set aside is let go.

    Raises:
        RunError: a timestep is under way.
    """
    if stores.ledger.get_meta(FEEDING) is not None:
        raise RunError(
            f"a timestep of {stores.root} is under way: finish it with `lifelong resume {stores.root}`, or take it "
            f"back with `lifelong rollback {stores.root}`; then retire"
        )
    last = stores.ledger.last_timestep() or 0
    trained, tainted = lineage(stores, ordinals)
    with transaction(stores.db):
        forget_undone(stores.db)
        (before,) = stores.db.execute("SELECT count(*) FROM evals").fetchone()
        tombstone(stores.db, ordinals.tolist(), last, reason)
        (after,) = stores.db.execute("SELECT count(*) FROM evals").fetchone()
        clean = min(tainted, default=last + 1) - 1
        told = {
            "samples": len(ordinals),
            "reason": reason,
            "trained_on": trained,
            "tainted": tainted,
            "clean": clean,
            "last": last,
            "evals": before - after,
        }
        stores.ledger.record_event(last, KIND, told)
        stores.ledger.set_meta(UNDER_WAY, ordinals.tolist())
    done = finish(stores)
    return Retired(**{**told, "trained_on": tuple(trained), "tainted": tuple(tainted)}, **done)


def finish(stores: Stores) -> dict[str, Any]:
    """Rewrite the files of the retirement that is under way; nothing if none is."""
    ordinals = stores.ledger.get_meta(UNDER_WAY)
    if ordinals is None:
        return {}
    sample_ids = [row.sample_id for row in stores.pool.rows(ordinals)]
    done: dict[str, Any] = {"shards": blank_shards(stores.ledger, np.array(ordinals))}
    folder = _features_folder(stores)
    done["features"] = 0
    if (folder / INDEX).exists():
        with open_features(folder) as features:
            done["features"] = forget_features(features, sample_ids)
    _cut_answers(stores, set(sample_ids))
    done["packs"], outside = cut_media(stores.media)
    done["outside"] = tuple(outside)
    # A report shows texts and pictures; it can be made again.
    (stores.root / REPORT).unlink(missing_ok=True)
    scrub(stores.db)
    copy_and_sweep(stores, anew=True)
    stores.ledger.set_meta(UNDER_WAY, None)
    return done


def lineage(stores: Stores, ordinals: np.ndarray) -> tuple[list[int], list[int]]:
    """Timesteps that trained on some of the samples; and those whose adapter has learned from them, or descends so."""
    trained, tainted = [], []
    for timestep in range(1, (stores.ledger.last_timestep() or 0) + 1):
        record = stores.ledger.phase(timestep, "train")
        if record is None:
            continue
        if np.isin(stores.ledger.selection(timestep), ordinals).any():
            trained.append(timestep)
        if timestep in trained or record.result["from_timestep"] in tainted:
            tainted.append(timestep)
    return trained, tainted


def rebuild(run: Run, new: Path, clean: int) -> list[str]:
    """Fork `run` at the last clean timestep, and feed again what came after it but for what was retired.

    Returns the datasets fed.

    Raises:
        InputError: a dataset is not where it was.
    """
    with run.reading() as stores:
        ingested = [stores.ledger.phase(each.timestep, "ingest") for each in stores.pool.datasets()]
        feeds = [each.result["feed"] for each in ingested if each is not None and each.timestep > clean]
        _require_adapter(stores, clean)
    run.fork(new, clean)
    from lifelong.phases.ingest import NothingNewError
    from lifelong.run import Run as Opened

    fed = []
    rebuilt = Opened(new, run.progress)
    for feed in feeds:
        given = dict(feed)
        try:
            rebuilt.feed(given.pop("train"), **given)
            fed.append(feed["name"])
        except NothingNewError as error:
            run.progress.say(f"{feed['name']}: {error}")
    return fed


def tell(done: Retired, run: object) -> str:
    """In lines for a reader."""
    lines = [
        f"{done.samples} samples retired: {done.reason}. Their ids and this reason are all that is on record of them",
        f"rewritten: {done.packs} packs of images, {done.shards} shards of signals, {done.features} of features"
        + (f"; {done.evals} eval items were the same and went too" if done.evals else ""),
    ]
    if done.trained_on:
        lines.append(
            f"timesteps {_listed(done.trained_on)} trained on some of them, and the adapters of timesteps "
            f"{_listed(done.tainted)} have learned from that; the adapter of timestep {done.clean} has not"
        )
        if done.tainted[-1] == done.last:
            lines.append(
                f"a clean model: `lifelong fork {run} NEW --at {done.clean}`, or --rebuild NEW to feed the rest again"
            )
    else:
        lines.append("no timestep has trained on them: the model is clean")
    lines += [f"used in place, delete it yourself: {path}" for path in done.outside]
    return "\n".join(lines)


def _where(stores: Stores, where: str) -> set[int]:
    import sqlite3

    text = (
        "(SELECT group_concat(json_extract(part.value, '$.text'), ' ') FROM contents, json_each(contents.messages)"
        " AS turn, json_each(json_extract(turn.value, '$.content')) AS part"
        " WHERE contents.ordinal = samples.ordinal)"
    )
    sql = f"SELECT ordinal FROM (SELECT samples.*, {text} AS text FROM samples) WHERE {where}"
    # A second statement, or one that writes, is refused: the connection that asks can only read.
    reader = connect(stores.root / DATABASE, read_only=True)
    try:
        return {int(ordinal) for (ordinal,) in reader.execute(sql)}
    except sqlite3.Error as error:
        raise UsageError(
            f"--where {where}: {error}; write an SQL condition over sample_id, dataset, source_id, file, row, skill, "
            "arrived, status, text, such as \"text LIKE '%Jane Doe%'\""
        ) from error
    finally:
        reader.close()


def _cut_answers(stores: Stores, sample_ids: set[str]) -> None:
    """Eval items that are the retired samples: what was answered to them, and the reference, go too."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for record in stores.ledger.files():
        if record.kind != "answers":
            continue
        table = pq.read_table(stores.root / record.committed.path)
        mine = pc.is_in(table["sample_id"], value_set=pa.array(sorted(sample_ids)))
        if not pc.any(mine).as_py():
            continue
        kept = table.filter(pc.invert(mine))
        folder = record.committed.path.rsplit("/", 1)[0]
        write = lambda path, kept=kept: pq.write_table(kept, path)  # noqa: E731
        committed = commit_file(stores.root, folder, "answers", ".parquet", write)
        with transaction(stores.db):
            stores.ledger.replace_file(record, committed)


def _features_folder(stores: Stores) -> Path:
    from lifelong.upkeep.fsck import features_folder

    return features_folder(stores)


def _require_adapter(stores: Stores, timestep: int) -> None:
    if not any(file.timestep == timestep and file.kind == ADAPTER for file in stores.ledger.files()):
        raise UsageError(
            f"{stores.root}: the adapter of timestep {timestep}, the last clean one, was let go by keep.checkpoints: "
            "begin a new run with `lifelong init` and feed it what is left"
        )


def _listed(timesteps: Sequence[int]) -> str:
    return ", ".join(map(str, timesteps))
