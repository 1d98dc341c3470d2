"""Commands that write to a run: `init`, `feed`, `run`, `resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong.cli.options import (
    Address,
    AllowDrift,
    DatasetPath,
    Engine,
    EvalFormat,
    EvalImages,
    Format,
    Images,
    Quiet,
    RunFolder,
    Sets,
    Workers,
    open_run,
    progress_for,
    say,
)


def init(
    run: RunFolder,
    model: Annotated[str, typer.Option(help="Folder or hub name of a vision-language model.")] = "",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe, or a recipe file (.yaml); see `lifelong methods`. Default: adapt-average."
        ),
    ] = None,
    settings: Sets = None,
) -> None:
    """Make a run folder with a commented configuration."""
    from lifelong.config import parse_settings
    from lifelong.run import Run

    Run.create(run, model=model, recipe=recipe, config=parse_settings(settings or []))
    say(f"{run} is ready; its settings are in {run / 'config.yaml'}. Next: lifelong feed {run} DATASET")


def feed(
    run: RunFolder,
    dataset: DatasetPath,
    images: Images = None,
    eval: Annotated[Path | None, typer.Option(help="Eval set of the dataset's skill.")] = None,
    eval_images: EvalImages = None,
    eval_format: EvalFormat = None,
    skill: Annotated[
        str | None, typer.Option(help="Skill that the eval set tests; default: the name.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="exact_match, vqa_accuracy, choice, anls, iou50, rouge_l, lmms_eval:TASK; default exact_match."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default: from the file.")] = None,
    format: Format = None,
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the dataset, for cards.")] = None,
    origin: Annotated[str | None, typer.Option(help="Where the dataset comes from, for cards.")] = None,
    quiet: Quiet = False,
) -> None:
    """Feed one dataset: one timestep."""
    with progress_for(quiet) as progress:
        opened = open_run(run, progress).work_on(engine, address=address, workers=workers)
        status = opened.feed(
            dataset,
            images=images,
            eval=eval,
            skill=skill,
            name=name,
            metric=metric,
            format=format,
            licence=licence,
            origin=origin,
            eval_images=eval_images,
            eval_format=eval_format,
        )
    say(_one_line(status))


def run_stream(
    run: RunFolder,
    stream: Annotated[Path, typer.Argument(metavar="STREAM.yaml")],
    until: Annotated[
        int | None, typer.Option(min=1, help="Feed no more than the stream's first so many datasets.")
    ] = None,
    allow_drift: AllowDrift = False,
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Feed every dataset of a stream that has not been fed yet."""
    with progress_for(quiet) as progress:
        opened = open_run(run, progress).work_on(engine, address=address, workers=workers)
        status = opened.run_stream(stream, until=until, allow_drift=allow_drift)
    say(_one_line(status))


def resume(
    run: RunFolder,
    allow_drift: AllowDrift = False,
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Finish the timestep that was interrupted."""
    with progress_for(quiet) as progress:
        opened = open_run(run, progress).work_on(engine, address=address, workers=workers)
        finished = opened.resume(allow_drift=allow_drift)
    say(_one_line(opened.status()) if finished else "nothing to resume: every timestep is finished")


def _one_line(status: dict[str, Any]) -> str:
    pool = status["pool"]
    return (
        f"timestep {status['timestep']} is finished: {pool['arrived']} samples arrived so far, {pool['live']} are "
        f"live, {pool['pruned']} pruned, {pool['quarantined']} quarantined, {pool['selected']} were trained on"
    )
