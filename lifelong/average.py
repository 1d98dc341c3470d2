"""The mean of two adapters, weight by weight."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mean_of(before: Path, after: Path, weight: float) -> dict[str, torch.Tensor]:
    """The weights of the adapter `weight` · after + (1 - weight) · before.

    before, after: folders that peft wrote; the second was trained from the first. Summed in float32 and kept in the
    weights' own data type; what is no floating-point number is that of `after`.
    """
    from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
    from safetensors.torch import load_file

    was, mean = load_file(before / WEIGHTS), load_file(after / WEIGHTS)
    for name, trained in mean.items():
        if trained.is_floating_point():
            mean[name] = was[name].float().lerp(trained.float(), weight).to(trained.dtype)
    return mean


def averaged(before: Path, after: Path, weight: float) -> Callable[[Path], None]:
    """Fills a folder with that adapter; all else in it is that of `after`."""

    def fill(folder: Path) -> None:
        from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
        from safetensors import safe_open
        from safetensors.torch import save_file

        shutil.copytree(after, folder, dirs_exist_ok=True)
        with safe_open(after / WEIGHTS, framework="pt") as file:
            metadata = file.metadata()
        save_file(mean_of(before, after, weight), folder / WEIGHTS, metadata)

    return fill
