"""What stands in for the names in the documentation: small data, tiny models, and commands that are not run.

A page is run in a scratch folder of its own that holds all of this under the names that the pages use.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lifelong.demo.layouts import Example, write
from tests.raters.server import words

MODELS = {
    "llava-hf/llava-1.5-7b-hf": "llava",
    "HuggingFaceTB/SmolVLM-256M-Instruct": "idefics3",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
}
"""Hub name → family of tests/tiny_models.py; a folder of that name in the scratch folder, so nothing is replaced."""
ENCODERS = {"openai/clip-vit-base-patch32": "clip"}
"""Hub name → kind of tests/tiny_encoders.py."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset of bar charts: `rows` to train on and `evals` questions, in a format, under `folder`.

    The rows of the first are chart-00000 to chart-00023, those of the second go on from there.
    """

    folder: str
    format: str = "llava"
    rows: int = 24
    evals: int = 8


DATASETS = (
    Data("release-2026-01"),
    Data("release-2026-02"),
    Data("release-2026-03"),
    Data("charts"),
    Data("ocr", "webdataset"),
    Data("."),  # train.json, eval.json and images/ where the reader stands
)

RUNS: dict[str, list[str]] = {
    "runs/vlm": [
        "lifelong init runs/vlm --model llava-hf/llava-1.5-7b-hf",
        "lifelong feed runs/vlm release-2026-01/train.json --images release-2026-01/images"
        " --eval release-2026-01/eval.json --skill charts --name release-2026-01",
        "lifelong feed runs/vlm release-2026-02/train.json --images release-2026-02/images"
        " --eval release-2026-02/eval.json --skill plots --name release-2026-02",
    ],
}
"""Runs that a page may start from (`<!-- test: given: runs/vlm -->`), and the commands that make them."""

ADDRESSES = {"https://judge.example.com/v1": "judge"}
"""Address in a page → the server on this machine that stands in for it: `answer_of_judge` behind it."""

NOT_RUN: dict[str, str] = {
    "make test": "it would run this very test",
    "make check": "it would run this very test",
    "make docs": "builds the site; `make docs` is part of what CI runs",
    "make demo": "the environment exists; `lifelong demo`, all that is left of it, is run on the tutorial's page",
    ".venv/bin/pre-commit install": "would change the repository's hooks",
}
"""Commands that no page runs, and why. The targets of make among them must exist."""

SMALL_DEMO = {"demo": (12, 4)}
"""Rows to train on and to evaluate on of each of the demo's datasets, in the place of 480 and 80."""

COLOURS = {"red": (214, 39, 40), "blue": (31, 119, 180), "green": (44, 160, 44), "orange": (255, 127, 14)}


def answer_of_judge(request: dict[str, Any]) -> str:
    """A rating or a style, by what is asked for; the same for the same question."""
    asked = words(request)
    return str(len(asked) % 6) if "one digit" in asked else "none"


def make_data(folder: Path) -> None:
    """Write DATASETS under a folder; each has pictures of its own."""
    for number, data in enumerate(DATASETS):
        rng = np.random.default_rng(number)
        for split, name, count in (("train", "chart", data.rows), ("eval", "question", data.evals)):
            examples = [_chart(rng, f"{name}-{number * count + place:05d}") for place in range(count)]
            write(examples, folder, data.folder, split, data.format)


def _chart(rng: np.random.Generator, name: str) -> Example:
    """Four bars, and a question about the tallest or the lowest."""
    import io

    heights = rng.permutation([8, 14, 20, 26]) + rng.integers(0, 5, size=4)
    order = [list(COLOURS)[place] for place in rng.permutation(len(COLOURS))]
    picture = Image.new("RGB", (32, 32), "white")
    for place, (colour, height) in enumerate(zip(order, heights, strict=True)):
        ImageDraw.Draw(picture).rectangle(
            (place * 8, 31 - int(height), place * 8 + 6, 31), fill=COLOURS[colour]
        )
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    tallest = bool(rng.integers(2))
    question = f"Which bar is the {'tallest' if tallest else 'lowest'}? Options: {', '.join(COLOURS)}"
    answer = order[int(heights.argmax() if tallest else heights.argmin())]
    return Example(name, question, answer, ((f"{name}.png", encoded.getvalue()),))


def lay_out(
    folder: Path, data: Path, models: dict[str, Path], runs: list[str], run_folder: Callable[[str], Path]
) -> None:
    """Make a scratch folder: the data, models under their hub names, copies of the runs that are asked for."""
    shutil.copytree(data, folder)
    for name, path in models.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
    for name in runs:
        shutil.copytree(run_folder(name), folder / name, symlinks=True)


def make_targets(makefile: Path) -> set[str]:
    """The targets of a Makefile."""
    lines = makefile.read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0] for line in lines if line[:1].isalpha() and ":" in line and "=" not in line}
