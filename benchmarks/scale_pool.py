"""A run folder as a pool of many samples leaves it: rows of text with pictures, signals in shards, made from a seed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.planted import pool
from lifelong.config import RunConfig, parse_config
from lifelong.context import Context, Feed, ModelHolder, Stores
from lifelong.signals.pool import MEASURED
from stores.shards import write_shard

SEED = 0
DIM = 1024
WITH_PICTURE = 0.7  # of the rows
ROWS_A_PICTURE = 100  # rows for each different picture
SIDE = 336  # pixels of a picture
SENTENCES = 20_000
CLUSTERS, BUDGET, KEPT = 10, "15%", 0.6
RECIPE = {
    "recipe": "adapt-inf",
    "vectors": f"gradient[dim={DIM}]",
    "clusters": f"kmeans[k={CLUSTERS}]",
    "router": "entropy[el2n perplexity grounding grand]",
}
SIGNALS = {"el2n": "el2n", "nll": "perplexity", "nll_blind": "grounding", "gradient_norm": "grand"}
"""Signal that the experts read → score of planted.py that it is made of."""


def config(rows: int) -> RunConfig:
    """No model: what it would have measured is planted."""
    return parse_config(
        {
            "seed": SEED,
            "recipe": RECIPE,
            "pool": {"media": "reference", "keep": int(KEPT * rows)},
            "train": {"budget": BUDGET},
        }
    )


def context(stores: Stores, folder: Path, rows: int) -> Context:
    """The first timestep of the run in `folder`, as the loop would work with it."""
    feed = Feed("planted", str(folder / "train.json"), "planted", str(folder / "images"), "llava")
    settings = config(rows)
    return Context(stores, settings, 1, feed, ModelHolder(settings))


def write_dataset(folder: Path, rows: int) -> None:
    """`train.json` in LLaVA's form, and its pictures. About 1.2 kB a row, 1 to 5 turns."""
    rng = np.random.default_rng(SEED)
    pictures = write_pictures(folder / "images", max(rows // ROWS_A_PICTURE, 20))
    said = sentences(rng)
    path = folder / "train.json"
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows_of(rows, pictures, said, rng)):
            file.write("[" if not number else ",\n")
            json.dump(row, file)
        file.write("]")


def rows_of(
    rows: int, pictures: list[str], said: list[str], rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    for first in range(0, rows, 10_000):
        count = min(10_000, rows - first)
        turns = np.minimum(rng.geometric(0.4, count), 5)
        shown, which = rng.random(count) < WITH_PICTURE, rng.integers(len(pictures), size=count)
        picked = rng.integers(len(said), size=(count, 5, 5))
        for i in range(count):
            conversation = []
            for turn in range(turns[i]):
                question, *answer = (said[each] for each in picked[i, turn])
                tag = "<image>\n" if shown[i] and not turn else ""
                conversation.append({"from": "human", "value": f"{tag}{question}"})
                conversation.append({"from": "gpt", "value": " ".join(answer)})
            row = {"id": f"planted-{first + i:08d}", "conversations": conversation}
            yield row | {"image": pictures[which[i]]} if shown[i] else row


def sentences(rng: np.random.Generator) -> list[str]:
    """Of 4 to 24 words, some in other scripts than Latin."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = np.arange(len(letters), 0, -1) / np.arange(1, len(letters) + 1).sum()
    words = ["".join(rng.choice(letters, size, p=weights)) for size in rng.integers(2, 10, size=4000)]
    words += ["猫", "街道", "красный", "घर", "süß"] * 8
    return [
        " ".join(words[i] for i in rng.integers(len(words), size=size))
        for size in rng.integers(4, 24, SENTENCES)
    ]


def write_pictures(folder: Path, count: int, side: int = SIDE) -> list[str]:
    """JPEG files of smooth noise, about 40 kB each; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    names = []
    for number in range(count):
        small = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((side, side)).filter(ImageFilter.GaussianBlur(1))
        names.append(f"{number // 1000:03d}/{number:06d}.jpg")
        (folder / names[-1]).parent.mkdir(exist_ok=True)
        picture.save(folder / names[-1], quality=85)
    return names


def write_signals(stores: Stores, rows: int) -> tuple[float, np.ndarray]:
    """Shards of what a model would have measured, recorded; seconds of that, and rows of planted near-duplicates."""
    planted = pool(rows, DIM, SEED)
    ordinals = stores.pool.arrays()["ordinal"]
    size = RunConfig().measure.shard_size
    scalars = {signal: planted.scores[name].astype(np.float32) for signal, name in SIGNALS.items()} | {
        "tokens": np.random.default_rng(SEED).integers(600, 900, rows).astype(np.float32)
    }
    with np.errstate(all="ignore"):
        scalars["nll"] = np.log(scalars["nll"])
        scalars["nll_blind"] = scalars["nll"] + np.log(scalars["nll_blind"])
    seconds = 0.0
    for position in range(-(-rows // size)):
        block = slice(position * size, (position + 1) * size)
        arrays = {name: values[block] for name, values in scalars.items()}
        arrays |= {"gradient": planted.vectors[block], "ordinal": ordinals[block]}
        arrays |= {"faults": np.frombuffer(b"{}", np.uint8), "halved": np.zeros(1, np.int64)}
        began = time.perf_counter()
        shard = write_shard(stores.root, 1, MEASURED, position, arrays)
        stores.ledger.shard_commit(1, MEASURED, position, shard, len(ordinals[block]))
        seconds += time.perf_counter() - began
    return seconds, planted.duplicates
