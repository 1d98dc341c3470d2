"""The study of docs/study.md, piece by piece: does selection keep a model's skills, and does it beat chance?

    python benchmarks/study.py prepare --stream STREAMS/real10/stream.yaml --folder DIR
    python benchmarks/study.py spoil --folder DIR
    python benchmarks/study.py run PART … --folder DIR --jobs 2
    python benchmarks/study.py ask --folder DIR --jobs 2
    python benchmarks/study.py counts --folder DIR
    python benchmarks/study.py tables

`prepare` takes a share of each dataset for the stream (`lifelong select --method random`), writes ratings for mmSSR
by a rule, and makes a base model that has learned a little from some of the rows that are left. `spoil` makes of that
stream one that repeats itself and errs (spoiled.py). `run` is `lifelong compare` with the settings below; a part that
was stopped goes on, and what is committed is not run again. What the parts found is in results/study, a file for each
family of settings, a line for each run. `ask` puts all questions of the eval sets to the last adapters of the runs in
DIR, where the runs themselves asked the first hundred of each. `counts` writes how many samples of each dataset they
trained on. `tables` prints the tables of the document from these files alone.

A run takes one thread (OMP_NUM_THREADS=1): sums, and so the last digits, depend on the number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.models import smollm2
from benchmarks.spoiled import KINDS, rewrite, spoil
from lifelong.compare.cells import RUNS, Cell, asking
from lifelong.context import DATABASE
from lifelong.demo.model import DEFAULTS, build

if TYPE_CHECKING:
    from lifelong.compare import Result, Results

os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results" / "study"
SELECTED = "selected.json"
ASKED = "asked.json"
RECIPES = Path(__file__).parent / "recipes"
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

SETTINGS: dict[str, Any] = {
    "model": {"path": "model"},
    "lora": {**DEFAULTS["lora"], "rank": 64, "alpha": 128},
    "pool": {"keep": 2000},
    "measure": {"batch_size": 32, "trajectory": 2, "refresh": "stale(3)"},
    "train": {
        "epochs": 5,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "warmup": 0.05,
        "checkpoint_steps": 0,
    },
    "evaluate": {"batch_size": 40, "limit": 100},
    "encoder": {"kind": "conse", "cache": "features"},
    "rater": {"ratings": "ratings.jsonl"},
    "experts": {"ofa": {"k": 32}},
}
"""Of every run, as in config.yaml."""

BETWEEN = 25
"""Eval samples a skill at timesteps before the last; after it, `limit`."""

BASELINES = ("sequential", "random", "random-replay")
PUBLISHED = (
    "el2n", "perplexity", "grounding", "semdedup", "coincide", "scalselect", "ofa", "xmas", "mmssr", "adapt-inf",
)  # fmt: skip
MAIN = ("sequential", "random", "random-replay", "adapt-inf")
OURS = (
    "balanced-replay.yaml", "balanced-replay-75.yaml", "balanced-pool.yaml", "easy.yaml",
    "fresh.yaml", "faithful.yaml", "faithful-proportional.yaml", "fresh-mmssr.yaml", "trimmed.yaml", "tidy.yaml",
)  # fmt: skip
"""Attempts at a recipe of our own: files in recipes/."""


@dataclass(frozen=True, slots=True)
class Part:
    """A comparison, or some of one. file: of its results, shared by the parts that have its settings; family: what is
    compared in one table; stream: the folder of its stream."""

    recipes: tuple[str, ...]
    seeds: int = 3
    orders: int = 1
    budgets: tuple[str, ...] = ("15%",)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: str = "main"
    family: str = "main"
    stream: str = "stream"

    @property
    def asks_all(self) -> bool:
        """Whether its runs put all questions themselves after the last timestep."""
        return self.settings.get("evaluate", {}).get("limit") == 0


ABLATIONS = (
    "layer-first.yaml", "layer-all.yaml", "hidden.yaml", "encoded.yaml",
    "k-5.yaml", "k-20.yaml", "k-auto.yaml", "one-cluster.yaml",
    "router-reference.yaml", "router-published.yaml", "router-el2n.yaml", "router-random.yaml",
    "budget-proportional.yaml", "budget-spread.yaml", "budget-density.yaml",
    "sample-top.yaml", "sample-random.yaml", "start-base.yaml",
)  # fmt: skip
"""Of adapt-inf, one slot at a time: files in recipes/."""
PRUNERS = ("prune-none.yaml", "prune-random.yaml", "prune-source.yaml", "prune-random-source.yaml")
"""Of adapt-inf, the last slot."""

GPU: dict[str, Any] = {
    "model": {"path": BASES["smollm2"].folder, "device": "cuda"},
    "pool": {"keep": 0},
    "measure": {"batch_size": 64, "trajectory": 0, "refresh": "new"},
    "train": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3},
    "evaluate": {"batch_size": 128, "limit": 0},
    "encoder": {"kind": "none", "cache": ""},
}
"""Of the runs on a GPU, where they differ; all questions are asked at once."""
SPOILED: dict[str, Any] = {"pool": {"keep": 0}, "rater": {"ratings": "spoiled/ratings.jsonl"}}

PARTS = {
    # Chance with as small a pool as adapt-inf has: what the pool costs, and what the choice.
    "small-pool": Part(("random", "random-small-pool.yaml")),
    # Full data, once: at its end for a third more steps than the others take in all.
    "multitask": Part(("multitask",), seeds=1, settings={"train": {"epochs": 1}}, file="multitask"),
    # What may be as good as chance or better, first: what is clearly worse needs no third seed to say so.
    "contenders": Part(
        (
            "random", "random-replay", "mmssr", "xmas", "balanced-pool.yaml", "fresh.yaml", "faithful.yaml",
            "faithful-proportional.yaml", "fresh-mmssr.yaml", "adapt-inf", *PRUNERS, "sample-random.yaml",
        ),
    ),
    "main": Part((*BASELINES, *PUBLISHED, *OURS)),
    "orders": Part((*BASELINES, *PUBLISHED), orders=2),
    "five": Part(MAIN, seeds=5, orders=2),
    # Nothing pruned, as by default: a pool of 2,000 costs so much that other slots do not show beside it.
    "ablations": Part(("adapt-inf", *ABLATIONS), settings={"pool": {"keep": 0}}, file="unpruned"),
    "pruners": Part(("adapt-inf", *PRUNERS)),
    # What the current model says of every sample at every timestep; progress cannot be told otherwise.
    "fresh": Part(
        ("progress-replay.yaml", "adapt-inf", "el2n"),
        settings={"measure": {"refresh": "all"}},
        file="fresh",
    ),
    "pool-1000": Part(("adapt-inf",), settings={"pool": {"keep": 1000}}, file="pool-1000"),
    "pool-5000": Part(("adapt-inf",), settings={"pool": {"keep": 5000}}, file="pool-5000"),
    "new-only": Part(("adapt-inf",), settings={"measure": {"refresh": "new"}}, file="new-only"),
    "budgets": Part((*BASELINES, *PUBLISHED), budgets=("5%", "30%")),
    # Nothing pruned; what each recipe took of what repeats and of what is wrong: `counts`.
    "spoiled": Part(
        (
            "random", "tidy.yaml", "trimmed.yaml", "balanced-pool.yaml", "adapt-inf", "mmssr", "random-replay",
            "faithful.yaml", "coincide",
        ),
        settings=SPOILED,
        file="spoiled",
        family="spoiled",
        stream="spoiled",
    ),
    "spoiled-others": Part(
        ("semdedup", "xmas", "el2n", "perplexity", "ccs", "easy.yaml"),
        settings=SPOILED,
        file="spoiled",
        family="spoiled",
        stream="spoiled",
    ),
    # A pretrained language model of 135M, on a GPU, without the dearest experts (OFA and XMAS).
    "smollm2": Part(
        ("random", "adapt-inf", "mmssr", "sequential", "random-replay", "coincide", "el2n", "balanced-pool.yaml"),
        seeds=2,
        settings=GPU,
        file="smollm2",
        family="smollm2",
    ),
    "smollm2-multitask": Part(
        ("multitask",),
        seeds=1,
        settings=GPU | {"train": GPU["train"] | {"epochs": 1, "batch_size": 32}},
        file="smollm2-multitask",
        family="smollm2",
    ),
    "spoiled-multitask": Part(
        ("multitask",),
        seeds=1,
        settings=SPOILED | {"train": {"epochs": 1}},
        file="spoiled-multitask",
        family="spoiled",
        stream="spoiled",
    ),
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
        where = {"images": images, "format": entry["format"]}
        select(source / entry["train"], out, "random", budget=SHARE, **where)
        samples = [row.sample for row in open_dataset(out, images=images).rows() if row.sample]
        streamed += [Known(entry["name"], sample) for sample in samples]
        taken = {sample.sample_id for sample in samples}
        all_rows = open_dataset(source / entry["train"], **where).rows()
        left += [row.sample for row in all_rows if row.sample and row.sample.sample_id not in taken]
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
    rated = [Known(name, sample) for name, samples in found.items() for sample in samples]
    write_ratings(rated, folder / "spoiled" / "ratings.jsonl")


def build_base(name: str, folder: Path) -> None:
    """A base model that has learned a little, with all its weights but the tower's, from rows that the stream lacks."""
    from lifelong import seeds
    from lifelong.config import parse_config
    from lifelong.context import ModelHolder
    from lifelong.demo.model import save
    from lifelong.formats import open_dataset, to_rgb
    from lifelong.models.encode import Conversation
    from lifelong.train import train, training_order

    base = BASES[name]
    base.build(folder / f"untaught-{name}")
    config = parse_config({"model": {"path": str(folder / f"untaught-{name}")}, "train": base.pretraining})
    vlm = ModelHolder(config).vlm
    for part, weight in vlm.model.named_parameters():
        weight.requires_grad_("vision_tower" not in part)
    samples = [row.sample for row in open_dataset(folder / "taught" / "train.json").rows() if row.sample]
    rng = seeds.generator(0, 0, "study", "pretraining")
    lengths = np.array([sample.text_chars for sample in samples])
    order = training_order(lengths, config.train.epochs, config.train.batch_size, rng)

    def load(item: int) -> Conversation:
        return Conversation(samples[item].messages, [to_rgb(image.read()) for image in samples[item].images])

    def progress(done: int, total: int) -> None:
        if done % 50 == 0:
            print(f"pretraining: {done} of {total} steps", flush=True)

    trained = train(vlm, config.train, order, load, seed=0, progress=progress)
    print(f"pretrained on {len(samples)} samples: mean loss {trained.loss:.3f}")
    save(vlm.model.merge_and_unload(), vlm.encoder.tokenizer, folder / base.folder)


