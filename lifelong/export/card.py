"""Cards of a run for the Hub: README.md with a YAML header, and where everything came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lifelong.account.curves import FORMULAS, Curves, percent
from lifelong.config import RunConfig, parse_config
from lifelong.context import Stores
from lifelong.environment import versions
from lifelong.recipes.method import called
from lifelong.recorded import config_of
from policies.grammar import SLOTS
from stores.clock import day

What = Literal["model", "data"]
CARD = "README.md"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCES = {
    **{name: name for name in ("mit", "apache-2.0", "gpl-3.0", "odbl", "unlicense", "cc0-1.0")},
    **{name: name for name in ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-3.0")},
}
"""Identifiers of the Hub for licences as datasets name them, in lower case."""


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset as it was fed. licence, origin: in its own words, empty where the stream did not say."""

    name: str
    skill: str
    timestep: int
    rows: int
    accepted: int
    licence: str
    origin: str


def card(
    stores: Stores,
    curves: Curves,
    config: RunConfig,
    what: What,
    timestep: int | None = None,
    name: str = "run",
) -> str:
    """A model card (of the adapter after a timestep) or a dataset card (of its selection; None: of the live pool).

    config: where a timestep's own is not on record. name: of the run.
    """
    last = stores.ledger.last_timestep() or 0
    until = last if timestep is None else timestep
    found = sources(stores, until)
    body = [
        _introduction(what, name, until, timestep, config),
        _use(what, config),
        "## Sources\n\n" + _sources_table(found),
        "## Recipe and budgets\n\n" + _timesteps_table(stores, config, until),
        "## What each skill gained and forgot\n\n" + _curves_table(curves, until),
        "## Versions\n\n" + ", ".join(f"{name} {value}" for name, value in versions().items() if value),
    ]
    header = _model_header(curves, config, until, name) if what == "model" else _data_header(stores, found)
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n"


def sources(stores: Stores, until: int) -> list[Source]:
    """The datasets that arrived up to a timestep, in order."""
    found = []
    for dataset in stores.pool.datasets():
        if dataset.timestep <= until:
            record = stores.ledger.phase(dataset.timestep, "ingest")
            feed: dict[str, Any] = record.result["feed"] if record else {}
            notes = [feed.get(note) or "" for note in ("licence", "origin")]
            found.append(
                Source(dataset.name, dataset.skill, dataset.timestep, dataset.rows, dataset.accepted, *notes)
            )
    return found


def _model_header(curves: Curves, config: RunConfig, until: int, name: str) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=skill,
            dataset_name=skill,
            metric_type=curves.metrics[skill],
            metric_value=round(float(curves.R[until, place]), 6),
        )
        for place, skill in enumerate(curves.skills)
        if until < len(curves.R) and curves.n[until, place]
    ]
    return ModelCardData(
        model_name=name,
        base_model=_hub_name(config),
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=["lifelong", "continual-learning", "lora"],
        eval_results=results or None,
    )


def _data_header(stores: Stores, found: list[Source]) -> Any:
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        license=_common_licence(found),
        task_categories=["image-text-to-text"],
        tags=["lifelong", "data-selection", "instruction-tuning"],
        pretty_name="Selection of a lifelong run",
    )


def _common_licence(found: list[Source]) -> str | None:
    """The Hub's identifier of the one licence that all sources have; None where they differ or one is not known."""
    licences = {_LICENCES.get(source.licence.lower()) for source in found}
    return licences.pop() if len(licences) == 1 else None


def _hub_name(config: RunConfig) -> str | None:
    """The base model's name on the Hub; a folder of this machine is nobody else's business."""
    path = config.model.path
    return path if _HUB_NAME.fullmatch(path) and not Path(path).exists() else None


