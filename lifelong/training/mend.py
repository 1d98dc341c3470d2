"""What a user may change to get a training past the point at which it could not go on."""

from __future__ import annotations

from typing import Any

from lifelong.config import RunConfig, parse_config

MENDABLE = {
    "train": (
        "learning_rate",
        "schedule",
        "warmup",
        "weight_decay",
        "max_grad_norm",
        "accumulate",
        "checkpoint_steps",
        "workers",
    ),
    "model": ("device", "gradient_checkpointing"),
}
"""Fields by section on which nothing depends that a timestep has done before it trains."""


def mended(config: RunConfig, given: RunConfig) -> RunConfig:
    """The configuration of a timestep under way, with what is MENDABLE as it is now given."""
    sections = {
        section: getattr(config, section).model_copy(
            update={name: getattr(getattr(given, section), name) for name in names}
        )
        for section, names in MENDABLE.items()
    }
    return config.model_copy(update=sections)


def moved(config: RunConfig, given: RunConfig) -> RunConfig:
    """The configuration of a timestep under way, with its work done where it is now said: nothing depends on it."""
    return config.model_copy(update={"engine": given.engine, "cluster": given.cluster})


def elsewhere(config: RunConfig, where: dict[str, Any]) -> RunConfig:
    """The configuration with `engine` and fields of `cluster` changed; None: as it is.

    Raises: UsageError naming what is wrong.
    """
    cluster = {name: value for name, value in where.get("cluster", {}).items() if value is not None}
    engine = where.get("engine") or config.engine
    if not cluster and engine == config.engine:
        return config
    values = config.model_dump(mode="json")
    return parse_config({**values, "engine": engine, "cluster": values["cluster"] | cluster}, "--engine")