def run(name: str, folder: Path, jobs: int, seeds: int | None) -> None:
    """Run a part to its end, or the first seeds of it; what is on file then is what is committed."""
    from lifelong.compare import Comparison, Plan, named
    from lifelong.progress import for_terminal

    part = PARTS[name]
    os.chdir(folder)
    given = SETTINGS | {section: SETTINGS[section] | fields for section, fields in part.settings.items()}
    recipes = [str(RECIPES / recipe) if recipe.endswith(".yaml") else recipe for recipe in part.recipes]
    plan = Plan(
        Path(part.stream) / "stream.yaml",
        Path(part.file),
        named(recipes),
        part.budgets,
        min(part.seeds, seeds or part.seeds),
        part.orders,
        given,
        BETWEEN,
    )
    committed, own = RESULTS / f"{part.file}.json", Path(part.file) / "results.json"
    own.parent.mkdir(parents=True, exist_ok=True)
    if committed.is_file() and not own.is_file():
        shutil.copy(committed, own)
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        with for_terminal(quiet=False) as progress:
            found = Comparison(plan).run(progress, jobs)
    finally:
        if own.is_file():
            shutil.copy(own, committed)
    for cell, reason in found.missing.items():
        print(f"missing: {cell}: {reason}")


def finished(folder: Path) -> dict[str, Path]:
    """The folders of the runs that are on file in `folder` and still there, by file and cell."""
    found = {}
    for kept in sorted(folder.glob("*/results.json")):
        for run in json.loads(kept.read_text(encoding="utf-8"))["runs"]:
            cell = Cell(run["recipe"], run["budget"], run["order"], run["seed"])
            root = kept.parent / RUNS / cell.name
            if (root / DATABASE).is_file():
                found[f"{kept.parent.name}/{cell.name}"] = root
    return found


