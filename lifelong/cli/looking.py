"""Commands that read a run: `status`, `curves`, `routes`, `why`, `digest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong.cli.options import AsJson, RunFolder, open_run, print_json, print_text
from lifelong.cli.report import Also, Figure
from lifelong.cli.report import plot as plot_runs
from stores.clock import day

TIMESTEPS_SHOWN = 5


def status(run: RunFolder, as_json: AsJson = False) -> None:
    """Where the run stands: timestep, phase, pool, seconds per phase, bytes."""
    found = open_run(run).status()
    print_json(found) if as_json else print_text(_status_text(found))


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
    found = open_run(run).skill_matrix()
    if plot is not None:
        plot_runs(figure, [run, *(also or [])], reference, plot)
    if as_json:
        print_text(found.to_json())
    elif as_csv:
        print_text(found.to_csv().rstrip("\n"))
    elif plot is None:
        print_text(found.table())


def routes(
    run: RunFolder,
    timestep: Annotated[int | None, typer.Option(help="Default: the last finished one.")] = None,
    as_json: AsJson = False,
) -> None:
    """The routing table: which cluster, of which skills, went to which expert, with the entropies."""
    from lifelong.account.routes import routes as find
    from lifelong.account.routes import table

    with open_run(run).reading() as stores:
        found = find(stores, timestep)
    print_json(found) if as_json else print_text(table(found))


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
    from lifelong.account.why import tell, why_selected
    from lifelong.account.why import why as find

    if run.is_file():
        found = why_selected(run, sample)
    else:
        with open_run(run).reading() as stores:
            found = find(stores, sample)
    print_json(found) if as_json else print_text(tell(found))


def digest(run: RunFolder) -> None:
    """One hash over decisions, metrics, selected order and adapter weights: equal for equal runs."""
    print_text(open_run(run).digest())


def _status_text(status: dict[str, Any]) -> str:
    pool = ", ".join(f"{name} {count}" for name, count in status["pool"].items())
    last = day(status["finished"])
    stands = f"finished {last}".rstrip()
    if status["phase"]:
        stands = f"at phase {status['phase']}" + (f"; the one before finished {last}" if last else "")
    return (
        f"run {status['run_id']}\ntimestep {status['timestep']}, {stands}\npool: {pool}\n"
        f"{_times(status)}\n{_forecast_error(status['forecast_error'])}{_guard(status['guard'])}{_steered(status)}"
        f"{status['bytes'] / 1e6:.1f} MB on disk{_sizes(status['bytes_per_sample'])}"
    )


def _sizes(timesteps: list[dict[str, Any]]) -> str:
    """Bytes for each sample of the last timesteps, in a table."""
    if not timesteps:
        return ""
    rows = [
        f"  {row['timestep']:>8} {row['samples']:>10,} {row['signals']:>10,.0f} {row['tables']:>9,.0f}"
        for row in timesteps[-TIMESTEPS_SHOWN:]
    ]
    return "\n".join(["", "bytes a sample: samples    signals    tables, by timestep", *rows])


def _times(status: dict[str, Any]) -> str:
    """A line for each phase: its seconds, how many of them SQLite and files took, and what was foretold."""
    seconds, kept, foretold = status["seconds"], status["kept"], status["forecast"]
    if not seconds:
        return "this timestep: nothing yet"

    def line(name: str, value: float, keeping: float, told: float | None) -> str:
        return f"  {name:<9} {value:8.1f} s  {keeping:7.2f} s" + ("" if told is None else f"  {told:8.1f} s")

    lines = [line(name, s, kept[name], foretold[name] if foretold else None) for name, s in seconds.items()]
    total, keeping = sum(seconds.values()), sum(kept.values())
    share = f"  keeping it is {100 * keeping / max(total, 1e-9):.1f} %"
    lines.append(line("in all", total, keeping, sum(foretold.values()) if foretold else None) + share)
    return "\n".join(["this timestep             keeping it" + ("    forecast" if foretold else ""), *lines])


def _forecast_error(error: dict[str, Any]) -> str:
    if error["mean"] is None:
        return ""
    return f"forecasts were off by {100 * error['mean']:.0f} % on average of {len(error['timesteps'])} timesteps\n"


def _steered(status: dict[str, Any]) -> str:
    lines = [
        f"retired: {each['samples']} samples ({each['reason']}); timesteps that trained on some: "
        f"{', '.join(map(str, each['trained_on'])) or 'none'}; last clean adapter: timestep {each['clean']}\n"
        for each in status["retired"]
    ]
    if origin := status["origin"]:
        lines.append(f"forked from timestep {origin['timestep']} of {origin['folder']}\n")
    return "".join(lines)


def _guard(guard: dict[str, Any] | None) -> str:
    if guard is None:
        return ""
    retried = f" after {guard['retried']} retries" if guard["retried"] else ""
    return f"guard: {guard['action'] or 'holds'}{retried}, {guard['told']}\n"
