"""The whole configuration of a run: one pydantic model, every field with its unit and default."""

from __future__ import annotations

import re
from copy import deepcopy
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lifelong.errors import UsageError

SELECTOR = "selector"
"""Option of a fitted expert: the folder that it was saved in, as in experts.ofa.selector."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class ModelConfig(_Section):
    """The vision-language model that the run keeps teaching."""

    path: str = ""
    """A local folder or a hub name that AutoModelForImageTextToText and AutoProcessor load."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights; auto: as saved."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    attention: str = "sdpa"
    """Attention implementation of transformers: sdpa, eager, flash_attention_2."""
    max_length: int = 0
    """Longest sample in tokens; longer ones are quarantined with the reason. 0: as the model says."""
    gradient_checkpointing: bool = False
    """Recompute activations while training: less memory, more time."""
    deterministic: bool = True
    """On a GPU, take algorithms that give the same bits at every run where there are such; they cost a little."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you know its author."""


class LoraConfig(_Section):
    """The adapter that is trained (peft LoRA)."""

    rank: int = Field(16, ge=1)
    """Rank of the update matrices."""
    alpha: float = Field(32, gt=0)
    """Scale numerator: the update is multiplied by alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    targets: tuple[str, ...] = ()
    """Names of linear layers to adapt, such as q_proj; empty: every linear layer of the language model."""
    trained: tuple[str, ...] = ()
    """Modules trained in full and kept beside the adapter (peft modules_to_save), such as multi_modal_projector."""


class PoolConfig(_Section):
    """What is held of the data."""

    media: Literal["copy", "reference"] = "copy"
    """copy: images go into the run folder; reference: images stay where they are and must not change."""
    keep: int = Field(0, ge=0)
    """Samples that the pool may hold after a timestep; the pruner lets the rest go for good. 0: no limit."""


class KeepConfig(_Section):
    """What a run keeps of finished timesteps; applied at the end of each, and by `lifelong gc`."""

    checkpoints: int = Field(0, ge=0)
    """Last timesteps whose adapters are kept; the untrained one always is. 0: all."""
    signals: int = Field(0, ge=0)
    """Last timesteps whose signals are kept; without them, damage to what they led to cannot be mended. 0: all."""


def _refresh(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"all|new|stale\(\d+\)", value.strip()):
        return value.strip()
    raise ValueError(f"{value!r} is none of: all, new, stale(k) with a number of timesteps, as in stale(3)")


def _paths(value: Any) -> Any:
    return (value,) if isinstance(value, str) and value else value or ()


class MeasureConfig(_Section):
    """Reading the signals of every sample from the model."""

    batch_size: int = Field(16, ge=1)
    """Samples a forward + backward."""
    shard_size: int = Field(512, ge=1)
    """Samples a shard: the unit that an interrupted measure phase loses at most."""
    trajectory: int = Field(0, ge=0)
    """Checkpoints that training keeps for XMAS trajectories; each costs a forward over the pool. 0: none."""
    refresh: Annotated[str, BeforeValidator(_refresh)] = "all"
    """Samples measured in a timestep: all; new, those without signals; stale(k), also those measured over k before."""
    vector_dtype: Literal["float16", "float32"] = "float16"
    """How signals of many columns are stored; a shard with values beyond float16's 65,504 is in float32."""
    validation: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    """Datasets that the influence expert (LESS) compares samples with: a path, or one for each task."""
    validation_images: str = ""
    """Folder that the image names of those datasets are relative to. Empty: as they lie."""
    validation_of_evals: bool = False
    """Allow samples of the run's own eval sets in them; its curves then flatter what was chosen by them."""


def _budget(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}|\d{1,18}(\.\d{1,18})?%", value.strip()):
        text = value.strip()
        if float(text.rstrip("%")) > 0 and not (text.endswith("%") and float(text[:-1]) > 100):
            return text
    raise ValueError(f"{value!r} is not a budget: write a number of samples (2000) or a share (15%)")


Budget = Annotated[str, BeforeValidator(_budget)]


def budget_of(budget: str, total: int) -> int:
    """Samples that a budget asks for: a count as it is, a share of `total` rounded half up."""
    if budget.endswith("%"):
        # In fractions: 250 × 64.6 % is 161.5, and a float would fall short of the half.
        return floor(total * Fraction(budget[:-1]) / 100 + Fraction(1, 2))
    return int(budget)


