"""The study of docs/study.md, piece by piece: does selection keep a model's skills, and does it beat chance?

    python benchmarks/study.py prepare --stream STREAMS/real10/stream.yaml --folder DIR
    python benchmarks/study.py spoil --folder DIR
    python benchmarks/study.py run PART … --folder DIR --jobs 2
    python benchmarks/study.py ask --folder DIR --jobs 2
    python benchmarks/study.py counts --folder DIR
    python benchmarks/study.py errors --folder DIR
    python benchmarks/study.py tables [--reference random] [--order 0]
    python benchmarks/study.py fill docs/study.md

`prepare` takes a share of each dataset for the stream (`lifelong select --method random`), writes ratings for mmSSR
by a rule, and makes a base model that has learned a little from some of the rows that are left. `spoil` makes of that
stream one that repeats itself and errs (spoiled.py). `run` is `lifelong compare` with the settings below; a part that
was stopped goes on, and what is committed is not run again. What the parts found is in results/study, a file for each
family of settings, a line for each run. `ask` puts all questions of the eval sets to the last adapters of the runs in
DIR, where the runs themselves asked the first hundred of each. `counts` writes how many samples of each dataset they
trained on, `errors` which experts tell a wrong answer of the spoiled stream. From these files alone `tables` prints
tables, and `fill` writes those of a document anew.

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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from benchmarks.spoiled import KEPT, KINDS, WRONG
from benchmarks.study_base import BASES, build_base, pack, prepare, spoil_stream
from benchmarks.study_parts import PARTS, SETTINGS
from benchmarks.study_results import ASKED, ERRORS, RESULTS, SELECTED, fill, read_lines, tables, write_lines
from lifelong.compare.cells import RUNS, Cell, asking
from lifelong.context import DATABASE

RECIPES = Path(__file__).parent / "recipes"


def run(name: str, folder: Path, jobs: int, seeds: int | None, only: Sequence[str]) -> None:
    """Run a part to its end, or the first seeds or some recipes of it; what is on file then is what is committed."""
    from lifelong.compare import Comparison, Plan, named
    from lifelong.progress import for_terminal

    part = PARTS[name]
    os.chdir(folder)
    given = SETTINGS | {section: SETTINGS[section] | fields for section, fields in part.settings.items()}
    wanted = [recipe for recipe in part.recipes if not only or Path(recipe).stem in only]
    if not wanted:
        return
    recipes = [str(RECIPES / recipe) if recipe.endswith(".yaml") else recipe for recipe in wanted]
    plan = Plan(
        beginning(Path(part.stream) / "stream.yaml", part.first),
        Path(part.file),
        named(recipes),
        part.budgets,
        min(part.seeds, seeds or part.seeds),
        part.orders,
        given,
        part.between,
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


def beginning(stream: Path, count: int) -> Path:
    """A stream file with the first datasets of another, beside it; 0: the other."""
    if not count:
        return stream
    whole = yaml.safe_load(stream.read_text(encoding="utf-8"))
    first = stream.with_name(f"first-{count}.yaml")
    first.write_text(yaml.safe_dump(whole | {"datasets": whole["datasets"][:count]}), encoding="utf-8")
    return first


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
    spoiled = {part.file for part in PARTS.values() if part.family == "spoiled"}
    kinds = read_lines(folder / "spoiled" / KINDS)
    asked = "SELECT dataset, timestep, sample_id FROM selections JOIN samples USING (ordinal)"
    for name, root in finished(folder).items():
        with closing(sqlite3.connect(f"file:{root / DATABASE}?mode=ro", uri=True)) as ledger:
            rows = ledger.execute(asked).fetchall()
        if name.partition("/")[0] in spoiled:
            of_kind[name] = dict(Counter(kinds[sample] for _, _, sample in rows).most_common())
        taken = Counter((dataset, timestep) for dataset, timestep, _ in rows)
        last = max(timestep for _, timestep, _ in rows)
        found[name] = {
            dataset: [taken[dataset, timestep] for timestep in range(1, last + 1)]
            for dataset in sorted({dataset for dataset, _, _ in rows})
        }
    write_lines(RESULTS / SELECTED, found)
    write_lines(RESULTS / KINDS, of_kind)


def errors(folder: Path) -> None:
    """How often each expert scores a wrong answer above a right one (0.5: it does not know), by dataset, of the last
    timestep of the runs of adapt-inf over the spoiled stream; added to errors.json."""
    import pyarrow.parquet as pq
    from sklearn.metrics import roc_auc_score

    found = read_lines(RESULTS / ERRORS)
    kinds = read_lines(folder / "spoiled" / KINDS)
    for name, root in finished(folder).items():
        if not name.startswith("spoiled/adapt-inf"):
            continue
        told = pq.read_table(max((root / "timesteps").glob("*/decisions.parquet"))).to_pandas()
        told["kind"] = told["sample_id"].map(kinds)
        judged = told[told["kind"].isin((KEPT, WRONG))]
        found[name] = {
            expert.removeprefix("score_"): {
                dataset: round(roc_auc_score(rows["kind"] == WRONG, rows[expert]), 3)
                for dataset, rows in judged[judged[expert].notna()].groupby("dataset", sort=False)
            }
            for expert in judged.columns
            if expert.startswith("score_")
        }
    write_lines(RESULTS / ERRORS, found)


def ask(folder: Path, jobs: int) -> None:
    """The score of every question of every eval set after the last timestep of each run, added to asked.json."""
    found = read_lines(RESULTS / ASKED)
    os.chdir(folder)
    whole = {part.file for part in PARTS.values() if part.asks_all}
    runs = finished(folder).items()
    left = {name: root for name, root in runs if name not in found and name.partition("/")[0] not in whole}
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
    ran.add_argument("--recipes", nargs="+", default=(), metavar="RECIPE", help="of the parts, these only")
    asked = commands.add_parser("ask")
    asked.add_argument("--jobs", type=int, default=1)
    counted = commands.add_parser("counts")
    spoiled = commands.add_parser("spoil")
    packed = commands.add_parser("pack")
    packed.add_argument("--out", type=Path, required=True)
    based = commands.add_parser("base")
    based.add_argument("name", choices=list(BASES))
    judged = commands.add_parser("errors")
    for each in (made, spoiled, packed, based, ran, asked, counted, judged):
        each.add_argument("--folder", type=Path, required=True)
    told = commands.add_parser("tables")
    told.add_argument("--reference", default="random", help="the recipe that others are compared with")
    told.add_argument("--order", type=int, default=0, help="of the stream; 0: its own")
    filled = commands.add_parser("fill")
    filled.add_argument("page", type=Path)
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
            known = {Path(recipe).stem for name in given.parts for recipe in PARTS[name].recipes}
            if unknown := set(given.recipes) - known:
                parser.error(f"no part has {', '.join(sorted(unknown))}; they have {', '.join(sorted(known))}")
            for name in given.parts:
                run(name, given.folder.absolute(), given.jobs, given.seeds, given.recipes)
        case "ask":
            ask(given.folder.absolute(), given.jobs)
        case "counts":
            counts(given.folder)
        case "errors":
            errors(given.folder)
        case "fill":
            fill(given.page)
        case _:
            print("\n\n".join(tables(given.reference, given.order)))


if __name__ == "__main__":
    main()
