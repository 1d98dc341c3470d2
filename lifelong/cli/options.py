"""What several commands share: their options, and how they speak to the reader."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong.errors import EXIT_DONE

_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
AllowDrift = Annotated[
    bool,
    typer.Option(
        "--allow-drift", help="Go on although the model, or a library that computes, is not what it was."
    ),
]
Images = Annotated[Path | None, typer.Option(help="Folder that image names are relative to.")]
Format = Annotated[
    str | None,
    typer.Option(
        help="llava, sharegpt, jsonl, parquet, webdataset, huggingface; told from the content if left out."
    ),
]
EvalImages = Annotated[
    Path | None,
    typer.Option(help="Folder that the eval set's image names are relative to; default: --images."),
]
EvalFormat = Annotated[str | None, typer.Option(help="Format of the eval set; default: --format, or told.")]
DatasetPath = Annotated[
    str, typer.Argument(metavar="DATASET", help="File, folder, pattern like a-{000..003}.tar, or hub name.")
]
Engine = Annotated[
    str | None,
    typer.Option(help="local, ray or accelerate: where the work runs. Default: as config.yaml says."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster: auto, or ray://host:10001. Default: a Ray of this machine.")
]
Workers = Annotated[int | None, typer.Option(help="Ray actors that hold the model.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the configuration.")
]


def progress_for(quiet: bool) -> Any:
    """A context manager that gives the progress to show."""
    from lifelong.progress import for_terminal

    return for_terminal(quiet)


def say(text: str) -> None:
    """A line for the reader that is not the command's output."""
    print(text, file=sys.stderr, flush=True)


def open_run(run: Path, progress: Any = None) -> Any:
    """The run in a folder. Raises: RunError if there is none."""
    from lifelong.run import Run

    return Run.open(run, progress)


def print_json(value: Any) -> None:
    """A value as the command's output."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    print_text(text if _printable(text) == text else json.dumps(value, indent=2))


def _printable(text: str) -> str:
    """The text, with escapes for what a terminal would act on, and for what the output's encoding does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.translate(_CONTROLS).encode(encoding, "backslashreplace").decode(encoding)


def print_text(text: str) -> None:
    """A line or more of the command's output."""
    try:
        print(_printable(text), flush=True)
    except BrokenPipeError:
        # The reader (head, less) has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_DONE) from None
