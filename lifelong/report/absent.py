"""What a report cannot show, in words for its reader."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from lifelong.errors import LifelongError
from stores.errors import StoreError


class AbsentError(Exception):
    """Something that a section wants is not there; the message is the sentence that stands in its place."""


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Raises: AbsentError for whatever keeps the block from reading `what`."""
    import pyarrow as pa

    try:
        yield
    except (StoreError, LifelongError, OSError, sqlite3.Error, pa.ArrowException) as error:
        raise AbsentError(f"{what} cannot be read: {error}") from error


class Absent:
    """Why sections have nothing to show of some timesteps."""

    def __init__(self) -> None:
        self._reasons: dict[str, dict[str, list[int]]] = {}

    def note(self, timestep: int, section: str, why: str) -> None:
        """Put down why a section has nothing of a timestep."""
        self._reasons.setdefault(section, defaultdict(list))[why].append(timestep)

    @contextmanager
    def noting(self, timestep: int, *sections: str) -> Iterator[None]:
        """What is missing in the block is put down for the sections, and the page goes on without it."""
        try:
            with telling("what it needs"):
                yield
        except AbsentError as error:
            for section in sections:
                self.note(timestep, section, str(error))

    def told(self) -> dict[str, list[tuple[str, str]]]:
        """section → (which timesteps, why), the first timestep first."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for section, reasons in self._reasons.items():
            for why, timesteps in sorted(reasons.items(), key=lambda item: min(item[1])):
                found[section].append((_named(sorted(timesteps)), why))
        return found


def _named(timesteps: list[int]) -> str:
    first, last = timesteps[0], timesteps[-1]
    if first == last:
        return f"Timestep {first}"
    if len(timesteps) > 2 and len(timesteps) == last - first + 1:
        return f"Timesteps {first} to {last}"
    return f"Timesteps {', '.join(map(str, timesteps))}"
