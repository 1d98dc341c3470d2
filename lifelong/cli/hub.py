"""Commands for what comes after: `card`, `merge`, `push`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import RunFolder, open_run, print_text, say

Timestep = Annotated[
    int | None,
    typer.Option(help="Of this timestep. Default: the last adapter; of data, the live pool."),
]


class What(StrEnum):
    """What a card or a push is about."""

    model = "model"
    data = "data"


Whats = Annotated[What, typer.Option(help="model: the adapter; data: the selection.")]


def card(
    run: RunFolder,
    what: Whats = What.model,
    timestep: Timestep = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")] = None,
) -> None:
    """A model or dataset card: sources and licences, recipe, budgets, seed, curves, versions."""
    text = open_run(run).card(what.value, timestep)
    if out is None:
        print_text(text.rstrip("\n"))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    say(f"wrote {out}")


def merge(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="New folder for the merged model and its processor.")],
    timestep: Timestep = None,
) -> None:
    """Merge an adapter into its base model: a full model that any library loads."""
    merged = open_run(run).merge(out, timestep)
    say(f"wrote the model after timestep {merged} to {out}")


def push(
    run: RunFolder,
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository; made if need be.")],
    what: Whats = What.model,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    timestep: Timestep = None,
) -> None:
    """Upload an adapter, or a selection, with its card to the Hugging Face Hub."""
    print_text(open_run(run).push(repo, what.value, timestep=timestep, private=private))
