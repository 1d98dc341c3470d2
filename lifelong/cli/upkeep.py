"""`lifelong fsck` and `lifelong gc`: damage is found, named and mended; garbage is removed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lifelong.cli.options import AsJson, Quiet, RunFolder, progress_for, say


def fsck(
    run: RunFolder,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what can be made again.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check every value and file of a run against what was committed. Exit code 3 if something is damaged."""
    from lifelong.errors import RunError
    from lifelong.upkeep.fsck import examine
    from stores.errors import StoreError

    _require_run(run)
    try:
        if repair:
            from lifelong.upkeep.repair import repair as mend

            with progress_for(quiet) as progress:
                for each in mend(run, progress):
                    word = "repaired" if each.done else "not repaired"
                    print(json.dumps(asdict(each)) if as_json else f"{word}: {run / each.path}: {each.told}")
        problems = examine(run)
    except StoreError as error:
        raise RunError(str(error)) from error
    for problem in problems:
        print(json.dumps(asdict(problem)) if as_json else f"{problem.kind}: {problem.message}")
    damaged = sum(problem.kind == "damaged" for problem in problems)
    if damaged:
        raise RunError(f"{damaged} files of {run} are damaged")
    say(f"no file of {run} is damaged")


def gc(
    run: RunFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nothing needs: leftovers, images of pruned samples, and what the section `keep` lets go."""
    from lifelong.run import Run

    freed = Run.open(run).gc(dry_run=dry_run)
    for each in freed:
        print(json.dumps(asdict(each)) if as_json else f"{each.path}: {each.why} ({each.bytes} bytes)")
    total = sum(each.bytes for each in freed) / 1e6
    say(f"{'would remove' if dry_run else 'removed'} {len(freed)} things, {total:.1f} MB")


def _require_run(run: Path) -> None:
    """Raises: RunError if the folder holds no run, nor the copy of a run's database."""
    from lifelong.context import DATABASE
    from lifelong.errors import RunError
    from stores.backup import BACKUP

    if not (run / DATABASE).is_file() and not (run / BACKUP).is_file():
        raise RunError(f"{run} holds no run (no {DATABASE} in it); make one with `lifelong init {run}`")
