"""Out of memory: telling it from other errors, and giving back what a failed attempt holds."""

from __future__ import annotations

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the machine's, was not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        should_reduce_batch_size(error)
        # CUDA's own words, and those of the libraries on it: CUBLAS_STATUS_ALLOC_FAILED.
        or any(words in str(error).lower() for words in ("out of memory", "status_alloc_failed"))
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def release_memory() -> None:
    """Give back what a failed attempt left; call it when no frame holds its tensors any more."""
    clear_device_cache(garbage_collection=True)
