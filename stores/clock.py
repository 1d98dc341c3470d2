"""How long keeping takes: the time spent in SQLite and in files, apart from the work whose results they keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class Stopwatch:
    """Seconds spent in functions that are `kept`; one that calls another counts once."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._depth = 0
        self._began = 0.0

    def enter(self) -> None:
        if not self._depth:
            self._began = time.perf_counter()
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """The seconds since this was last asked, of what is over."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def now() -> str:
    """The time, in UTC and to the second, as ISO 8601 has it: 2026-01-31T09:15:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def day(stamp: str) -> str:
    """A time that `now` gave as people read it, to the minute: 2026-01-31 09:15 UTC; "" for ""."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if stamp else ""


KEEPING = Stopwatch()
"""This process's."""


def kept(function: Callable[P, R]) -> Callable[P, R]:
    """Count the time of a function, or of each step of a generator."""
    if isgeneratorfunction(function):
        return cast(Callable[P, R], _kept_generator(function))

    @wraps(function)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        KEEPING.enter()
        try:
            return function(*args, **kwargs)
        finally:
            KEEPING.leave()

    return timed


def _kept_generator(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = function(*args, **kwargs)
        while True:
            KEEPING.enter()
            try:
                each = next(steps)
            except StopIteration:
                return
            finally:
                KEEPING.leave()
            yield each

    return timed


def keeping(cls: C) -> C:
    """Count the time of all public methods of a class."""
    for name, method in list(vars(cls).items()):
        if callable(method) and not name.startswith("_"):
            setattr(cls, name, kept(method))
    return cls
