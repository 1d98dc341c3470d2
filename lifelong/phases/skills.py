"""Skills: their eval sets, and how a model answers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lifelong.context import Context, Feed
from lifelong.engines.work import EvalBlock, item_of, places_of
from lifelong.errors import InputError
from lifelong.evaluate.lmms import is_external, require, task_of
from lifelong.evaluate.metrics import Metric, mean_and_stderr
from lifelong.evaluate.options import options_of
from lifelong.evaluate.references import accepted_of, fields_of
from lifelong.evaluate.skills import Answer, metric_named, refusal
from lifelong.formats import open_dataset
from lifelong.loader import CarriedLoader, keep_image
from lifelong.samples import Row, Sample
from stores.evals import EvalItem, Skill

BATCHES = 4
"""Batches of eval samples in a piece of work."""

_FIX = "the skill is tested on the other rows; mend this one for the next run"


def register(context: Context, feed: Feed) -> None:
    """Take a dataset's eval set into the run, inside the caller's transaction; a known skill keeps its own.

    Rows that are refused, by the reader or by the model's processor, are recorded with their reason: the skill is
    tested on the others at every timestep. Raises: InputError if none can be used.
    """
    stores = context.stores
    if is_external(feed.metric or "") and feed.eval is None:
        _register_external(context, feed)
        return
    if feed.eval is None:
        return
    known = next((skill for skill in stores.evals.skills() if skill.name == feed.skill), None)
    if known is not None:
        _tell_of_unused(context, feed, known)
        return
    metric = metric_named(feed.metric or "exact_match")
    dataset = open_dataset(feed.eval, images=feed.images_of_eval, format=feed.format_of_eval)
    reference = context.config.pool.media == "reference"
    refused: list[dict[str, Any]] = []
    with stores.media.writer(context.timestep) as writer:

        def items() -> Iterator[EvalItem]:
            for number, row in enumerate(dataset.rows(), 1):
                item = _eval_item(row, metric, refused)
                if item is not None and row.sample is not None:
                    reason = _processor_s_refusal(context, item, row.sample, metric)
                    if reason:
                        refused.append(_refused(row, reason))
                        item = None
                context.progress.step("eval rows read", number, 0)
                if item is not None and row.sample is not None:
                    for image in row.sample.images:
                        keep_image(image, writer, reference)
                    yield item

        count = stores.evals.add(feed.skill, feed.name, metric.name, items())
    stores.media.record(writer.rows)
    if count == 0:
        raise InputError(
            f"{feed.eval}: no row of the eval set of skill {feed.skill!r} can be used: {_first(refused)}. Nothing was "
            "taken: give another eval file, or a larger model.max_length where the rows are too long for it"
        )
    if refused:
        stores.ledger.set_meta(f"eval_refused/{feed.skill}", refused)
        context.progress.say(
            f"  {len(refused)} rows of the eval set of {feed.skill} are refused; the first: {_first(refused)} "
            f"(all: lifelong why {context.root} {refused[0]['file']})"
        )


def _tell_of_unused(context: Context, feed: Feed, known: Skill) -> None:
    """Say that a skill keeps the eval set, and the metric, that it has."""
    if context.timestep and known.dataset != feed.name:
        other = f", nor the metric {feed.metric}" if feed.metric and feed.metric != known.metric else ""
        context.progress.say(
            f"  {known.name} is tested on the eval set that came with {known.dataset}, by {known.metric}; {feed.eval} "
            f"is not used{other}"
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
    reason, fix = row.reason, row.fix
    # A question asked twice counts twice, as in any eval set.
    if row.sample is not None and row.outcome != "rejected":
        sample = row.sample
        try:
            return EvalItem(
                sample.sample_id,
                sample.messages,
                [image.sha256 for image in sample.images],
                _reference(sample.messages, fields_of(row.raw), metric),
            )
        except ValueError as error:
            reason, fix = str(error), _FIX
    refused.append(_refused(row, reason, fix))
    return None


def _processor_s_refusal(context: Context, item: EvalItem, sample: Sample, metric: Metric) -> str:
    """Why the model's processor cannot take an eval sample; "" where it can."""
    read = {image.sha256: image.read for image in sample.images}
    try:
        asked = item_of(item, CarriedLoader(lambda sha256: read[sha256]()))
    except ValueError as error:
        return f"its image cannot be read: {error}"
    return refusal(context.models.vlm.encoder, asked, metric)


def _refused(row: Row, reason: str, fix: str = _FIX) -> dict[str, Any]:
    return {"file": row.file, "row": row.row, "source_id": row.source_id, "reason": reason, "fix": fix}


def _first(refused: list[dict[str, Any]]) -> str:
    """The first refused row in words."""
    if not refused:
        return "it has no rows"
    return f"{refused[0]['file']} row {refused[0]['row']}: {refused[0]['reason']}"


def _reference(messages: list[dict[str, Any]], fields: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """What an eval row's answers are compared with. Raises: ValueError if the metric cannot score them."""
    answer = _text(messages[-1])
    rounds = sum(message["role"] == "assistant" for message in messages)
    accepted = accepted_of(fields, answer, rounds)
    if metric.joint is None:
        accepted = list(dict.fromkeys(accepted))
    if metric.kind == "choice" and len(accepted) > 1:
        raise ValueError(
            f"{len(accepted)} accepted answers, where metric choice takes one; write the one that is right as the "
            "answer, and drop the others"
        )
    metric.against(answer, accepted or [answer])
    options = (
        options_of(_text(messages[-2]), answer, fields.get("options")) if metric.kind == "choice" else []
    )
    return {"answer": answer, "options": options} | ({"accepted": accepted} if len(accepted) > 1 else {})


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
