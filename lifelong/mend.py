"""What a user may change to get a training past the point at which it could not go on."""

from __future__ import annotations

from lifelong.config import RunConfig

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
