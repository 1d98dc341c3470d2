"""`lifelong report`, and the figures of `lifelong curves --plot`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifelong.cli.options import RunFolder, say
from lifelong.errors import UsageError

if TYPE_CHECKING:
    from lifelong.account.curves import Curves

Also = Annotated[
    list[Path] | None,
    typer.Option("--also", metavar="RUN", help="Draw this run's curves beside; repeatable."),
]


class Figure(StrEnum):
    """What `lifelong curves --plot` draws."""

    skills = "skills"
    average = "average"
    gain = "gain"


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: report.html in the run.")] = None,
    also: Also = None,
) -> None:
    """Everything about a run in one HTML file that needs no network."""
    from lifelong.report import write_report
    from lifelong.run import Run

    opened = Run.open(run)
    target = out or run / "report.html"
    size = write_report(opened, target, curves_of(also or []))
    say(f"wrote {target} ({size / 1e6:.1f} MB); open it in a browser")


def plot(figure: Figure, runs: Sequence[Path], reference: Path | None, out: Path) -> None:
    """Draw a figure of some runs, the first of them first.

    Raises:
        UsageError: the file's suffix, the packages or the runs do not allow it.
    """
    from lifelong.account.plots import plot_average, plot_curves, plot_gain

    if (figure is Figure.gain) != (reference is not None):
        raise UsageError(
            "--figure gain and --reference RUN go together: the run that the others are compared with"
        )
    try:
        if reference is not None:
            plot_gain(curves_of(runs), curves_of([reference]), out)
        else:
            (plot_average if figure is Figure.average else plot_curves)(curves_of(runs), out)
    except (ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    say(f"wrote {out}")


def curves_of(runs: Sequence[Path]) -> dict[str, Curves]:
    """Label → curves of each run: its folder's name, or as much of its path as tells it from the others."""
    from lifelong.run import Run

    names = [run.resolve().name for run in runs]
    labels = [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]
    return {label: Run.open(run).skill_matrix() for label, run in zip(labels, runs, strict=True)}
