"""The adapter of a timestep merged into the base model: a full model with its processor, that any library loads."""

from __future__ import annotations

from pathlib import Path

from lifelong.config import ModelConfig
from lifelong.context import ADAPTER, Stores
from lifelong.environment import located
from lifelong.errors import InputError
from lifelong.formats.staging import staged_folder
from lifelong.recorded import config_of


def adapter_of(stores: Stores, timestep: int | None = None) -> tuple[int, Path]:
    """A timestep (default: the last one that was trained) and its adapter, a folder that peft loads.

    Raises:
        InputError: no timestep has been trained yet, or this one has not.
        StoreError: its adapter was let go, or is damaged.
    """
    kept = [record.timestep for record in stores.ledger.files() if record.kind == ADAPTER]
    if not kept:
        raise InputError("the run has no adapter yet; feed it a dataset first")
    chosen = max(kept) if timestep is None else timestep
    if chosen > max(kept):
        raise InputError(f"timestep {chosen} has no adapter; the last that has one is {max(kept)}")
    return chosen, stores.ledger.file(chosen, ADAPTER)


def merge(stores: Stores, model: ModelConfig, out: Path, timestep: int | None = None) -> int:
    """Write base model + adapter as one model to a new folder `out`; returns the timestep.

    model: where the timestep's own configuration is not on record, or its model has been moved.
    `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained` load it. Weights are merged on the
    CPU in the data type of `model`: logits are those of base + adapter up to its rounding.

    Raises:
        InputError: there is no such adapter, or the base model cannot be loaded.
        DatasetError: `out` exists.
    """
    chosen, adapter = adapter_of(stores, timestep)
    config = config_of(stores, chosen)
    model = model if config is None else located(stores, config.model, model)
    with staged_folder(out) as folder:
        write_merged(model, adapter, folder)
    return chosen


def write_merged(model: ModelConfig, adapter: Path, folder: Path) -> None:
    """Fill a folder with the merged model and its processor."""
    from peft import PeftModel

    from lifelong.models.load import load_base, quiet

    with quiet():
        base, processor = load_base(model)
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
        merged.save_pretrained(str(folder))
        processor.save_pretrained(str(folder))
