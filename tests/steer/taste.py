"""Skills that the tiny LLaVA learns in seconds: a word of the question decides the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WORDS = ("apple", "river", "stone", "cloud", "green", "paper", "light", "horse")
SKILLS = {
    "taste": ("sweet", "bitter", "yes", "no"),
    "flavour": ("sweet", "bitter", "yes", "no"),
    "size": ("large", "small", "9", "4"),
}
SETTINGS: dict[str, Any] = {
    "lora": {"rank": 16, "dropout": 0.0},
    "train": {"budget": "100%", "batch_size": 8, "learning_rate": 5e-3, "epochs": 6},
    "guard": {"max_forgetting": 0.05},
}
ROWS, EVALS = 96, 40


def rows(skill: str, seed: int, count: int = ROWS, *, wrong: bool = False) -> list[dict[str, Any]]:
    """Questions of a skill with their answers; wrong: with the other answer."""
    rng = np.random.default_rng(seed)
    one, other, yes, no = SKILLS[skill]
    found = []
    for number in range(count):
        kind = (one, other)[number % 2]
        question = f"{skill}: is {WORDS[rng.integers(8)]} {WORDS[rng.integers(8)]} {number} of {seed} {kind}?"
        answer = yes if (kind == one) != wrong else no
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        found.append({"id": f"{skill}-{seed}-{number}", "conversations": turns})
    return found


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def write_stream(folder: Path) -> Path:
    """A stream of both skills, each with its eval set."""
    entries = []
    for skill in SKILLS:
        train = write(folder / f"{skill}.json", rows(skill, 1, 2 * ROWS))
        evals = write(folder / f"{skill}-eval.json", rows(skill, 99, EVALS))
        entries.append(
            {"name": skill, "skill": skill, "train": str(train), "eval": str(evals), "metric": "exact_match"}
        )
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump({"name": "tastes", "datasets": entries}), encoding="utf-8")
    return path
