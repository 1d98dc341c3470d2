"""`lifelong demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import Quiet, print_text, progress_for


def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for the demo's data, model and runs.")] = Path(
        "demo-run"
    ),
    quiet: Quiet = False,
) -> None:
    """A real small stream, end to end, with a report at the end. Needs the extra `demo`."""
    from lifelong.demo.tour import tour

    with progress_for(quiet) as progress:
        print_text(tour(folder, progress))
