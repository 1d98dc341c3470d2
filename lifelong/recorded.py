"""What a run has on record of its configuration: the file for its user to edit, and that of each timestep."""

from __future__ import annotations

from pathlib import Path

from lifelong.config import RunConfig, commented_yaml, parse_config
from lifelong.context import Stores
from stores.commit import commit_bytes, publish

CONFIG = "config.yaml"
"""The configuration of the next timestep, for its user to edit."""
FEEDING = "feeding"
"""Key of the request that is under way: timestep, feed and configuration; null where none is."""


def write_config(root: Path, config: RunConfig) -> None:
    """Have the run's file hold this configuration, with a comment on every field."""
    publish(root, commit_bytes(root, ".", "config", ".yaml", commented_yaml(config).encode()), CONFIG)


def keep_config(stores: Stores, timestep: int, config: RunConfig) -> None:
    """Put the configuration of a timestep on record: by it, what the timestep left can be made again."""
    values = config.model_dump(mode="json")
    if stores.ledger.get_meta(_config_key(timestep)) != values:
        stores.ledger.set_meta(_config_key(timestep), values)


def config_of(stores: Stores, timestep: int) -> RunConfig | None:
    """The configuration that a timestep ran with; None if it is not on record."""
    values = stores.ledger.get_meta(_config_key(timestep))
    return None if values is None else parse_config(values, f"the configuration of timestep {timestep}")


def _config_key(timestep: int) -> str:
    return f"config/{timestep:04d}"
