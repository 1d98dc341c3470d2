"""A word is asked something; what goes wrong there is told with its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from lifelong.errors import LifelongError, UsageError
from policies import promises
from policies.errors import PolicyError
from policies.samplers import Sampler
from policies.scorers.base import Scorer
from policies.starts import Start

OURS = "policies"
"""The package of the words that are of lifelong itself."""


@contextmanager
def asked(slot: str, name: str, word: Any) -> Iterator[None]:
    """Raises: UsageError that names the word, for what it refuses, for an answer that it must not give, and, where
    it is not of lifelong itself, for whatever its code raises, with the line; out of memory stays what it is."""
    try:
        yield
    except PolicyError as error:
        said = str(error)
        raise UsageError(said if said.startswith((slot, f"{name} ")) else f"{slot} {name}: {said}") from error
    except LifelongError:
        raise
    except Exception as error:
        module = type(word).__module__
        if module.split(".")[0] == OURS or _out_of_memory(error):
            raise
        place = extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"{slot} {name} of {module} failed: {type(error).__name__}: {error} ({Path(place.filename).name} line "
            f"{place.lineno}); LIFELONG_TRACEBACK=1 shows the way there"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    from lifelong.memory import out_of_memory

    return out_of_memory(error)


class Signals(dict[str, np.ndarray]):
    """The signals that a word's `needs` name, by name. Raises: PolicyError for another."""

    def __missing__(self, name: str) -> np.ndarray:
        raise PolicyError(f"reads the signal {name!r}, which its `needs` do not name; add it there")


def signals_for(word: Scorer | Sampler, signals: Mapping[str, np.ndarray]) -> Signals:
    """What the word needs of the signals; it cannot change the arrays under the hands of those that read them next."""
    found = Signals({name: signals[name].view() for name in word.needs})
    for array in found.values():
        array.flags.writeable = False
    return found


def weights_kept(start: Start, timestep: int) -> tuple[float, ...]:
    """The shares of the trained weights that a timestep may keep, ascending."""
    with asked("start", start.name, start):
        return promises.weights(start.weights(timestep))
