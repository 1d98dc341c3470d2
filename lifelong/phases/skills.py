"""Skills: their eval sets, and how a model answers them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lifelong.context import Context, Feed
from lifelong.engines.work import EvalBlock, places_of
from lifelong.errors import InputError
from lifelong.evaluate.lmms import is_external, require, task_of
from lifelong.evaluate.metrics import Metric, mean_and_stderr
from lifelong.evaluate.options import options_of
from lifelong.evaluate.skills import Answer, metric_named
from lifelong.formats import open_dataset
from lifelong.loader import keep_image
from lifelong.samples import Row
from stores.evals import EvalItem, Skill

BATCHES = 4
"""Batches of eval samples in a piece of work."""


def register(context: Context, feed: Feed) -> None:
    """Take a dataset's eval set into the run, inside the caller's transaction; a known skill keeps its own.

    Rows that are refused are recorded with their reason. Raises: InputError if none can be used.
    """
    stores = context.stores
    if is_external(feed.metric or "") and feed.eval is None:
        _register_external(context, feed)
        return
    if feed.eval is None or any(skill.name == feed.skill for skill in stores.evals.skills()):
        return
    metric = metric_named(feed.metric or "exact_match")
    dataset = open_dataset(feed.eval, images=feed.images, format=feed.format)
    reference = context.config.pool.media == "reference"
    refused: list[dict[str, Any]] = []
    with stores.media.writer(context.timestep) as writer:

        def items() -> Iterator[EvalItem]:
            for row in dataset.rows():
                item = _eval_item(row, metric, refused)
                if item is not None and row.sample is not None:
                    for image in row.sample.images:
                        keep_image(image, writer, reference)
                    yield item

        count = stores.evals.add(feed.skill, feed.name, metric.name, items())
    stores.media.record(writer.rows)
    if count == 0:
        first = refused[0]["reason"] if refused else "it has no rows"
        raise InputError(f"{feed.eval}: no row of the eval set of skill {feed.skill!r} can be used: {first}")
    if refused:
        stores.ledger.set_meta(f"eval_refused/{feed.skill}", refused)
        context.progress.say(
            f"  {len(refused)} rows of the eval set of {feed.skill} are refused; the first: {refused[0]['file']} "
            f"row {refused[0]['row']}: {refused[0]['reason']}"
        )


def _register_external(context: Context, feed: Feed) -> None:
    """A skill that lmms-eval tests has no samples of its own here."""
    assert feed.metric is not None
    task_of(feed.metric)
    require(context.config.lmms_eval)
    if not any(skill.name == feed.skill for skill in context.stores.evals.skills()):
        context.stores.evals.add(feed.skill, feed.name, feed.metric, [])


def _eval_item(row: Row, metric: Metric, refused: list[dict[str, Any]]) -> EvalItem | None:
    if row.row is None:
        raise InputError(f"{row.file}: {row.reason}; {row.fix}. Nothing of the dataset was taken")
    reason = row.reason
    # A question asked twice counts twice, as in any eval set.
    if row.sample is not None and row.outcome != "rejected":
        sample = row.sample
        answer = _text(sample.messages[-1])
        try:
            options = _options(sample.messages, answer, row.raw) if metric.kind == "choice" else []
            metric.score(answer, answer)
            return EvalItem(
                sample.sample_id,
                sample.messages,
                [image.sha256 for image in sample.images],
                {"answer": answer, "options": options},
            )
        except ValueError as error:
            reason = str(error)
    refused.append({"file": row.file, "row": row.row, "reason": reason})
    return None


def _options(messages: list[dict[str, Any]], answer: str, raw: Any) -> list[str]:
    given = raw.get("options") if isinstance(raw, dict) else None
    return options_of(_text(messages[-2]), answer, given)


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def eval_blocks(context: Context, cell: int, skill: Skill, adapter: Path) -> Iterator[EvalBlock]:
    """A skill's eval set as pieces of work, cut where its batches are."""
    config = context.config.evaluate
    items = islice(context.stores.evals.items(skill.name), config.limit or None)
    size = config.batch_size * BATCHES
    first = 0
    while block := list(islice(items, size)):
        places = places_of(context.stores.media, block)
        yield EvalBlock(cell, first, context.within(adapter), skill.metric, block, places)
        first += len(block)


def eval_samples(context: Context, skill: Skill) -> int:
    """How many samples the skill is tested on."""
    count, limit = context.stores.evals.count(skill.name), context.config.evaluate.limit
    return min(count, limit) if limit else count


def score(answers: list[Answer]) -> tuple[float, float, int]:
    """(mean score, its standard error, eval samples)."""
    value, stderr = mean_and_stderr([answer.score for answer in answers])
    return value, stderr, len(answers)
