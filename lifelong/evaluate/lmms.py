"""lmms-eval as an external evaluator: an eval set of its own, named `metric: lmms_eval:TASK` in a stream or a feed.

The model under test is written as a merged one, `lmms-eval` is run on it, and accuracy, standard error and number of
samples are read from its results file. Written against lmms-eval 0.7 (`evaluator_utils.consolidate_results`,
`EvaluationTracker.save_results_aggregated`):

    OUTPUT/MODEL/DATE_results.json
    {"results": {"TASK": {"alias": …, "exact_match,none": 0.61, "exact_match_stderr,none": 0.02 or "N/A",
                          "exact_match_stderr_clt,none": …, "samples": 500}},
     "n-samples": {"TASK": {"original": 5000, "effective": 500}}, "group_subtasks": {…}, "higher_is_better": {…}}

The tests stub the command by a script that leaves such a file: no lmms-eval is run in them. It ends with 0 even after
an error of its own, so a missing file, not the exit code, tells of one.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.config import LmmsEvalConfig
from lifelong.errors import InputError

PREFIX = "lmms_eval:"
TAIL = 12
"""Lines of its output that an error repeats."""


@dataclass(frozen=True, slots=True)
class Score:
    """value in [0, 1], its standard error (NaN if lmms-eval gives none), number of samples."""

    value: float
    stderr: float
    n: int


def is_external(metric: str) -> bool:
    """Whether lmms-eval measures it."""
    return metric.startswith(PREFIX)


def task_of(metric: str) -> str:
    """The task in `lmms_eval:TASK`. Raises: InputError if there is none."""
    task = metric.removeprefix(PREFIX).strip()
    if not task or "," in task:
        raise InputError(
            f"metric {metric!r} names no task; write lmms_eval:TASK, as `lmms-eval --tasks list` has it"
        )
    return task


def require(config: LmmsEvalConfig) -> list[str]:
    """The command's words. Raises: InputError if it is not installed."""
    words = shlex.split(config.command)
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"lmms-eval is not installed (no command {config.command!r}): pip install lmms-eval, in an environment of "
            "its own if need be, and set lmms_eval.command in the run's config.yaml"
        )
    return words


def evaluate(
    model: Path, tasks: Sequence[str], config: LmmsEvalConfig, work: Path, limit: int = 0
) -> dict[str, Score]:
    """Run lmms-eval on a model folder; task → score. work: an empty folder for what it writes; limit: samples a task.

    Raises:
        InputError: it is not installed, or has left no usable score of a task.
    """
    arguments = ",".join([f"pretrained={model}", *([config.model_args] if config.model_args else [])])
    command = [*require(config), "--model", config.model, "--model_args", arguments]
    command += [
        "--tasks",
        ",".join(tasks),
        "--batch_size",
        str(config.batch_size),
        "--output_path",
        str(work),
    ]
    command += ["--limit", str(limit)] if limit else []
    command += shlex.split(config.arguments)
    with (work / "output.txt").open("w+", encoding="utf-8", errors="replace") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        output.seek(0)
        said = [line.rstrip() for line in output.readlines()[-TAIL:]]
    found = sorted(work.rglob("*_results.json"))
    if ended or not found:
        raise InputError(
            f"lmms-eval left no results (exit code {ended}): {shlex.join(command)}\n" + "\n".join(said)
        )
    results = json.loads(found[-1].read_text(encoding="utf-8"))
    return {task: read_score(results, task, config) for task in tasks}


def read_score(results: Mapping[str, Any], task: str, config: LmmsEvalConfig) -> Score:
    """The score of one task, or of a group of tasks.

    Raises:
        InputError: the task or its metric is not there, less of it is better, or it is no share of full marks.
    """
    values = results.get("results", {}).get(task) or results.get("groups", {}).get(task)
    if not values:
        raise InputError(
            f"lmms-eval has no result of task {task!r}; it has {', '.join(results.get('results', {}))}"
        )
    numbers = {
        key: float(value)
        for key, value in values.items()
        if "," in key and "_stderr" not in key and isinstance(value, (int, float)) and math.isfinite(value)
    }
    wanted = config.metric.get(task, "")
    key = next((key for key in numbers if not wanted or wanted in (key, key.partition(",")[0])), None)
    if key is None:
        raise InputError(
            f"lmms-eval has no metric {wanted!r} of task {task}; set lmms_eval.metric in config.yaml to one of "
            f"{', '.join(numbers) or 'none'}"
        )
    name, _, kept = key.partition(",")
    if results.get("higher_is_better", {}).get(task, {}).get(name) is False:
        raise InputError(
            f"lmms-eval's {key} of task {task} is better the lower it is; set lmms_eval.metric to another of "
            f"{', '.join(numbers)}"
        )
    full = config.full_marks.get(task, 1.0)
    value = numbers[key] / full
    if not 0 <= value <= 1:
        raise InputError(
            f"lmms-eval's {key} of task {task} is {numbers[key]}, no share of {full:g}; set lmms_eval.full_marks in "
            f"config.yaml to what full marks are, such as {{{task}: 100}}"
        )
    spread = (values.get(f"{name}_{kind},{kept}") for kind in ("stderr", "stderr_clt"))
    stderr = next((float(each) for each in spread if isinstance(each, (int, float))), math.nan)
    return Score(value, stderr / full, _samples(results, task))


def _samples(results: Mapping[str, Any], task: str) -> int:
    """Samples that were asked; those of its subtasks where it is a group."""
    counted = results.get("n-samples", {}).get(task)
    if counted is not None:
        return int(counted["effective"])
    subtasks = results.get("group_subtasks", {}).get(task) or []
    if subtasks:
        return sum(_samples(results, each) for each in subtasks)
    return int(results["results"][task].get("samples") or 1)
