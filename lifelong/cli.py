"""The command line: a thin command per verb. Exit codes: 0 done, 1 input, 2 usage, 3 run, 130 interrupted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong.cli_fsck import fsck, gc
from lifelong.cli_mmssr import app as mmssr_app
from lifelong.cli_ofa import app as ofa_app
from lifelong.cli_options import (
    AllowDrift,
    AsJson,
    DatasetPath,
    Format,
    Images,
    Quiet,
    RunFolder,
    Sets,
    progress_for,
    say,
)
from lifelong.cli_report import Also, Figure, report
from lifelong.cli_report import plot as plot_runs
from lifelong.errors import EXIT_DONE, EXIT_INPUT, EXIT_INTERRUPTED, LifelongError

# Nothing heavy is imported up here: `lifelong --help` must not wait for torch.

app = typer.Typer(
    name="lifelong",
    help="Keep a vision-language model learning for as long as new instruction datasets are released.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ofa_app, name="ofa")
app.add_typer(mmssr_app, name="mmssr")
app.command()(fsck)
app.command()(gc)
app.command()(report)


@app.command()
def init(
    run: RunFolder,
    model: Annotated[str, typer.Option(help="Folder or hub name of a vision-language model.")] = "",
    recipe: Annotated[
        str | None, typer.Option(help="Recipe; see `lifelong methods`. Default: adapt-inf.")
    ] = None,
    settings: Sets = None,
) -> None:
    """Make a run folder with a commented configuration."""
    from lifelong.config import parse_settings
    from lifelong.run import Run

    Run.create(run, model=model, recipe=recipe, config=parse_settings(settings or []))
    say(f"{run} is ready; its settings are in {run / 'config.yaml'}. Next: lifelong feed {run} DATASET")


@app.command()
def feed(
    run: RunFolder,
    dataset: DatasetPath,
    images: Images = None,
    eval: Annotated[Path | None, typer.Option(help="Eval set of the dataset's skill.")] = None,
    skill: Annotated[
        str | None, typer.Option(help="Skill that the eval set tests; default: the name.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="exact_match, choice, anls, iou50, rouge_l; default exact_match.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default: from the file.")] = None,
    format: Format = None,
    quiet: Quiet = False,
) -> None:
    """Feed one dataset: one timestep."""
    with progress_for(quiet) as progress:
        status = _open(run, progress).feed(
            dataset, images=images, eval=eval, skill=skill, name=name, metric=metric, format=format
        )
    say(_one_line(status))


@app.command("run")
def run_stream(
    run: RunFolder,
    stream: Annotated[Path, typer.Argument(metavar="STREAM.yaml")],
    allow_drift: AllowDrift = False,
    quiet: Quiet = False,
) -> None:
    """Feed every dataset of a stream that has not been fed yet."""
    with progress_for(quiet) as progress:
        status = _open(run, progress).run_stream(stream, allow_drift=allow_drift)
    say(_one_line(status))


@app.command()
def resume(run: RunFolder, allow_drift: AllowDrift = False, quiet: Quiet = False) -> None:
    """Finish the timestep that was interrupted."""
    with progress_for(quiet) as progress:
        opened = _open(run, progress)
        finished = opened.resume(allow_drift=allow_drift)
    say(_one_line(opened.status()) if finished else "nothing to resume: every timestep is finished")


@app.command()
def status(run: RunFolder, as_json: AsJson = False) -> None:
    """Where the run stands: timestep, phase, pool, seconds per phase, bytes."""
    found = _open(run).status()
    _print_json(found) if as_json else _print(_status_text(found))


@app.command()
def curves(
    run: RunFolder,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row per timestep and skill.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a figure: .png, .svg or .pdf.")] = None,
    figure: Annotated[
        Figure,
        typer.Option(help="What to draw: a panel per skill, the average, the gain relative to --reference."),
    ] = Figure.skills,
    also: Also = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run whose last accuracies are 100 %.")
    ] = None,
) -> None:
    """What each skill gained and forgot: the skill matrix, forgetting, transfer."""
    found = _open(run).curves()
    if plot is not None:
        plot_runs(figure, [run, *(also or [])], reference, plot)
    if as_json:
        _print(found.to_json())
    elif as_csv:
        _print(found.to_csv().rstrip("\n"))
    elif plot is None:
        _print(found.table())


@app.command()
def routes(
    run: RunFolder,
    timestep: Annotated[int | None, typer.Option(help="Default: the last finished one.")] = None,
    as_json: AsJson = False,
) -> None:
    """The routing table: which cluster, of which skills, went to which expert, with the entropies."""
    from lifelong.routes import routes as find
    from lifelong.routes import table

    with _open(run).reading() as stores:
        found = find(stores, timestep)
    _print_json(found) if as_json else _print(table(found))


@app.command()
def why(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of the run, or the decisions that `lifelong select` wrote."
        ),
    ],
    sample: Annotated[str, typer.Argument(metavar="SAMPLE")],
    as_json: AsJson = False,
) -> None:
    """Why a sample was kept, used, dropped or refused."""
    from lifelong.why import tell, why_selected
    from lifelong.why import why as find

    if run.is_file():
        found = why_selected(run, sample)
    else:
        with _open(run).reading() as stores:
            found = find(stores, sample)
    _print_json(found) if as_json else _print(tell(found))


@app.command()
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
                _print(json.dumps(outcome, ensure_ascii=True))
            elif outcome["outcome"] != "accepted":
                place = (
                    outcome["file"] if outcome["row"] is None else f"{outcome['file']} row {outcome['row']}"
                )
                _print(f"{place}: {outcome['outcome']}: {outcome['reason']}; {outcome['fix']}")
            yield outcome

    summary = summarise(shown())
    if not as_json:
        faulty = f", {summary.faulty_files} files at fault" if summary.faulty_files else ""
        _print(
            f"{summary.rows} rows: {summary.accepted} accepted, {summary.rejected} rejected, "
            f"{summary.duplicate} duplicates{faulty}"
        )
    if not summary.sound:
        raise typer.Exit(EXIT_INPUT)


@app.command()
def select(
    dataset: DatasetPath,
    method: Annotated[str, typer.Option(help="Recipe; see `lifelong methods`.")],
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
    from lifelong.config import parse_settings
    from lifelong.oneshot import select as select_rows

    given = [f"seed={seed}", f"train.budget={budget}", f"recipe={method}"]
    given += [f"model.path={model}"] if model else []
    given += [f"experts.ofa.selector={json.dumps(str(selector))}"] if selector else []
    config = parse_settings([*given, *(settings or [])])
    with progress_for(quiet) as progress:
        done = select_rows(dataset, out, config, images=images, format=format, progress=progress)
    say(f"wrote {done.selected} of {done.accepted} rows to {done.out}, decisions to {done.decisions}")


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write.")],
    format: Annotated[str, typer.Option(help="llava, sharegpt, jsonl or parquet.")] = "llava",
    timestep: Annotated[int | None, typer.Option(help="Export this timestep's selection.")] = None,
) -> None:
    """Write a timestep's selection, or the live pool, for another trainer."""
    from lifelong.export import export as write

    with _open(run).reading() as stores:
        count = write(stores, out, format, timestep)
    say(f"wrote {count} samples to {out}")


