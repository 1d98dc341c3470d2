"""Whether this process is one of several that torchrun or `accelerate launch` started."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import timedelta

OF_A_LAUNCH = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One process of a launch. rank: among all `size` of them; local_rank: among those of its machine."""

    rank: int
    size: int
    local_rank: int


_joined: Launch | None = None


def joined() -> Launch | None:
    """The launch that this process has joined; None where it was started by itself."""
    return _joined


def join(environ: MutableMapping[str, str]) -> Launch | None:
    """Join the launch that the environment tells of, with all its other processes, and have it forgotten there."""
    global _joined
    launch = find_launch(environ)
    if launch is None:
        return None
    if launch.size > 1:
        _take_device(environ, launch.local_rank)
        import torch

        # Each of several GPUs adds up with the others over NCCL; everything else travels over gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # That a process has died its launcher sees; a phase without work for the others may take days.
        torch.distributed.init_process_group(backend, timeout=timedelta(days=30))
    forget_launch(environ)
    _joined = launch
    return launch


def _take_device(environ: MutableMapping[str, str], local_rank: int) -> None:
    """Let a process see the one GPU that is its own."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        environ["CUDA_VISIBLE_DEVICES"] = str(local_rank)
    elif local_rank < len(devices := visible.split(",")):
        environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank]


def find_launch(environ: MutableMapping[str, str]) -> Launch | None:
    """The launch that the environment tells of; one by `accelerate launch` of a single process says little."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank = int(environ["RANK"])
        return Launch(rank, int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", rank)))
    return Launch(0, 1, 0) if "ACCELERATE_MIXED_PRECISION" in environ else None


def forget_launch(environ: MutableMapping[str, str]) -> None:
    """Take the launch out of the environment: transformers and accelerate would take it for their own."""
    for name in list(environ):
        if name in OF_A_LAUNCH or name.startswith(("ACCELERATE_", "FSDP_")):
            del environ[name]