def _introduction(what: What, name: str, until: int, timestep: int | None, config: RunConfig) -> str:
    recipe = _recipe(config.recipe)
    if what == "model":
        return (
            f"# {name}\n\nA LoRA adapter of `{Path(config.model.path).name}` after timestep {until} of a lifelong run "
            f"(recipe `{recipe}`, seed {config.seed}): it was trained on datasets one after another, on what was "
            "selected of each and of those before."
        )
    held = (
        f"The samples that a lifelong run selected at timestep {timestep}, in the order of training"
        if timestep is not None
        else f"The samples that a lifelong run holds after timestep {until}"
    )
    return f"# {name}\n\n{held} (recipe `{recipe}`, seed {config.seed}): conversations with their images."


def _use(what: What, config: RunConfig) -> str:
    if what == "model":
        return (
            "## Use\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n"
            f'base = AutoModelForImageTextToText.from_pretrained("{_hub_name(config) or "path/of/the/base/model"}")\n'
            'model = PeftModel.from_pretrained(base, "path/of/this/folder")\n```'
        )
    return (
        "## Use\n\nEach row is a conversation (`messages`) with its images, in the order in which they are shown. "
        "The Parquet files load with `datasets.load_dataset`; the file of format `trl` is what TRL's SFTTrainer takes."
    )


def _sources_table(found: list[Source]) -> str:
    lines = [
        "| timestep | dataset | skill | rows | used | licence | origin |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        cells = [each.timestep, each.name, each.skill, each.rows, each.accepted]
        cells += [each.licence or "not stated", each.origin or "not stated"]
        lines.append("| " + " | ".join(_cell(str(cell)) for cell in cells) + " |")
    licences = "\n\nThe licences are those that the stream states; check them before you pass the data on."
    return "\n".join(lines) + licences


def _timesteps_table(stores: Stores, config: RunConfig, until: int) -> str:
    lines = [
        "| timestep | finished | recipe | budget | selected | of it new | steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for timestep in range(1, until + 1):
        used = config_of(stores, timestep) or parse_config(config.model_dump())
        records = stores.ledger.phases(timestep)
        results = {record.phase: record.result for record in records}
        if "select" not in results:
            continue
        recipe = _recipe(used.recipe)
        selected = results["select"]
        steps = results.get("train", {}).get("steps", "")
        finished = day(records[-1].finished) or "not on record"
        cells = [timestep, finished, recipe, used.train.budget, selected["selected"], selected["new"], steps]
        lines.append("| " + " | ".join(_cell(str(cell)) for cell in cells) + " |")
    return "\n".join(lines)


def _curves_table(curves: Curves, until: int) -> str:
    if not curves.skills:
        return "No skill was evaluated."
    lines = [
        "| timestep | " + " | ".join(map(_cell, curves.skills)) + " | average |",
        "|---" * (len(curves.skills) + 2) + "|",
    ]
    for timestep in range(min(until + 1, len(curves.R))):
        cells = [
            percent(value, stderr) + ("*" if timestep == first else "")
            for value, stderr, first in zip(
                curves.R[timestep], curves.stderr[timestep], curves.introduced, strict=True
            )
        ]
        lines.append(f"| {timestep} | {' | '.join(cells)} | {percent(curves.average_accuracy[timestep])} |")
    metrics = ", ".join(f"{skill}: {metric}" for skill, metric in curves.metrics.items())
    lines.append(f"\nIn %, ± standard error; * = after the skill's own data. Metrics: {metrics}.")
    lines.append(f"Average: {FORMULAS['average_accuracy']}.")
    return "\n".join(lines)


def _recipe(recipe: str | dict[str, str]) -> str:
    """Its name, and the words that were changed in it."""
    if isinstance(recipe, str):
        return recipe
    name, base = called(recipe), recipe.get("recipe")
    words = [f"{slot} {recipe[slot]}" for slot in SLOTS if slot in recipe]
    changed = [f"from {base}", *words] if base not in (None, name) else words
    return f"{name} ({', '.join(changed)})" if changed else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
