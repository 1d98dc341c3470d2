"""`lifelong ofa`: train OFA's selector once, to select anywhere with `lifelong select --selector`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import DatasetPath, Format, Images, Quiet, Sets, progress_for, say

app = typer.Typer(
    help="OFA's selector: trained once on one dataset, applied unchanged to any other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Encoder(StrEnum):
    """Kinds of `encoder.kind`."""

    clip = "clip"
    siglip = "siglip"
    conse = "conse"


@app.command()
def fit(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="Folder for the selector; one that is there is replaced.")],
    encoder: Annotated[
        Encoder, typer.Option(help="Frozen encoder; encoder.path says which clip or siglip.")
    ] = Encoder.clip,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    images: Images = None,
    format: Format = None,
    settings: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Fit a selector to a dataset and write it to a folder, for `lifelong select --method ofa --selector`."""
    from lifelong.config import parse_settings
    from lifelong.oneshot.ofa import fit as fit_selector

    config = parse_settings(settings or [], {"seed": seed, "encoder": {"kind": encoder.value}})
    with progress_for(quiet) as progress:
        done = fit_selector(dataset, out, config, images=images, format=format, progress=progress)
    say(f"wrote {done.out}: {done.summary}")
