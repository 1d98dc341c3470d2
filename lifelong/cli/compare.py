"""`lifelong compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import AsJson, Quiet, Sets, print_json, print_text, progress_for, say
from lifelong.errors import EXIT_INPUT, UsageError


def compare(
    stream: Annotated[Path, typer.Argument(metavar="STREAM.yaml")],
    recipes: Annotated[
        str, typer.Option(help="Recipes or recipe files, with commas; see `lifelong methods`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the runs, results.json and compare.html.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of a vision-language model.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every recipe: 0, 1, …")] = 3,
    orders: Annotated[int, typer.Option(min=1, help="Orders of the stream: its own, then drawn ones.")] = 1,
    budget: Annotated[str, typer.Option(help="Budget of a timestep, or several with commas.")] = "15%",
    between: Annotated[
        int, typer.Option(min=0, help="Eval samples a skill at timesteps before the last. 0: as at the last.")
    ] = 0,
    against: Annotated[str, typer.Option(help="Recipe that the others are compared with.")] = "random",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process of its own.")] = 1,
    only_read: Annotated[
        bool, typer.Option("--read", help="Run nothing; tell what the finished runs say.")
    ] = False,
    settings: Sets = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Recipes over the same stream, with seeds: which is better than another, beyond the noise. Resumable."""
    from lifelong.compare import Comparison, Plan, named, summarise
    from lifelong.compare.page import write_page
    from lifelong.compare.table import table
    from lifelong.config import parse_settings

    known = named([name.strip() for name in recipes.split(",") if name.strip()])
    if against not in known:
        raise UsageError(
            f"--against {against} is not among --recipes ({', '.join(known)}); add it, or name one of them"
        )
    given = parse_settings(settings or [], {"model": {"path": model}}).model_dump(
        exclude_unset=True, mode="json"
    )
    budgets = tuple(each.strip() for each in budget.split(","))
    comparison = Comparison(Plan(stream, out, known, budgets, seeds, orders, given, between))
    if only_read:
        results = comparison.results()
    else:
        with progress_for(quiet) as progress:
            results = comparison.run(progress, jobs)
    summary = summarise(results, against)
    if summary.lines:
        write_page(
            summary,
            stream.stem if stream.stem != "stream" else stream.absolute().parent.name,
            out / "compare.html",
        )
        say(f"wrote {comparison.path} and {out / 'compare.html'}")
    print_json(summary.to_dict()) if as_json else print_text(table(summary))
    if summary.missing:
        raise typer.Exit(EXIT_INPUT)