@app.command()
def methods(
    recipe: Annotated[str | None, typer.Option(help="Show one recipe, its words and its passes.")] = None,
    settings: Sets = None,
    as_json: AsJson = False,
) -> None:
    """The recipes and the experts that are installed."""
    from lifelong.catalogue import catalogue, describe_recipe, table
    from lifelong.config import parse_settings

    if recipe is not None:
        found = describe_recipe(recipe, parse_settings(settings or []))
        _print_json(found) if as_json else _print(
            "\n".join(f"{name}: {value}" for name, value in found.items())
        )
    else:
        _print_json(catalogue()) if as_json else _print(table(catalogue()))


@app.command()
def digest(run: RunFolder) -> None:
    """One hash over decisions, metrics, selected order and adapter weights: equal for equal runs."""
    _print(_open(run).digest())


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for the demo's data, model and runs.")] = Path(
        "demo-run"
    ),
    quiet: Quiet = False,
) -> None:
    """A real small stream, end to end, with a report at the end. Needs the extra `demo`."""
    from lifelong.demo.tour import tour

    with progress_for(quiet) as progress:
        _print(tour(folder, progress))


def main(arguments: list[str] | None = None) -> None:
    """Run a command; ends the process with the exit code of its error."""
    # OpenMP's threads wait for each other by spinning, unless told before torch is loaded. With another busy
    # process on the same cores that made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(invoke(arguments))


def invoke(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors go to standard error, one line each."""
    try:
        app(args=arguments)
    except SystemExit as ended:
        # How Typer ends a command: 0, 2 after it has said what is wrong with the command line, 130 at Ctrl-C.
        code = ended.code if isinstance(ended.code, int) else EXIT_DONE
        return _interrupted() if code == EXIT_INTERRUPTED else code
    except LifelongError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    return EXIT_DONE


def _interrupted() -> int:
    say("interrupted; `lifelong resume RUN` goes on from the last commit")
    return EXIT_INTERRUPTED


def _open(run: Path, progress: Any = None) -> Any:
    from lifelong.run import Run

    return Run.open(run, progress)


def _one_line(status: dict[str, Any]) -> str:
    pool = status["pool"]
    return (
        f"timestep {status['timestep']} is finished: {pool['arrived']} samples arrived so far, {pool['live']} are "
        f"live, {pool['pruned']} pruned, {pool['quarantined']} quarantined, {pool['selected']} were trained on"
    )


def _status_text(status: dict[str, Any]) -> str:
    pool = ", ".join(f"{name} {count}" for name, count in status["pool"].items())
    stands = f"at phase {status['phase']}" if status["phase"] else "finished"
    return (
        f"run {status['run_id']}\ntimestep {status['timestep']}, {stands}\npool: {pool}\n"
        f"{_times(status['seconds'], status['kept'])}\n{status['bytes'] / 1e6:.1f} MB on disk"
    )


def _times(seconds: dict[str, float], kept: dict[str, float]) -> str:
    """A line for each phase with its seconds, and how many of them SQLite and files took."""
    if not seconds:
        return "this timestep: nothing yet"
    lines = [f"  {name:<9} {value:8.1f} s  {kept[name]:7.2f} s" for name, value in seconds.items()]
    total, keeping = sum(seconds.values()), sum(kept.values())
    share = f"  {'in all':<9} {total:8.1f} s  {keeping:7.2f} s, {100 * keeping / max(total, 1e-9):.1f} %"
    return "\n".join(["this timestep             keeping it", *lines, share])


def _print_json(value: Any) -> None:
    _print(json.dumps(value, ensure_ascii=False, indent=2))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader (head, less) has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_DONE) from None
