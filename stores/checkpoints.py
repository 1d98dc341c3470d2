"""Checkpoints: the adapter that each timestep's training left, as a committed folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stores.clock import kept
from stores.commit import Committed, commit_tree

CHECKPOINTS_FOLDER = "checkpoints"


@kept
def commit_checkpoint(root: Path, timestep: int, write: Callable[[Path], None]) -> Committed:
    """Commit the folder that `write(folder)` fills, as `checkpoints/NNNN-<hash>`."""
    return commit_tree(root, CHECKPOINTS_FOLDER, f"{timestep:04d}", write)


def path_of(root: Path, committed: Committed) -> Path:
    """Where a committed checkpoint is."""
    return root / committed.path
