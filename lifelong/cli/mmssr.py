"""`lifelong mmssr`: from a judge's answers to a rater of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import DatasetPath, Format, Images, Quiet, Sets, progress_for, say

app = typer.Typer(
    help="Ratings for the method mmssr: a judge rates a share of a dataset, a rater is tuned on its answers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def judge(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="JSON Lines file of ratings; answers in it are not asked again.")],
    model: Annotated[str, typer.Option(help="Name of the judging model, as the endpoint knows it.")],
    share: Annotated[str, typer.Option(help="Share (2%) or number of the samples to judge.")] = "2%",
    seed: Annotated[int, typer.Option(help="Which samples are judged.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 4,
    retries: Annotated[int, typer.Option(min=0, help="Times that a failed request is sent again.")] = 6,
    images: Images = None,
    format: Format = None,
    quiet: Quiet = False,
) -> None:
    """Let a strong model rate a share of a dataset, through OPENAI_BASE_URL with OPENAI_API_KEY."""
    from lifelong.formats import open_dataset
    from lifelong.raters.judge import JudgeOptions
    from lifelong.raters.judge import judge as ask

    source = open_dataset(dataset, images=images, format=format)
    options = JudgeOptions(model, retries=retries, parallel=parallel)
    with progress_for(quiet) as progress:
        done = ask(source, out, options, share, seed, lambda n, total: progress.step("answers", n, total))
    say(
        f"{out}: {done.asked} answers about {done.samples} samples, {done.known} more were there already"
        + (
            f"; {len(done.refused)} replies are no answers, the first: {done.refused[0]}"
            if done.refused
            else ""
        )
    )


@app.command()
def tune(
    dataset: DatasetPath,
    ratings: Annotated[Path, typer.Option(help="JSON Lines file of ratings of samples of the dataset.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of a vision-language model.")],
    out: Annotated[Path, typer.Option(help="New folder for the rater.")],
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    images: Images = None,
    format: Format = None,
    settings: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Tune a vision-language model on the ratings; `rater.model=OUT` then rates any sample with it."""
    from lifelong.config import parse_settings
    from lifelong.formats import open_dataset
    from lifelong.raters.tune import tune as train

    config = parse_settings(settings or [], {"seed": seed, "model": {"path": model}})
    source = open_dataset(dataset, images=images, format=format)
    with progress_for(quiet) as progress:
        done = train(source, ratings, out, config, lambda n, total: progress.step("training steps", n, total))
    refused = f" ({done.refused} more do not fit the model)" if done.refused else ""
    say(
        f"{out}: tuned on {done.answers} answers about {done.samples} samples{refused}, {done.steps} steps, mean "
        f"loss {done.loss:.3f}. Use it with --set rater.model={out}"
    )
