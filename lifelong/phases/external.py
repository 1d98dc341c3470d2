"""Skills that an external evaluator tests: the model is written out for it, and taken away again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifelong.config import read_config
from lifelong.context import Context
from lifelong.evaluate.lmms import Score, evaluate, require, task_of
from lifelong.export.merge import write_merged
from stores.evals import Skill

FOLDER = "external"
"""Where the model and what the evaluator writes are kept while it runs; what a killed process left there is removed."""


def externally(
    context: Context, cells: Sequence[tuple[int, Skill]], adapters: Mapping[int, Path]
) -> dict[tuple[int, str], Score]:
    """(timestep, skill) → score, one run of the evaluator for each timestep's adapter.

    Raises:
        InputError: it is not installed, or has left no usable score.
    """
    work = context.root / FOLDER
    shutil.rmtree(work, ignore_errors=True)
    if not cells:
        return {}
    # As the file has it now: what is wrong with it shows only here, when the timestep is under way.
    config = read_config(context.root / "config.yaml").lmms_eval
    require(config)
    found: dict[tuple[int, str], Score] = {}
    try:
        for timestep in sorted({timestep for timestep, _ in cells}):
            skills = [skill for after, skill in cells if after == timestep]
            tasks = {skill.name: task_of(skill.metric) for skill in skills}
            context.progress.say(f"  lmms-eval: {', '.join(tasks.values())} after timestep {timestep}")
            model, output = work / "model", work / f"output-{timestep:04d}"
            output.mkdir(parents=True)
            write_merged(context.config.model, adapters[timestep], model)
            scores = evaluate(
                model, list(dict.fromkeys(tasks.values())), config, output, context.config.evaluate.limit
            )
            shutil.rmtree(model)
            found |= {(timestep, name): scores[task] for name, task in tasks.items()}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found
