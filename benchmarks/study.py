"""The study of docs/study.md, piece by piece: does selection keep a model's skills, and does it beat chance?

    python benchmarks/study.py prepare --stream STREAMS/real10/stream.yaml --folder DIR
    python benchmarks/study.py run PART … --folder DIR --jobs 2
    python benchmarks/study.py tables

`prepare` builds the demo's model, takes a share of each dataset (`lifelong select --method random`) and writes ratings
for mmSSR by a rule. `run` is `lifelong compare` with the settings below; a part that was stopped goes on, and what is
committed is not run again. What the parts found is in results/study, a file for each family of settings, a line for
each run; `tables` prints the tables of the document from these files alone.

A run takes one thread (OMP_NUM_THREADS=1): sums, and so the last digits, depend on the number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results" / "study"
RECIPES = Path(__file__).parent / "recipes"
SHARE = "50%"

SETTINGS = """
model.path=model
pool.keep=1500
lora.rank=16 lora.alpha=32 lora.dropout=0.0 lora.trained=[multi_modal_projector]
lora.targets=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]
measure.batch_size=32 measure.trajectory=3
train.epochs=4 train.batch_size=8 train.learning_rate=1.5e-3 train.schedule=linear train.warmup=0.05
train.checkpoint_steps=0
evaluate.batch_size=40 evaluate.limit=60
encoder.kind=conse encoder.cache=features
rater.ratings=ratings.jsonl
""".split()
EXPERTS = "experts={ofa: {k: 32}}"

BASELINES = ("multitask", "sequential", "random", "random-replay")
PUBLISHED = (
    "el2n", "perplexity", "grounding", "semdedup", "coincide", "scalselect", "ofa", "xmas", "mmssr", "adapt-inf",
)  # fmt: skip
MAIN = ("multitask", "sequential", "random", "random-replay", "adapt-inf")


@dataclass(frozen=True, slots=True)
class Part:
    """A comparison, or some of one. file: of its results, shared by the parts that have its settings."""

    recipes: tuple[str, ...]
    seeds: int = 3
    orders: int = 1
    budgets: tuple[str, ...] = ("15%",)
    settings: tuple[str, ...] = ()
    file: str = "main"


PARTS = {
    "main": Part((*BASELINES, *PUBLISHED)),
    "orders": Part((*BASELINES, *PUBLISHED), orders=2),
    "five": Part(MAIN, seeds=5, orders=2),
    "budgets": Part((*BASELINES, *PUBLISHED), budgets=("5%", "30%")),
}

CAPABILITIES = {
    "easyvqa": {"attribute": 5, "scene": 1},
    "tux_caption": {"fine-grained": 4, "language": 5},
    "sroie_ocr": {"ocr": 5},
    "flags_knowledge": {"humanities": 5, "fine-grained": 2},
    "emoji_multilingual": {"language": 3, "fine-grained": 3},
    "puzzlevqa": {"deduction": 4, "stem": 3},
    "nlvr": {"comparison": 5, "deduction": 2},
    "ground_mix": {"spatial": 5},
    "bbh_lang": {"deduction": 5, "causal": 3},
    "daquar": {"scene": 5, "spatial": 3},
}
"""What a rule that knows the dataset says that its samples teach; 0 for every other capability."""
STYLES = {
    "emoji_multilingual": ["multi-choice", "specified"],
    "puzzlevqa": ["multi-choice"],
    "nlvr": ["yes-no", "comparing"],
    "ground_mix": ["coordinate"],
    "bbh_lang": ["step-by-step"],
    "tux_caption": ["short"],
}


def prepare(stream: Path, folder: Path, share: str) -> None:
    """The model, the small stream and the ratings, in `folder`."""
    import yaml

    from lifelong import select
    from lifelong.demo.model import build
    from lifelong.formats import open_dataset

    build(folder / "model")
    source = stream.absolute().parent
    told = yaml.safe_load(stream.read_text(encoding="utf-8"))
    ratings = (folder / "ratings.jsonl").open("w", encoding="utf-8")
    with ratings:
        for entry in told["datasets"]:
            suffix = ".jsonl" if entry["format"] == "jsonl" else Path(entry["train"]).suffix
            out = folder / "stream" / entry["name"] / f"train{suffix}"
            out.parent.mkdir(parents=True, exist_ok=True)
            images = source / entry["images"] if "images" in entry else None
            select(source / entry["train"], out, "random", budget=share, images=images, format=entry["format"])
            entry["train"] = str(out.relative_to(folder / "stream"))
            entry["eval"] = str(source / entry["eval"])
            if images:
                entry["images"] = str(images)
            for row in open_dataset(out, images=images).rows():
                if row.sample is not None:
                    ratings.write(json.dumps(rated(entry["name"], row.sample)) + "\n")
    text = yaml.safe_dump(told, sort_keys=False)
    (folder / "stream" / "stream.yaml").write_text(text, encoding="utf-8")


def rated(dataset: str, sample: Any) -> dict[str, Any]:
    """What the rule says of a sample, as a line of a file of ratings."""
    from policies.scorers.mmssr import CAPABILITIES as ALL

    answer = sample.messages[-1]["content"][0]["text"]
    if len(answer) == 1 and answer in "ABCD":
        styles = ["multi-choice"]
    else:
        styles = STYLES.get(dataset, ["yes-no" if answer.lower() in ("yes", "no") else "word-or-phrase"])
    ratings = {name: CAPABILITIES.get(dataset, {}).get(name, 0) for name in ALL}
    return {"sample_id": sample.sample_id, "ratings": ratings, "styles": styles}


def run(name: str, folder: Path, jobs: int) -> None:
    """Run a part to its end; what it found is added to the committed file after every run."""
    from lifelong.compare import Comparison, Plan, named
    from lifelong.config import parse_settings
    from lifelong.progress import for_terminal

    part = PARTS[name]
    os.chdir(folder)
    given = parse_settings([*SETTINGS, EXPERTS, *part.settings]).model_dump(exclude_unset=True, mode="json")
    recipes = [str(RECIPES / recipe) if recipe.endswith(".yaml") else recipe for recipe in part.recipes]
    plan = Plan(
        Path("stream/stream.yaml"), Path(part.file), named(recipes), part.budgets, part.seeds, part.orders, given
    )
    committed, own = RESULTS / f"{part.file}.json", Path(part.file) / "results.json"
    own.parent.mkdir(parents=True, exist_ok=True)
    if committed.is_file() and not own.is_file():
        shutil.copy(committed, own)
    with for_terminal(quiet=False) as progress:
        found = Comparison(plan).run(progress, jobs)
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copy(own, committed)
    for cell, reason in found.missing.items():
        print(f"missing: {cell}: {reason}")


def tables() -> Iterator[str]:
    """The tables of every file."""
    from lifelong.compare import read_results, summarise
    from lifelong.compare.table import table

    for path in sorted(RESULTS.glob("*.json")):
        yield f"== {path.name}\n\n{table(summarise(read_results(path), 'random'))}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("prepare")
    made.add_argument("--stream", type=Path, required=True)
    made.add_argument("--share", default=SHARE)
    ran = commands.add_parser("run")
    ran.add_argument("parts", nargs="+", choices=list(PARTS))
    ran.add_argument("--jobs", type=int, default=1)
    for each in (made, ran):
        each.add_argument("--folder", type=Path, required=True)
    commands.add_parser("tables")
    given = parser.parse_args(arguments)
    match given.command:
        case "prepare":
            prepare(given.stream, given.folder, given.share)
        case "run":
            for name in given.parts:
                run(name, given.folder.absolute(), given.jobs)
        case _:
            print("\n\n".join(tables()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