def counts(folder: Path) -> None:
    """Samples of each dataset that each finished run trained on, timestep by timestep, added to selected.json; and how
    many of each kind, over the whole of a spoiled stream, to kinds.json."""
    found, of_kind = read_lines(RESULTS / SELECTED), read_lines(RESULTS / KINDS)
    streams = {part.file: part.stream for part in PARTS.values()}
    asked = (
        "SELECT dataset, timestep, count(*) FROM selections JOIN samples USING (ordinal) GROUP BY dataset, timestep"
    )
    samples = "SELECT sample_id FROM selections JOIN samples USING (ordinal)"
    for name, root in finished(folder).items():
        with closing(sqlite3.connect(f"file:{root / DATABASE}?mode=ro", uri=True)) as ledger:
            rows = ledger.execute(asked).fetchall()
            trained = [each for (each,) in ledger.execute(samples)]
        file = name.partition("/")[0]
        if (told := folder / streams.get(file, file) / KINDS).is_file():
            kinds = json.loads(told.read_text(encoding="utf-8"))
            of_kind[name] = dict(Counter(kinds[each] for each in trained).most_common())
        taken = {(dataset, timestep): count for dataset, timestep, count in rows}
        last = max(timestep for _, timestep, _ in rows)
        found[name] = {
            dataset: [taken.get((dataset, timestep), 0) for timestep in range(1, last + 1)]
            for dataset in dict.fromkeys(dataset for dataset, _, _ in rows)
        }
    write_lines(RESULTS / SELECTED, found)
    write_lines(RESULTS / KINDS, of_kind)


