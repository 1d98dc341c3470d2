"""A dataset that harms the model, from the first look to the way around it: plan, guard, rollback, fork, diff.

    python docs/poisoned_stream.py OUT --stream real10/stream.yaml --first easyvqa --poison daquar --model demo

Feeds the dataset --first, then one half of the dataset --poison as it is, then the other half with its answers shuffled
among its rows. The guard must trip there; the rollback must restore the digest of the timestep before; a fork with
another recipe must go on from there with the same half unpoisoned, and its guard must hold. Ends with code 1 if
anything comes out otherwise. Every command is printed as it is run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from lifelong import Run
from lifelong.cli import invoke
from lifelong.errors import EXIT_GUARD
from lifelong.stream import read_stream


def main(arguments: list[str] | None = None) -> int:
    given = _arguments(arguments)
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    feeds = {feed.name: feed for feed in read_stream(given.stream).datasets}
    first, second = feeds[given.first], feeds[given.poison]
    clean, poisoned, mended = halves(Path(second.train), given.out / "data", given.rows, given.seed)
    run = str(given.out / "run")
    options = [option for setting in given.set for option in ("--set", setting)]
    command("init", run, "--model", str(model(given)), "--recipe", given.recipe, *options)
    images = ["--images", second.images] if second.images else []
    about = [*images, "--eval", second.eval, "--skill", second.skill, "--metric", second.metric or "exact_match"]
    command("feed", run, *_start(first, given), "-q")
    command("feed", run, str(clean), *about, "-q")
    before = Run.open(run).digest()
    command("curves", run)

    print("\n# 1. What does the plan say of the poisoned half? It compares content, and cannot see wrong answers.")
    command("plan", run, str(poisoned), *images, "--skill", second.skill)
    found = Run.open(run).plan(poisoned, images=second.images, skill=second.skill)
    print(f"# The plan does not warn: {found['rows']['accepted']} of {found['rows']['rows']} rows would join.")

    print("\n# 2. The guard trips.")
    command("feed", run, str(poisoned), *about, "-q", code=EXIT_GUARD)
    command("status", run)
    command("feed", run, str(mended), *about, "-q", code=EXIT_GUARD)

    print("\n# 3. Back to before it.")
    command("rollback", run, "--to", "2")
    after = Run.open(run).digest()
    print(f"# digest before {before[:16]}…, after {after[:16]}…")
    _expect(before == after, "the rollback restores the digest")

    print("\n# 4. Another way from there.")
    fork = str(given.out / "fork")
    command("fork", run, fork, "--at", "2", "--recipe", given.other)
    command("feed", fork, str(mended), *about, "-q")
    command("curves", fork)
    command("diff", run, fork)
    _expect(Run.open(run).digest() == before, "the fork leaves the run alone")
    print("\n# All as expected.")
    return 0


def halves(train: Path, folder: Path, rows: int, seed: int) -> tuple[Path, Path, Path]:
    """Files of one half of a dataset in LLaVA's format, and of the other: with its answers shuffled, and as it is."""
    table = json.loads(train.read_text(encoding="utf-8"))
    rng = random.Random(seed)
    rng.shuffle(table)
    table = table[: 2 * rows] if rows else table
    half = len(table) // 2
    answers = [row["conversations"][-1]["value"] for row in table[half:]]
    rng.shuffle(answers)
    wrong = [_answered(row, answer) for row, answer in zip(table[half:], answers, strict=True)]
    parts = {"clean": table[:half], "poisoned": wrong, "mended": table[half:]}
    folder.mkdir()
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    clean, poisoned, mended = (folder / f"{name}.json" for name in parts)
    return clean, poisoned, mended


def _answered(row: dict[str, Any], answer: str) -> dict[str, Any]:
    *turns, last = row["conversations"]
    return {**row, "conversations": [*turns, {**last, "value": answer}]}


def model(given: argparse.Namespace) -> Path:
    """The folder of the model; "demo" is the one that `lifelong demo` puts together."""
    if given.model != "demo":
        return Path(given.model)
    from lifelong.demo.model import build

    build(given.out / "model")
    return given.out / "model"


def command(*arguments: str, code: int = 0) -> None:
    """Run `lifelong …` and see that it ends with a code."""
    print(f"\n$ lifelong {' '.join(arguments)}", flush=True)
    ended = invoke(list(arguments))
    _expect(ended == code, f"exit code {ended}, expected {code}")
    if code:
        print(f"[exit code {ended}]", flush=True)


def _start(feed: Any, given: argparse.Namespace) -> list[str]:
    """How to feed the first dataset, cut to --rows."""
    table = json.loads(Path(feed.train).read_text(encoding="utf-8"))
    path = given.out / "data" / f"{feed.name}.json"
    path.write_text(json.dumps(table[: given.rows] if given.rows else table), encoding="utf-8")
    images = ["--images", feed.images] if feed.images else []
    return [str(path), *images, "--eval", feed.eval, "--skill", feed.skill, "--metric", feed.metric or "exact_match"]


def _expect(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"not as expected: {what}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stream", type=Path, required=True, help="stream.yaml with both datasets")
    parser.add_argument("--first", required=True, help="dataset fed first")
    parser.add_argument("--poison", required=True, help="dataset of which one half is poisoned")
    parser.add_argument("--model", required=True, help="folder or hub name; demo: the demo's")
    parser.add_argument("--recipe", default="random-replay")
    parser.add_argument("--other", default="adapt-inf", help="recipe of the fork")
    parser.add_argument("--rows", type=int, default=0, help="rows of each part; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="settings of the run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
