"""What the study starts from (study.py): the stream, the ratings, and base models that have learned a little."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import smollm2
from benchmarks.spoiled import rewrite, samples, spoil
from lifelong.demo.model import build

SHARE = "60%"
"""Of each dataset's rows, that the stream has."""
TAUGHT = 5
"""One row in so many of those that are left is what the base model has learned from: 8 % of all."""
PRETRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.05}


@dataclass(frozen=True, slots=True)
class Base:
    """A model that a study starts from. build: writes the untaught one in a folder; folder: where the taught one is."""

    build: Callable[[Path], Path]
    pretraining: Mapping[str, Any]
    folder: str


BASES = {
    # The demo's model with a larger vocabulary (fewer tokens a text) and narrower MLPs: half the time.
    "demo": Base(partial(build, frequent=8192, letters=2100, widening=1.5), PRETRAINING, "model"),
    "smollm2": Base(smollm2, PRETRAINING | {"learning_rate": 5e-4}, "model-smollm2"),
}


def prepare(stream: Path, folder: Path) -> None:
    """The stream, the ratings, and the base model, in `folder`."""
    import yaml

    from lifelong import select
    from lifelong.formats import open_dataset, write_samples
    from tests.raters.rule import Known, write_ratings

    source = stream.absolute().parent
    told = yaml.safe_load(stream.read_text(encoding="utf-8"))
    left: list[Any] = []
    streamed: list[Known] = []
    for entry in told["datasets"]:
        suffix = ".jsonl" if entry["format"] == "jsonl" else Path(entry["train"]).suffix
        out = folder / "stream" / entry["name"] / f"train{suffix}"
        out.parent.mkdir(parents=True, exist_ok=True)
        images = source / entry["images"] if "images" in entry else None
        select(source / entry["train"], out, "random", budget=SHARE, images=images, format=entry["format"])
        drawn = [row.sample for row in open_dataset(out, images=images).rows() if row.sample]
        streamed += [Known(entry["name"], sample) for sample in drawn]
        taken = {sample.sample_id for sample in drawn}
        left += [each for each in samples(stream.absolute(), entry, "train") if each.sample_id not in taken]
        entry["train"] = str(out.relative_to(folder / "stream"))
        entry["eval"] = str(source / entry["eval"])
        if images:
            entry["images"] = str(images)
    write_ratings(streamed, folder / "ratings.jsonl")
    text = yaml.safe_dump(told, sort_keys=False)
    (folder / "stream" / "stream.yaml").write_text(text, encoding="utf-8")
    write_samples(left[::TAUGHT], folder / "taught" / "train.json", "llava")
    build_base("demo", folder)


def pack(folder: Path, out: Path) -> None:
    """What runs and `base` read, with all images, in `out`: to be carried to a machine that has nothing else."""
    rewrite(folder / "stream" / "stream.yaml", out / "stream")
    shutil.copytree(folder / "taught", out / "taught")
    shutil.copy(folder / "ratings.jsonl", out)


def spoil_stream(folder: Path) -> None:
    """The spoiled stream and its ratings by the rule, which knows a dataset and not its errors."""
    from tests.raters.rule import Known, write_ratings

    found = spoil(folder / "stream" / "stream.yaml", folder / "spoiled")
    rated = [Known(name, sample) for name, rows in found.items() for sample in rows]
    write_ratings(rated, folder / "spoiled" / "ratings.jsonl")


def build_base(name: str, folder: Path) -> None:
    """A base model that has learned a little, with all its weights but the tower's, from rows that the stream lacks."""
    from lifelong import seeds
    from lifelong.config import parse_config
    from lifelong.context import ModelHolder
    from lifelong.demo.model import save
    from lifelong.formats import open_dataset, to_rgb
    from lifelong.models.encode import Conversation
    from lifelong.training.train import train, training_order

    base = BASES[name]
    base.build(folder / f"untaught-{name}")
    config = parse_config({"model": {"path": str(folder / f"untaught-{name}")}, "train": base.pretraining})
    vlm = ModelHolder(config).vlm
    for part, weight in vlm.model.named_parameters():
        weight.requires_grad_("vision_tower" not in part)
    taught = [row.sample for row in open_dataset(folder / "taught" / "train.json").rows() if row.sample]
    rng = seeds.generator(0, 0, "study", "pretraining")
    lengths = np.array([sample.text_chars for sample in taught])
    order = training_order(lengths, config.train.epochs, config.train.batch_size, rng)

    def load(item: int) -> Conversation:
        return Conversation(taught[item].messages, [to_rgb(image.read()) for image in taught[item].images])

    def progress(done: int, total: int) -> None:
        if done % 50 == 0:
            print(f"pretraining: {done} of {total} steps", flush=True)

    trained = train(vlm, config.train, order, load, seed=0, progress=progress)
    print(f"pretrained on {len(taught)} samples: mean loss {trained.loss:.3f}")
    save(vlm.model.merge_and_unload(), vlm.encoder.tokenizer, folder / base.folder)
