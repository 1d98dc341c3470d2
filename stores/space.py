"""Whether a disk has room for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from stores.errors import DiskError


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises: DiskError, naming `what` is to be written, if the disk of `folder` has fewer free bytes than needed.

    Quotas are not seen; what they forbid shows when it is written.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"{folder}: {what} needs about {_megabytes(needed)} and its disk has {_megabytes(free)} free. Free "
            f"{_megabytes(needed - free)} on that disk or move the folder to a larger one; a run then goes on with "
            "`lifelong resume RUN`, from its last commit."
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
