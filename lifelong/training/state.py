"""The state of a training between two optimiser steps, as files without pickle: it goes on as if never stopped.

A folder holds `weights.safetensors` (what is trained), `optimizer.safetensors`, `generators.safetensors`,
`state.json` (scheduler, optimiser settings, generators, the trainer's record), and `trainer_state.json`, which is
transformers' own.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from transformers import Trainer

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
GENERATORS = "generators.safetensors"
STATE = "state.json"
TRAINER_STATE = "trainer_state.json"


def write_state(trainer: Trainer, folder: Path, record: dict[str, Any]) -> None:
    """Write the state of a trainer at the end of an optimiser step. record: JSON to keep with it."""
    save_file(_trained(trainer.model), folder / WEIGHTS)
    optimizer = trainer.optimizer.state_dict()
    save_file(
        {
            f"{parameter}.{name}": _plain(tensor)
            for parameter, slots in optimizer["state"].items()
            for name, tensor in slots.items()
        },
        folder / OPTIMIZER,
    )
    tensors, words = _generators()
    save_file(tensors, folder / GENERATORS)
    state = {
        "record": record,
        "scheduler": trainer.lr_scheduler.state_dict(),
        "groups": optimizer["param_groups"],
        "generators": words,
    }
    (folder / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    trainer.state.save_to_json(str(folder / TRAINER_STATE))


def read_weights(model: torch.nn.Module, folder: Path) -> None:
    """Put the trained weights in place."""
    saved = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(saved[name])


def read_optimizer(trainer: Trainer, folder: Path) -> None:
    """Put the state of optimiser and scheduler in place."""
    found = _read(folder)
    optimizer = trainer.optimizer.state_dict()
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(folder / OPTIMIZER).items():
        parameter, slot = name.split(".", 1)
        slots.setdefault(int(parameter), {})[slot] = tensor
    groups = [
        # JSON has lists where the optimiser has tuples (AdamW's betas).
        {name: tuple(value) if isinstance(group[name], tuple) else value for name, value in saved.items()}
        for group, saved in zip(optimizer["param_groups"], found["groups"], strict=True)
    ]
    trainer.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    trainer.lr_scheduler.load_state_dict(found["scheduler"])


def read_generators(folder: Path) -> None:
    """Put the states of the process's global generators in place: Python's, NumPy's, torch's on every device."""
    words = _read(folder)["generators"]
    tensors = load_file(folder / GENERATORS)
    random.setstate((words["version"], tuple(tensors["python"].tolist()), words["gauss"]))
    np.random.set_state((words["numpy"], tensors["numpy"].numpy().astype(np.uint32), *words["numpy_rest"]))
    torch.set_rng_state(tensors["torch"])
    for number in range(min(words["cuda"], torch.cuda.device_count())):
        torch.cuda.set_rng_state(tensors[f"cuda.{number}"], number)


def read_record(folder: Path) -> dict[str, Any]:
    """What was kept with the state."""
    record: dict[str, Any] = _read(folder)["record"]
    return record


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return found


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: _plain(weight) for name, weight in model.named_parameters() if weight.requires_grad}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # safetensors takes no two names for one storage, and an optimiser may pack its tensors.
    return tensor.detach().cpu().clone().contiguous()


def _generators() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    tensors = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    tensors |= {f"cuda.{number}": state for number, state in enumerate(devices)}
    words = {
        "version": version,
        "gauss": gauss,
        "numpy": name,
        "numpy_rest": rest,
        "cuda": len(devices),
    }
    return tensors, words
