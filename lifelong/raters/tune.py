"""Tune a rater: a vision-language model's adapter learns a judge's answers, with the trainer of the loop.

A sample with its ratings and styles becomes a question each, answered by a digit, or by yes or no: the very
questions that the rater is asked later, each as if it were alone. All that are known about a sample are learned
in one forward and backward, packed as they are asked (`packing`); of a model that cannot be asked so, as a
conversation each.
Source: arXiv 2503.13383, sample–scores–styles triplets.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lifelong import seeds
from lifelong.config import RunConfig
from lifelong.errors import InputError, UsageError
from lifelong.formats import Dataset, to_rgb
from lifelong.models.encode import Conversation
from lifelong.models.load import load
from lifelong.raters.packing import PackedBatch, states_at_ends
from lifelong.raters.questions import RATINGS, VERDICTS
from lifelong.raters.rater import DESCRIPTION, Description, questions_digest, reader_of
from lifelong.raters.ratings import Rating, Ratings, read_ratings
from lifelong.raters.reading import Reader
from lifelong.samples import Sample
from lifelong.training.train import train, training_order
from stores.commit import fsync_folder

UNKNOWN = -1
ALL = -1


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning did: samples learned from, samples that the model cannot take, answers about them, optimiser
    steps, mean training loss (nats a token)."""

    samples: int
    refused: int
    answers: int
    steps: int
    loss: float


class Triplet(NamedTuple):
    """A sample with its scores and styles, as answers (23,): for each question the number of its answer, or -1."""

    sample: Sample
    answers: np.ndarray

    def known(self) -> np.ndarray:
        """The questions whose answer is known."""
        return np.flatnonzero(self.answers != UNKNOWN)

    def conversation(self) -> Conversation:
        """The sample itself, images decoded."""
        return Conversation(self.sample.messages, [to_rgb(image.read()) for image in self.sample.images])


def triplet(sample: Sample, rating: Rating) -> Triplet:
    """A rating between two digits becomes the nearer digit, halves the higher one."""
    digits = [
        math.floor(value + 0.5) if math.isfinite(value) else UNKNOWN for value in rating.ratings.tolist()
    ]
    verdicts = [int(value > 0.5) if math.isfinite(value) else UNKNOWN for value in rating.styles.tolist()]
    assert max(digits) < len(RATINGS)
    assert max(verdicts) < len(VERDICTS)
    return Triplet(sample, np.array([*digits, *verdicts], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Packed:
    """The task of learning every answer about a sample at once."""

    reader: Reader

    def collate(self, items: list[Triplet]) -> dict[str, Any]:
        batch = self.reader.pack([item.conversation() for item in items])
        rows, places, tokens = self.reader.targets(np.stack([item.answers for item in items]))
        return {**batch.inputs, "labels": tokens, "packed": (batch.lengths, batch.trees, rows, places)}

    def loss(self, model: Any, inputs: dict[str, Any], tokens: torch.Tensor | int | None) -> torch.Tensor:
        labels = inputs.pop("labels")
        lengths, trees, rows, places = inputs.pop("packed")
        vlm = self.reader.vlm
        hidden = states_at_ends(vlm, PackedBatch(inputs, lengths, trees), model)[rows, places]
        total = cross_entropy(vlm.logits(hidden).float(), labels, reduction="sum")
        return total / (len(labels) if tokens is None else tokens)


def tune(
    dataset: Dataset,
    ratings: Path,
    out: Path,
    config: RunConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Train an adapter of config.model on the samples of a dataset that a file rates; write the rater's folder.

    Only the sections model, lora and train of the configuration are read, and the seed.

    Raises:
        InputError: the file rates no sample of the dataset, or the model cannot be loaded, or takes none of them.
        UsageError: `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; name a new folder for the rater")
    rated = rated_samples(dataset, read_ratings(ratings))
    if not rated:
        raise InputError(
            f"{ratings} rates none of the samples of {dataset.folder}; lines name a sample by its sample_id, or by "
            "the source_id that it has in the dataset"
        )
    vlm = load(config.model, config.lora, seeds.derive(config.seed, 0, "tune", "adapter"))
    reader = reader_of(vlm)
    taken = _taken(reader, rated)
    # One by one, every question is an item of its own; packed, all questions about a sample are one.
    items = [(item, int(question)) for item in taken for question in item.known()]
    answers = len(items)
    if reader.packed:
        items = [(item, ALL) for item in taken]

    def read(position: int) -> Triplet | Conversation:
        item, question = items[position]
        if question == ALL:
            return item
        return reader.conversation(item.conversation(), question, int(item.answers[question]))

    order = training_order(
        np.array([len(item.sample.images) * 100_000 + item.sample.text_chars for item, _ in items]),
        config.train.epochs,
        config.train.batch_size,
        seeds.generator(config.seed, 0, "tune", "order"),
    )
    seed = seeds.derive(config.seed, 0, "tune", "dropout")
    task = Packed(reader) if reader.packed else None
    trained = train(vlm, config.train, order.tolist(), read, seed, progress, task=task)
    write_rater(out, vlm.save_adapter, config)
    return Tuned(len(taken), len(rated) - len(taken), answers, trained.steps, trained.loss)


def _taken(reader: Reader, rated: Sequence[Triplet]) -> list[Triplet]:
    """The samples that the model can take. Raises: InputError if there is none."""
    found, fault = [], ""
    for item in rated:
        try:
            if not found:
                reader.probabilities(
                    [item.conversation()]
                )  # which also shows whether questions can be packed
            elif reader.packed:
                reader.pack([item.conversation()])
            else:
                reader.vlm.encoder.training([reader.conversation(item.conversation(), 0)])
            found.append(item)
        except (InputError, ValueError, IndexError, TypeError) as error:  # what processors raise
            fault = fault or f"sample {item.sample.sample_id}: {error}"
    if not found:
        raise InputError(f"the model takes none of the {len(rated)} rated samples; the first: {fault}")
    return found


def rated_samples(dataset: Dataset, ratings: Ratings) -> list[Triplet]:
    """The samples of a dataset that are rated, in its order."""
    found = []
    for row in dataset.rows():
        if row.outcome == "accepted" and row.sample is not None:
            rating = ratings.find(row.sample.sample_id, row.sample.source_id)
            if rating is not None:
                item = triplet(row.sample, rating)
                found += [item] if len(item.known()) else []
    return found


def write_rater(out: Path, save_adapter: Callable[[Path], None], config: RunConfig) -> None:
    """Write the rater's folder; it appears under its name when it is complete."""
    model = Path(config.model.path)
    described = Description(
        model=str(model.absolute()) if model.exists() else config.model.path,
        dtype=config.model.dtype,
        max_length=config.model.max_length,
        lora=config.lora,
        questions=questions_digest(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".staging-{secrets.token_hex(8)}")
    try:
        staged.mkdir()
        save_adapter(staged)
        (staged / DESCRIPTION).write_text(json.dumps(described.to_json(), indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.rename(staged, out)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
