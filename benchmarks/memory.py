"""The most memory that a piece of work takes, of this process or of its GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_mb(work: Callable[[], object], device: torch.device | None = None) -> float | None:
    """Largest resident size in MB (10⁶ bytes) while `work` runs, all of the process; on a GPU, allocated there.

    None where the operating system does not tell (it is Linux's /proc).
    """
    gc.collect()
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    work()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
