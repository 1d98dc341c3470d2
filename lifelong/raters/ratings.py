"""Ratings in a file: what a judge leaves, what anybody may write, and what mmSSR selects by.

JSON Lines. Each line names a sample and says something about it; lines about the same sample add up, and of two
lines that say the same thing differently the later one holds:

    {"sample_id": "0f3c…", "ratings": {"ocr": 5, "scene understanding": 0.5}, "styles": ["yes/no"]}
    {"source_id": "coco-17", "ratings": {"attribute": 3}}

sample_id: 32 hex characters, as in the decisions; or source_id: the sample's own id in its dataset, which
should be used for one dataset only, whose rows share no id: all that have it get its rating. ratings: {capability:
0 to 5, integer or not}; styles: [style…], [] for none; both by id or by name (`policies.scorers.mmssr`). What is not
said stays unrated. The judge writes two more kinds of line, which rate nothing: {"judge": …} on the first line,
and {"sample_id": …, "refused": {question: reply}} for a reply that is no answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.errors import InputError
from lifelong.raters.questions import capability_id, style_ids
from policies.scorers.mmssr import CAPABILITIES, HIGHEST, LOWEST, STYLES
from stores.pool import PoolRow

SIGNALS = ("ratings", "styles")
_CAPABILITY = {key: column for column, key in enumerate(CAPABILITIES)}
_STYLE = {key: column for column, key in enumerate(STYLES)}
_KEYS = {"sample_id", "source_id", "ratings", "styles", "refused"}


@dataclass(slots=True)
class Rating:
    """What is known of one sample. ratings: (14,) float32; styles: (9,) float32 of 0 and 1; NaN: unrated."""

    ratings: np.ndarray = field(default_factory=lambda: np.full(len(CAPABILITIES), np.nan, dtype=np.float32))
    styles: np.ndarray = field(default_factory=lambda: np.full(len(STYLES), np.nan, dtype=np.float32))


class Ratings:
    """The ratings of a file, by sample id or by source id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Rating] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, sample_id: str, source_id: str | None) -> Rating | None:
        """What is known of a sample; None if nothing is. Its sample id goes before its source id."""
        return self._by_id.get(f"sample {sample_id}") or self._by_id.get(f"source {source_id}")

    def add(self, line: dict[str, Any]) -> None:
        """Take in what one line says. Raises: InputError."""
        unknown = sorted(set(line) - _KEYS)
        if unknown:
            raise InputError(f"field {unknown[0]!r} is not known; fields are {', '.join(sorted(_KEYS))}")
        if "refused" in line:
            return
        rating = self._by_id.setdefault(_key(line), Rating())
        for name, value in _dictionary(line.get("ratings", {})).items():
            rating.ratings[_CAPABILITY[capability_id(name)]] = _number(name, value)
        if "styles" in line:
            rating.styles[:] = 0.0
            rating.styles[[_STYLE[style] for style in style_ids(_names(line["styles"]))]] = 1.0


def read_ratings(path: Path) -> Ratings:
    """The ratings of a file.

    Raises:
        InputError: the file cannot be read, or a line of it is not as described above.
    """
    found = Ratings()
    try:
        for number, line in lines_of(path):
            try:
                if "judge" not in line:
                    found.add(line)
            except InputError as error:
                raise InputError(f"{path} line {number}: {error}") from error
    except OSError as error:
        raise InputError(f"the ratings {path} cannot be read: {error.strerror}") from error
    if not len(found):
        raise InputError(f"{path} rates no sample; write one with `lifelong mmssr judge`")
    return found


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of every line that is not empty. Raises: InputError at a line that is no object."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                raise InputError(f"{path} line {number} is no JSON object; mend the line or remove it")
            yield number, line


@dataclass(slots=True)
class RatingsFile:
    """A producer that looks a sample up in a file of ratings; what the file does not say is NaN."""

    path: Path
    name: str = field(init=False)
    signals: tuple[str, ...] = SIGNALS
    batch_size: int = 1024
    _read: Ratings | None = None

    def __post_init__(self) -> None:
        try:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"the ratings {self.path} cannot be read ({error.strerror}); set rater.ratings to a JSON Lines file"
            ) from error
        self.name = f"ratings {digest[:16]}"

    def of_rows(self, rows: Sequence[PoolRow]) -> dict[str, np.ndarray]:
        """ratings: (b, 14), styles: (b, 9) float32."""
        if self._read is None:
            self._read = read_ratings(self.path)
        known = self._read
        found = [known.find(row.sample_id, row.source_id) or Rating() for row in rows]
        return {
            "ratings": np.stack([rating.ratings for rating in found]),
            "styles": np.stack([rating.styles for rating in found]),
        }


def _key(line: dict[str, Any]) -> str:
    for kind in ("sample", "source"):
        name = line.get(f"{kind}_id")
        if isinstance(name, str) and name:
            return f"{kind} {name}"
        if isinstance(name, int) and not isinstance(name, bool):
            return f"{kind} {name}"
    raise InputError("it names no sample: give it a sample_id or a source_id")


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f'ratings is {value!r}; write {{"capability": rating}}')
    return value


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f'styles is {value!r}; write a list of names, such as ["yes/no"]')
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"the rating of {name} is {value!r}, which is no number")
    if not LOWEST <= value <= HIGHEST:
        raise InputError(f"the rating of {name} is {value}; ratings lie between {LOWEST} and {HIGHEST}")
    return float(value)
