"""The mean of two adapters, weight by weight."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]
"""The tensors of an adapter, by name."""


def weights_in(folder: Path) -> Weights:
    """The weights of an adapter in a folder that peft wrote."""
    from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)


def mean_of(before: Weights, after: Weights, weight: float) -> Weights:
    """`weight` · after + (1 - weight) · before, where `after` was trained from `before`.

    Summed in float32 and kept in the weights' own data type; what is no floating-point number is that of `after`.
    """
    mean = dict(after)
    for name, trained in after.items():
        if trained.is_floating_point():
            mean[name] = before[name].float().lerp(trained.float(), weight).to(trained.dtype)
    return mean


def averaged(before: Path, after: Path, weight: float) -> Callable[[Path], None]:
    """Fills a folder with the mean of the adapters in two others; all else in it is that of `after`."""

    def fill(folder: Path) -> None:
        from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
        from safetensors import safe_open
        from safetensors.torch import save_file

        shutil.copytree(after, folder, dirs_exist_ok=True)
        with safe_open(after / WEIGHTS, framework="pt") as file:
            metadata = file.metadata()
        save_file(mean_of(weights_in(before), weights_in(after), weight), folder / WEIGHTS, metadata)

    return fill