def ask(folder: Path, jobs: int) -> None:
    """The score of every question of every eval set after the last timestep of each run, added to asked.json."""
    found = read_lines(RESULTS / ASKED)
    os.chdir(folder)
    left = {name: root for name, root in finished(folder).items() if name not in found}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        running = {workers.submit(answered, root): name for name, root in left.items()}
        for done, each in enumerate(as_completed(running), 1):
            found[running[each]] = each.result()
            write_lines(RESULTS / ASKED, found)
            print(f"[{done}/{len(left)}] {running[each]}", flush=True)


def answered(root: Path) -> dict[str, list[float]]:
    """A run's scores on all questions with its last adapter, by skill, in the eval sets' order; nothing is recorded."""
    from lifelong import Run
    from lifelong.context import Context, Feed, ModelHolder
    from lifelong.phases.evaluate import test_cells

    run = Run.open(root)
    config = asking(run.config, 0)
    with run.reading() as stores:
        last = stores.ledger.last_timestep() or 0
        context = Context(stores, config, last, Feed("", "", ""), ModelHolder(config))
        asked = [(last, skill) for skill in stores.evals.skills()]
        cells = test_cells(context, asked, {last: context.adapter(last)}).cells
    return {cell.skill.name: [round(answer.score, 3) for answer in cell.answers] for cell in cells}


