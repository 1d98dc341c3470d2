"""Commands that steer a run: `plan`, `fork`, `rollback`, `accept`, `retire`, `diff`, `watch`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import (
    AsJson,
    DatasetPath,
    EvalFormat,
    EvalImages,
    Format,
    Images,
    Quiet,
    RunFolder,
    open_run,
    print_json,
    print_text,
    progress_for,
    say,
)


def plan(
    run: RunFolder,
    dataset: DatasetPath,
    images: Images = None,
    eval: Annotated[Path | None, typer.Option(help="Eval set of the dataset's skill.")] = None,
    eval_images: EvalImages = None,
    eval_format: EvalFormat = None,
    skill: Annotated[str | None, typer.Option(help="Skill of the dataset; default: the name.")] = None,
    format: Format = None,
    as_json: AsJson = False,
) -> None:
    """What a dataset would bring and take, before anything is written."""
    from lifelong.steer.plan import tell

    found = open_run(run).plan(
        dataset,
        images=images,
        eval=eval,
        skill=skill,
        format=format,
        eval_images=eval_images,
        eval_format=eval_format,
    )
    print_json(found) if as_json else print_text(tell(found))


def fork(
    run: RunFolder,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the new run.")],
    at: Annotated[
        int | None, typer.Option(help="Timestep to begin after; default: the last finished.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe, or a recipe file, of the new run; default: the run's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Another run that begins where this one stood after a timestep; files are shared by links."""
    made = open_run(run).fork(new, at, recipe=recipe)
    if as_json:
        print_json(asdict(made))
        return
    for note in made.notes:
        say(f"note: {note}")
    copied = f", {made.copied} copied" if made.copied else ""
    say(
        f"{new} is {run} as timestep {made.at} left it: {made.linked} files linked{copied}, {made.bytes / 1e3:.0f} kB "
        f"written in {made.seconds:.1f} s"
    )


def rollback(
    run: RunFolder,
    to: Annotated[int | None, typer.Option(help="Timestep after which the run stood as it shall.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last rollback back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the run again what it was after a timestep; nothing is deleted until `lifelong gc`."""
    if (to is None) == (not undo):
        raise typer.BadParameter("say where to, --to T, or --undo")
    opened = open_run(run)
    done = opened.bring_back() if to is None else opened.rollback(to)
    if as_json:
        print_json(asdict(done))
        return
    for note in done.notes:
        say(f"note: {note}")
    told = ", ".join(done.datasets) or "none was taken in yet"
    if undo:
        say(f"{run} is at timestep {done.before} again, with {told}")
    else:
        say(
            f"{run} is as timestep {done.to} left it; taken back: {told}. `lifelong rollback {run} --undo` brings it "
            "back until something is fed, `lifelong gc` lets it go"
        )


def retire(
    run: RunFolder,
    reason: Annotated[str, typer.Option(help="Why: it stays on record with the ids.")],
    dataset: Annotated[str | None, typer.Option(help="All samples of this dataset.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="A sample id; may be given again.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition, e.g. \"text LIKE '%Jane Doe%'\"; columns as in the pool."),
    ] = None,
    rebuild: Annotated[
        Path | None,
        typer.Option(metavar="NEW", help="Then make a clean run: fork, and feed again what came after."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Let data go for good: out of pool, images, signals and exports; there is no way back."""
    from lifelong.errors import UsageError
    from lifelong.steer.retire import find, lineage, tell
    from lifelong.steer.retire import rebuild as make_clean

    if dataset is None and not sample and where is None:
        raise typer.BadParameter("say which: --dataset, --sample or --where")
    if rebuild is not None and rebuild.exists():
        raise UsageError(f"{rebuild} is there already; name a new folder for the clean run")
    with progress_for(quiet) as progress:
        opened = open_run(run, progress)
        if dry_run:
            with opened.reading() as stores:
                found = find(stores, dataset=dataset, samples=sample or [], where=where)
                trained, _ = lineage(stores, found)
            print_text(
                f"{len(found)} samples would be retired; timesteps that trained on some: {trained or 'none'}"
            )
            return
        done = opened.retire(reason, dataset=dataset, samples=sample or [], where=where)
        print_json(asdict(done)) if as_json else print_text(tell(done, run))
        if rebuild is not None:
            fed = make_clean(opened, rebuild, done.clean)
            again = f", and then {', '.join(fed)} again" if fed else ""
            say(f"{rebuild} has learned nothing of them: timestep {done.clean} of {run}{again}")


def accept(run: RunFolder) -> None:
    """Let a run go on from what a guard stopped at; later timesteps are compared with this one."""
    verdict = open_run(run).accept()
    say(f"timestep {verdict.timestep} of {run} is accepted: {verdict.told()}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN, or RUN@T for a timestep of it.")],
    b: Annotated[str, typer.Argument(metavar="B", help="RUN, or RUN@T; or @T for another timestep of A.")],
    as_json: AsJson = False,
) -> None:
    """Two timesteps or two runs: configuration, recipe, selection, routing, and skills with significance."""
    from lifelong.steer.diff import diff as compare
    from lifelong.steer.diff import tell

    found = compare(a, b)
    print_json(found) if as_json else print_text(tell(found))


def watch(
    run: RunFolder,
    inbox: Annotated[Path, typer.Argument(metavar="INBOX", help="Folder that datasets are dropped into.")],
    settle: Annotated[float, typer.Option(help="Seconds for which a dataset must not change first.")] = 10.0,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    ready: Annotated[
        bool, typer.Option("--ready", help="Take only what has a file NAME.ready beside it.")
    ] = False,
    on_event: Annotated[
        str, typer.Option(help="Shell command on done, refused, guard: facts in LIFELONG_*, JSON on stdin.")
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="End when the inbox is empty.")] = False,
    quiet: Quiet = False,
) -> None:
    """Feed what is dropped into a folder, in order of arrival; what is refused is set aside with a report."""
    from lifelong.interrupt import ends_as_interrupt
    from lifelong.steer.inbox import Inbox
    from lifelong.steer.watch import Watch

    with progress_for(quiet) as progress, ends_as_interrupt():
        opened = open_run(run, progress)
        count = Watch(opened, Inbox(inbox, settle, ready), on_event, every).go(once=once)
    say(f"{count} datasets taken from {inbox}")