class TrainConfig(_Section):
    """Training on the selection."""

    budget: Budget = "25%"
    """Samples trained on in a timestep: a count, or a share of the samples that arrived in it."""
    epochs: int = Field(1, ge=1)
    """Passes over the selection."""
    batch_size: int = Field(8, ge=1)
    """Samples a forward + backward."""
    accumulate: int = Field(1, ge=1)
    """Batches an optimiser step."""
    parts: int = Field(1, ge=1)
    """Parts of a batch that are computed apart: so many workers that share a training then give the bits of one."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate (AdamW)."""
    schedule: str = "cosine"
    """Learning-rate schedule of transformers: cosine, linear, constant, constant_with_warmup."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    checkpoint_steps: int = Field(200, ge=0)
    """Optimiser steps between two states of training on disk, from which a stopped one goes on. 0: none."""
    workers: int = Field(0, ge=0)
    """Processes that read and prepare batches while the model trains. 0: the one that trains."""


class EvaluateConfig(_Section):
    """Testing every skill after every timestep."""

    batch_size: int = Field(16, ge=1)
    """Samples a batch; best left alone for the run's life, since it can move the last digit of a likelihood."""
    limit: int = Field(0, ge=0)
    """At most this many samples of each skill's eval set, the first ones. 0: all."""


class LmmsEvalConfig(_Section):
    """How `metric: lmms_eval:TASK` is measured; read anew for every test, so that it may be mended at any time."""

    command: str = "lmms-eval"
    """The command; with its path where it lives in an environment of its own."""
    model: str = "huggingface"
    """Its model class (`--model`), such as llava_hf or qwen2_5_vl; it is given the merged model as `pretrained`."""
    model_args: str = ""
    """Further `--model_args`, such as device_map=cuda."""
    batch_size: int = Field(1, ge=1)
    """Samples a batch."""
    arguments: str = ""
    """Further arguments of the command, such as --apply_chat_template."""
    metric: dict[str, str] = {}
    """Which metric of a task counts, for example {ai2d: exact_match}; the first it reports where none is named."""
    full_marks: dict[str, float] = {}
    """Full marks of a task whose score is not in [0, 1], for example {mme: 2000}."""


class GuardConfig(_Section):
    """Skills that no timestep may harm; judged after each one, beyond the noise of the eval sets (docs/steer.md)."""

    protect: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    """Skills that must not be forgotten; empty: every skill that was tested before."""
    max_forgetting: float | None = Field(None, ge=0, le=1)
    """Largest forgetting allowed, best earlier accuracy minus the present one, a share of 1. null: no such guard."""
    min_average: float | None = Field(None, ge=0, le=1)
    """Least average accuracy over the skills seen so far, a share of 1. null: no such guard."""
    test: Literal["paired", "z"] = "paired"
    """paired: the same eval items before and after, smoothed, largest statistic by bootstrap; z: means and errors."""
    level: float = Field(0.05, gt=0, lt=0.5)
    """How often a timestep that harms nothing may trip the guard, all its comparisons together."""
    action: Literal["stop", "rollback", "retry"] = "stop"
    """stop: end, and feed nothing until `lifelong rollback` or `lifelong accept`; rollback; retry with more replay."""
    retries: int = Field(2, ge=1)
    """How many times `retry` trains again before it stops."""
    replay: float = Field(0.25, gt=0, le=1)
    """Share of the budget that each retry gives to old samples of the harmed skills' clusters, over the one before."""


class EncoderConfig(_Section):
    """The frozen encoder behind `vectors encoded` and the OFA expert."""

    kind: Literal["none", "clip", "siglip", "conse"] = "none"
    """clip or siglip of transformers; conse: put together from parts that pip installs; none: no encoder."""
    path: str = "openai/clip-vit-base-patch32"
    """Local folder or hub name of a clip or siglip."""
    batch_size: int = Field(32, ge=1)
    """Samples a forward."""
    cache: str = ""
    """Folder for features that depend on content alone, to share between runs. Empty: in the run."""


class RaterConfig(_Section):
    """The rater behind the mmSSR expert: capabilities and interaction styles of every sample."""

    model: str = ""
    """Folder of a rater that `lifelong mmssr tune` left."""
    ratings: str = ""
    """A JSON Lines file of ratings, instead of a model; lifelong/raters/ratings.py says what its lines are."""
    batch_size: int = Field(8, ge=1)
    """Samples a forward."""


