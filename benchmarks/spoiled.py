"""A stream that repeats itself and errs, made of a clean one: what a choice by chance cannot leave out.

Of the rows of each dataset a half stays as it is. Three in ten become repeats of the same few rows in other words
(the image is the same, the answer too), as when a dataset is released again with another prompt. Two in ten get the
answer of another row of their dataset. So as many rows arrive as before, a third less to learn, and a fifth of it
wrong. Eval sets stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lifelong import seeds
from lifelong.formats import open_dataset, write_samples
from lifelong.samples import Sample, content_id

KEPT, AGAIN, WRONG = "kept", "again", "wrong"
SHARES = {KEPT: 0.5, AGAIN: 0.3, WRONG: 0.2}
REPEATED = 0.05
"""Of a dataset's rows, those that the repeats repeat: six times each."""
BEFORE = ("", "Please answer: ", "Here is a question. ", "Consider the following. ", "Question: ")
AFTER = ("", " Answer briefly.", " Reply with the answer only.", " Be precise.", " What do you say?")
WORDINGS = [pair for pair in product(BEFORE, AFTER) if any(pair)]
"""What stands before and after a question that is asked again."""
KINDS = "kinds.json"


def spoil(stream: Path, folder: Path) -> dict[str, list[Sample]]:
    """Write the spoiled stream of `stream` (a stream.yaml) in `folder`; its samples, by dataset.

    kinds.json in it has the kind of every sample, by its sample_id; no recipe sees it.
    """
    kinds: dict[str, str] = {}

    def change(number: int, clean: Sequence[Sample]) -> list[Sample]:
        made = list(spoilt(clean, seeds.generator(0, number, "study", "spoil")))
        kinds.update((sample.sample_id, kind) for sample, kind in made)
        return [sample for sample, _ in made]

    written = rewrite(stream, folder, change)
    (folder / KINDS).write_text(json.dumps(kinds), encoding="utf-8")
    return written


def rewrite(
    stream: Path,
    folder: Path,
    change: Callable[[int, Sequence[Sample]], Sequence[Sample]] = lambda number, clean: clean,
) -> dict[str, list[Sample]]:
    """Write the stream with all its images in `folder`, which can then be carried elsewhere; what it trains on.

    change: what is written in the place of a dataset (its number in the stream, from 1).
    """
    told = yaml.safe_load(stream.read_text(encoding="utf-8"))
    written: dict[str, list[Sample]] = {}
    for number, entry in enumerate(told["datasets"], 1):
        name = entry["name"]
        train, judged = (list(samples(stream, entry, which)) for which in ("train", "eval"))
        written[name] = list(change(number, train))
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_samples(written[name], folder / name / "train.json", "llava")
        write_samples(judged, folder / name / "eval.json", "llava")
        entry |= {"train": f"{name}/train.json", "eval": f"{name}/eval.json", "images": name, "format": "llava"}
    (folder / "stream.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return written


def samples(stream: Path, entry: Mapping[str, str], which: str) -> Iterator[Sample]:
    """Of one dataset of a stream file, those to train on or to be judged by."""
    images = stream.parent / entry["images"] if "images" in entry else None
    for row in open_dataset(stream.parent / entry[which], images=images, format=entry["format"]).rows():
        if row.sample:
            yield row.sample


def spoilt(samples: Sequence[Sample], rng: np.random.Generator) -> Iterator[tuple[Sample, str]]:
    """As many samples, in random order, each with its kind."""
    order = [samples[place] for place in rng.permutation(len(samples))]
    kept = round(SHARES[KEPT] * len(order))
    wrong = round(SHARES[WRONG] * len(order))
    again = len(order) - kept - wrong
    few = order[: round(REPEATED * len(order))]
    made = [(sample, KEPT) for sample in order[:kept]]
    made += [(reworded(few[place % len(few)], place // len(few)), AGAIN) for place in range(again)]
    made += [(misled(sample, order, rng), WRONG) for sample in order[kept : kept + wrong]]
    seen: set[str] = set()
    for place in rng.permutation(len(made)):
        sample, kind = made[place]
        if sample.sample_id not in seen:
            seen.add(sample.sample_id)
            yield sample, kind


def reworded(sample: Sample, time: int) -> Sample:
    """The same question in other words; another of WORDINGS at each time."""
    before, after = WORDINGS[time % len(WORDINGS)]
    messages = json.loads(json.dumps(sample.messages))
    asked = next(message for message in messages if message["role"] == "user")
    (*_, text) = (part for part in asked["content"] if part["type"] == "text")
    text["text"] = f"{before}{text['text'].strip()}{after}"
    return again(sample, messages)


def misled(sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
    """The same question with an answer that another one has."""
    messages = json.loads(json.dumps(sample.messages))
    mine = messages[-1]["content"][-1]["text"]
    for place in rng.permutation(len(others)):
        answer = others[place].messages[-1]["content"][-1]["text"]
        if answer != mine:
            messages[-1]["content"][-1]["text"] = answer
            return again(sample, messages)
    raise ValueError("every sample has the same answer; there is no wrong one to give")


def again(sample: Sample, messages: list[dict[str, Any]]) -> Sample:
    hashes = [image.sha256 for image in sample.images]
    return replace(sample, sample_id=content_id(messages, hashes), source_id=None, messages=messages)
