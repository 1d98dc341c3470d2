"""What a phase ran under: versions, and hashes of what it started from. Under others its bits may differ."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lifelong.config import ModelConfig, RunConfig
from lifelong.context import Stores
from lifelong.errors import InputError, RunError
from stores.commit import content_hash

PACKAGES = ("lifelong", "torch", "transformers", "peft", "numpy")
COMPUTES = ("torch", "transformers", "peft", "model")
"""What must not change within a timestep: its phases would silently be of two computations."""
MODEL_FILES = "model files"
"""Key of the model folder's files as they were when it was hashed."""

log = logging.getLogger(__name__)

Environment = dict[str, str]


def environment(stores: Stores, config: RunConfig, timestep: int) -> Environment:
    """Versions of Python and of PACKAGES; sha256 of the model's files, of the configuration, of the data.

    device: where the model computes, a GPU by its name.
    model: of every file of its folder; of a model of the hub, the commit. data: digest of the dataset that was fed
    at the timestep. What is not known is left out.
    """
    configured = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    found = {
        **versions(),
        "device": _device(config.model.device),
        "model": _model(stores, config.model.path),
        "config": hashlib.sha256(configured.encode()).hexdigest(),
        "data": next((each.digest for each in stores.pool.datasets() if each.timestep == timestep), ""),
    }
    return {name: value for name, value in found.items() if value}


@cache
def versions() -> Environment:
    """Installed versions by name; "" where a package is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def check_drift(stores: Stores, config: RunConfig, timestep: int, allow: bool = False) -> None:
    """Compare what a timestep runs under with what the last phase on record ran under, and warn of what changed.

    Raises:
        RunError: the timestep is under way, one of COMPUTES has changed, and `allow` is not set.
    """
    ledger = stores.ledger
    last = ledger.last_timestep()
    if last is None:
        return
    begun = last == timestep
    before, now = ledger.phases(last)[-1].environment, environment(stores, config, timestep)
    compared = [
        name for name in ("python", *PACKAGES, "model", "device") if before.get(name) and now.get(name)
    ]
    changed = {
        name: f"{name} was {before[name]} and is {now[name]}"
        for name in compared
        if before[name] != now[name]
    }
    if not changed:
        return
    if begun and not allow and changed.keys() & set(COMPUTES):
        told = "; ".join(text for name, text in changed.items() if name in COMPUTES)
        raise RunError(
            f"timestep {timestep} of {stores.root} was begun under another environment: {told}. What is left of it "
            "would not come out as it would have: put back what has changed, or say that it may differ with "
            f"`lifelong resume {stores.root} --allow-drift`"
        )
    log.warning("timestep %d goes on under another environment: %s", timestep, "; ".join(changed.values()))


def located(stores: Stores, recorded: ModelConfig, given: ModelConfig) -> ModelConfig:
    """The model on record where it is now said to lie: its folder may have been moved, if its files are what they were.

    Where another model lies there, or none, it is the one on record, as it is there.
    """
    last = stores.ledger.last_timestep()
    if given.path == recorded.path or last is None:
        return recorded
    folder = Path(given.path)
    found = _files(stores, folder)["sha256"] if folder.is_dir() else _commit(given.path)
    phases = (record for t in range(last, -1, -1) for record in reversed(stores.ledger.phases(t)))
    # A phase that needed no model may have been run while there was none.
    known = next(filter(None, (record.environment.get("model") for record in phases)), None)
    return recorded.model_copy(update={"path": given.path}) if found and found == known else recorded


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _device(name: str) -> str:
    import torch

    from lifelong.models.load import device_named

    try:
        device = device_named(name)
    except InputError:
        return name  # not of this machine: the model may be on workers that have it
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _model(stores: Stores, path: str) -> str:
    if not path:
        return ""
    folder = Path(path)
    return _folder(stores, folder) if folder.is_dir() else _commit(path)


def _folder(stores: Stores, folder: Path) -> str:
    """Hash of a folder's files, which is kept."""
    found = _files(stores, folder)
    if found != stores.ledger.get_meta(MODEL_FILES, {}):
        stores.ledger.set_meta(MODEL_FILES, found)
    return str(found["sha256"])


def _files(stores: Stores, folder: Path) -> dict[str, Any]:
    """A folder's files and their hash; they are read again only when a name, a size or a time of change has changed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files
    ]
    known: dict[str, Any] = stores.ledger.get_meta(MODEL_FILES, {})
    return known if known.get("files") == listing else {"files": listing, "sha256": content_hash(folder)[0]}


def _commit(name: str) -> str:
    """The commit of a hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""
