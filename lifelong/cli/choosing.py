"""Commands about data and methods: `check`, `select`, `export`, `methods`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong.cli.options import (
    AsJson,
    DatasetPath,
    Format,
    Images,
    Quiet,
    RunFolder,
    Sets,
    open_run,
    print_json,
    print_text,
    progress_for,
    say,
)
from lifelong.errors import EXIT_INPUT


def check(
    dataset: DatasetPath, images: Images = None, format: Format = None, as_json: AsJson = False
) -> None:
    """What would be refused of a dataset, row by row, with the fix. Exit code 1 if anything is."""
    from lifelong.formats import open_dataset
    from lifelong.formats.check import check as outcomes
    from lifelong.formats.check import summarise

    def shown() -> Any:
        for outcome in outcomes(open_dataset(dataset, images=images, format=format)):
            if as_json:
                print_text(json.dumps(outcome, ensure_ascii=True))
            elif outcome["outcome"] != "accepted":
                place = (
                    outcome["file"] if outcome["row"] is None else f"{outcome['file']} row {outcome['row']}"
                )
                print_text(f"{place}: {outcome['outcome']}: {outcome['reason']}; {outcome['fix']}")
            yield outcome

    summary = summarise(shown())
    if not as_json:
        faulty = f", {summary.faulty_files} files at fault" if summary.faulty_files else ""
        print_text(
            f"{summary.rows} rows: {summary.accepted} accepted, {summary.rejected} rejected, "
            f"{summary.duplicate} duplicates{faulty}"
        )
    if not summary.sound:
        raise typer.Exit(EXIT_INPUT)


def select(
    dataset: DatasetPath,
    method: Annotated[str, typer.Option(help="Recipe, or a recipe file; see `lifelong methods`.")],
    out: Annotated[Path, typer.Option(help="File for the selected rows, in the dataset's own format.")],
    budget: Annotated[str, typer.Option(help="A share (15%) or a number of rows (2000).")] = "15%",
    model: Annotated[str, typer.Option(help="Folder or hub name, for methods that read a model.")] = "",
    selector: Annotated[
        Path | None, typer.Option(help="Folder that `lifelong ofa fit` wrote: OFA is not fitted again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    images: Images = None,
    format: Format = None,
    settings: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Select a part of one dataset, without training; every row's decision goes to OUT.decisions.parquet."""
    from lifelong.config import SELECTOR, parse_settings
    from lifelong.oneshot.select import select as select_rows
    from lifelong.recipes.files import read_recipe

    given: dict[str, Any] = {"seed": seed, "recipe": read_recipe(method), "train": {"budget": budget}}
    given |= {"model": {"path": model}} if model else {}
    given |= {"experts": {"ofa": {SELECTOR: str(selector)}}} if selector else {}
    config = parse_settings(settings or [], given)
    with progress_for(quiet) as progress:
        done = select_rows(dataset, out, config, images=images, format=format, progress=progress)
    say(f"wrote {done.selected} of {done.accepted} rows to {done.out}, decisions to {done.decisions}")
    _tell_if_misnamed(done.out, done.format)


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write; of webdataset, a folder of shards.")],
    format: Annotated[
        str, typer.Option(help="llava, sharegpt, jsonl, parquet, trl or webdataset.")
    ] = "llava",
    timestep: Annotated[int | None, typer.Option(help="Export this timestep's selection.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write a dataset card, README.md, beside it.")] = False,
) -> None:
    """Write a timestep's selection, or the live pool, for another trainer."""
    opened = open_run(run)
    count = opened.export(out, format, timestep, card=card)
    say(f"wrote {count} samples to {out}")
    _tell_if_misnamed(out, format)


def _tell_if_misnamed(out: Path, format: str) -> None:
    from lifelong.formats.writers import misnamed

    if right := misnamed(out, format):
        say(f"note: {out.name} is a file of format {format}, which its name does not say; call it {right}")


def methods(
    recipe: Annotated[
        str | None, typer.Option(help="Show one recipe or recipe file, its words and its passes.")
    ] = None,
    settings: Sets = None,
    as_json: AsJson = False,
) -> None:
    """The recipes and the experts that are installed."""
    from lifelong.config import parse_settings
    from lifelong.recipes.catalogue import catalogue, describe_recipe, table

    if recipe is not None:
        found = describe_recipe(recipe, parse_settings(settings or []))
        print_json(found) if as_json else print_text(
            "\n".join(f"{name}: {value}" for name, value in found.items())
        )
    else:
        print_json(catalogue()) if as_json else print_text(table(catalogue()))