class ClusterConfig(_Section):
    """What `engine: ray` runs on. Nothing here changes what a run gives."""

    address: str = ""
    """Address of the Ray cluster: auto, or ray://host:10001. Empty: a Ray of this machine, for the run's time."""
    workers: int = Field(2, ge=1)
    """Actors that each hold the model, and processes that share a training."""
    cpus: float = Field(1, gt=0)
    """CPUs of a worker, by which Ray places it."""
    gpus: float = Field(0, ge=0)
    """GPUs of a worker."""
    retries: int = Field(3, ge=0)
    """How often a piece of work, or a training, is tried again after its worker died."""
    exchange: str = ""
    """URL (file, s3, gs) through which files reach workers and come back. Empty: all reach the run folder's path."""


def _names(value: Any) -> Any:
    names = (value,) if isinstance(value, str) else tuple(value or ())
    return tuple(name for name in names if name != "none")


Trackers = Annotated[
    tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...], BeforeValidator(_names)
]


class RunConfig(_Section):
    """Everything that decides what a run does."""

    seed: int = 0
    """The run seed: every random draw derives from (this, timestep, phase, purpose)."""
    recipe: str | dict[str, str] = "adapt-average"
    """A recipe's name (`lifelong methods`), or a word per slot: {recipe: adapt-inf, sample: top}."""
    engine: Literal["local", "ray", "accelerate"] = "local"
    """Where the work runs: local, in this process; ray, on a cluster; accelerate, in the processes of a launcher."""
    cluster: ClusterConfig = ClusterConfig()
    report_to: Trackers = ()
    """Trackers that show the run: tensorboard, mlflow, wandb, trackio, or a list of them. none: no tracker."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    pool: PoolConfig = PoolConfig()
    keep: KeepConfig = KeepConfig()
    measure: MeasureConfig = MeasureConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    lmms_eval: LmmsEvalConfig = LmmsEvalConfig()
    guard: GuardConfig = GuardConfig()
    encoder: EncoderConfig = EncoderConfig()
    rater: RaterConfig = RaterConfig()
    experts: dict[str, dict[str, int | float | bool | str]] = {}
    """Options of experts by name, for example {ofa: {selector: path/to/selector}}."""


def parse_config(values: dict[str, Any], where: str = "the configuration") -> RunConfig:
    """A validated configuration.

    Raises:
        UsageError: naming each field that is unknown or wrong, and `where`.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {_fault(fault)}" for fault in error.errors()
        ]
        raise UsageError(f"{where}: " + "; ".join(faults)) from error


def _fault(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "no such field"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{fault['msg']} (got {fault['input']!r})"


def parse_settings(settings: list[str], given: dict[str, Any] | None = None) -> RunConfig:
    """A configuration from its defaults and lines like `train.epochs=2`.

    given: fields by sections that have a value already, such as those with an option of their own.

    Raises:
        UsageError: a line is no FIELD=VALUE, or a field is unknown or wrong.
    """
    import yaml

    values = deepcopy(given or {})
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write FIELD=VALUE, for example train.epochs=2")
        place = values
        *sections, field = name.strip().split(".")
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UsageError(
                    f"--set {setting}: {section} is {place!r}, which has no fields; "
                    "set it whole, as in 'recipe={recipe: adapt-inf, sample: top}'"
                )
        try:
            place[field] = yaml.safe_load(text) if text.strip() else ""
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise UsageError(f"--set {setting}: no value in YAML ({why}); put quotes around a text") from None
    return parse_config(values, "the command line")


def read_config(path: Path) -> RunConfig:
    """The configuration in a YAML file."""
    import yaml

    from lifelong.plainyaml import read_yaml

    try:
        values = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no fields; write one with `lifelong init`")
    return parse_config(values, str(path))


def commented_yaml(config: RunConfig) -> str:
    """The configuration as YAML with every field's meaning above it."""
    lines = ["# The configuration of a lifelong run. A change takes effect with the next timestep."]
    for name, field in RunConfig.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            lines += ["", f"# {type(value).__doc__}", f"{name}:"]
            for inner, inner_field in type(value).model_fields.items():
                lines += _yaml_lines(inner, getattr(value, inner), inner_field.description, "  ")
        else:
            lines += _yaml_lines(name, value, field.description, "")
    return "\n".join(lines) + "\n"


def _yaml_lines(name: str, value: Any, description: str | None, indent: str) -> list[str]:
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    # In a flow list even a scalar is written without YAML's document markers.
    text = yaml.safe_dump([plain], default_flow_style=True, width=10_000, allow_unicode=True).strip()[1:-1]
    return [f"{indent}# {description}", f"{indent}{name}: {text}"]