def read_lines(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_lines(path: Path, found: Mapping[str, Any]) -> None:
    """A line for each run, so that what a longer study adds is what differs."""
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def merged(family: str) -> Results:
    """All that is on file of a family, with the answers to all questions; other settings are named after their file."""
    from lifelong.compare import Results, read_results

    found, asked = Results(), read_lines(RESULTS / ASKED)
    for part in {part.file: part for part in PARTS.values() if part.family == family}.values():
        path = RESULTS / f"{part.file}.json"
        for cell, result in read_results(path).items() if path.is_file() else ():
            plain = part.file == family or cell.recipe == "multitask"
            name = cell.recipe if plain else f"{cell.recipe} {part.file}"
            scores = asked.get(f"{part.file}/{cell.name}")
            if scores is None and not part.asks_all:
                print(f"left out, not asked all questions yet: {part.file}/{cell.name}", file=sys.stderr)
                continue
            judged = widened(result, scores) if scores else result
            found.add(Cell(name, cell.budget, cell.order, cell.seed), judged)
    return found


def widened(result: Result, scores: Mapping[str, Sequence[float]]) -> Result:
    """A result whose last timestep is judged by these scores."""
    kept = {skill: np.array(values, dtype=float) for skill, values in scores.items()}
    matrix, n = result.curves.R.copy(), result.curves.n.copy()
    matrix[-1] = [kept[skill].mean() for skill in result.curves.skills]
    n[-1] = [len(kept[skill]) for skill in result.curves.skills]
    return replace(result, scores=kept, curves=replace(result.curves, R=matrix, n=n))


def tables() -> Iterator[str]:
    """What recipes gain over chance, family by family; of the first, too, what adapt-inf gains or loses by one word."""
    from lifelong.compare import Results, summarise
    from lifelong.compare.table import table

    for family in dict.fromkeys(part.family for part in PARTS.values()):
        whole, parts = Results(), Results()
        for cell, result in merged(family).items():
            other_settings = " " in cell.recipe
            if not other_settings:
                whole.add(cell, result)
            if other_settings or cell.recipe in ("adapt-inf", *(Path(name).stem for name in (*ABLATIONS, *PRUNERS))):
                parts.add(cell, result)
        if not whole.found:
            continue
        yield f"{family}\n\n{table(summarise(whole, 'random'))}"
        if len({cell.recipe for cell, _ in parts.items()}) > 1:
            yield f"{family}, by one word\n\n{table(summarise(parts, 'adapt-inf'))}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("prepare")
    made.add_argument("--stream", type=Path, required=True)
    ran = commands.add_parser("run")
    ran.add_argument("parts", nargs="+", choices=list(PARTS))
    ran.add_argument("--jobs", type=int, default=1)
    ran.add_argument("--seeds", type=int, help="at most so many, where a part has more")
    asked = commands.add_parser("ask")
    asked.add_argument("--jobs", type=int, default=1)
    counted = commands.add_parser("counts")
    spoiled = commands.add_parser("spoil")
    packed = commands.add_parser("pack")
    packed.add_argument("--out", type=Path, required=True)
    based = commands.add_parser("base")
    based.add_argument("name", choices=list(BASES))
    for each in (made, spoiled, packed, based, ran, asked, counted):
        each.add_argument("--folder", type=Path, required=True)
    commands.add_parser("tables")
    given = parser.parse_args(arguments)
    match given.command:
        case "prepare":
            prepare(given.stream, given.folder)
        case "spoil":
            spoil_stream(given.folder)
        case "pack":
            pack(given.folder, given.out)
        case "base":
            build_base(given.name, given.folder)
        case "run":
            for name in given.parts:
                run(name, given.folder.absolute(), given.jobs, given.seeds)
        case "ask":
            ask(given.folder.absolute(), given.jobs)
        case "counts":
            counts(given.folder)
        case _:
            print("\n\n".join(tables()))


if __name__ == "__main__":
    main()
