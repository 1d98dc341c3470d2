"""Ingest: the arriving dataset joins the pool; every row of it is accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict

from lifelong.context import Context, Feed, Outcome, Stores
from lifelong.errors import InputError
from lifelong.formats import open_dataset
from lifelong.loader import keep_image
from lifelong.phases.skills import register
from lifelong.samples import Row
from stores.media import MediaWriter
from stores.pool import Arrival, DatasetRow, Refusal


class NothingNewError(InputError):
    """Every row of the dataset that can be used has come before, live still or not: there is nothing to learn from."""


def refuse_repeated(stores: Stores, feed: Feed) -> None:
    """Refuse a dataset that was fed from the same place and has not changed since, before anything is written.

    Raises:
        NothingNewError: naming the timestep at which it was fed.
    """
    for fed in stores.pool.datasets():
        if fed.source == feed.train and fed.digest == _digest(feed):
            raise NothingNewError(
                f"{feed.train}: nothing new: of {fed.rows} rows {fed.accepted + fed.duplicates} have come "
                f"before and {fed.rejected} are refused: it was fed at timestep {fed.timestep} as {fed.name}, and has "
                "not changed since; the run is as it was"
            )


def _digest(feed: Feed) -> str:
    """Of a dataset's content: what `ingest` records."""
    contents = hashlib.sha256()
    for row in open_dataset(feed.train, images=feed.images, format=feed.format).rows():
        if row.sample is not None:
            contents.update(row.sample.sample_id.encode())
    return contents.hexdigest()


def ingest(context: Context) -> Outcome:
    """Read the dataset row by row into the pool, its images into the media store, its eval set beside it.

    Runs inside the transaction that commits the phase.

    Raises:
        InputError: a file of the dataset is broken, or no row can be used; nothing of the dataset is taken then.
        NothingNewError: no row joins the pool, and some have come before.
    """
    stores, feed, timestep = context.stores, context.feed, context.timestep
    dataset = open_dataset(feed.train, images=feed.images, format=feed.format)
    reference = context.config.pool.media == "reference"
    contents = hashlib.sha256()
    several = 0
    first: Row | None = None
    with stores.media.writer(timestep) as writer:

        def items() -> Iterator[Arrival | Refusal]:
            nonlocal several, first
            for number, row in enumerate(dataset.rows(), 1):
                first = first or row
                if row.sample is not None:
                    contents.update(row.sample.sample_id.encode())
                several += row.several
                context.progress.step("rows read", number, 0)
                yield _item(row, writer, reference)

        counts = stores.pool.add(timestep, feed.name, feed.skill, items())
    stores.media.record(writer.rows)
    if several:
        context.progress.say(
            f"  {several} rows have several answers; of each the one given most often is learnt"
        )
    if counts.rejected == counts.rows and first is not None:
        raise InputError(
            f"{feed.train}: none of its {counts.rows} rows can be used; {first.file} row {first.row}: {first.reason}; "
            f"{first.fix}. Nothing of the dataset was taken; `lifelong check` tells of every row"
        )
    if counts.accepted == 0:
        raise NothingNewError(
            f"{feed.train}: nothing new: of {counts.rows} rows {counts.duplicates} have come before and "
            f"{counts.rejected} are refused; the run is as it was"
        )
    stores.pool.record_dataset(
        DatasetRow(
            name=feed.name,
            timestep=timestep,
            skill=feed.skill,
            format=dataset.format,
            source=feed.train,
            digest=contents.hexdigest(),
            rows=counts.rows,
            accepted=counts.accepted,
            rejected=counts.rejected,
            duplicates=counts.duplicates,
        )
    )
    register(context, feed)
    # An eval set may come after the first data of its skill.
    stores.evals.arrive(
        feed.skill, min(each.timestep for each in stores.pool.datasets() if each.skill == feed.skill)
    )
    return Outcome({"feed": asdict(feed), **asdict(counts)})


def _item(row: Row, writer: MediaWriter, reference: bool) -> Arrival | Refusal:
    if row.row is None:
        raise InputError(f"{row.file}: {row.reason}; {row.fix}. Nothing of the dataset was taken")
    if row.outcome != "accepted" or row.sample is None:
        outcome = "duplicate" if row.outcome == "duplicate" else "rejected"
        return Refusal(row.file, row.row, row.source_id, outcome, row.reason, row.fix, row.of)
    sample = row.sample
    for image in sample.images:
        keep_image(image, writer, reference)
    hashes = [image.sha256 for image in sample.images]
    return Arrival(
        sample.sample_id, sample.source_id, row.file, row.row, sample.messages, hashes, sample.text_chars
    )
