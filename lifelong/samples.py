"""The values that every reader yields: an image, a sample, and the outcome of one row of a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["accepted", "rejected", "duplicate"]

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring
_TEXT = '{"text":%s,"type":"text"}'


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded picture, either a file on disk (`path`) or bytes from a tar or Parquet file (`data`).

    `sha256` is that of the encoded bytes (64 hex); `suffix` follows the real encoding (".png"), not the name;
    `width` and `height` are in pixels after the EXIF orientation has been applied.
    """

    sha256: str
    suffix: str
    path: Path | None
    data: bytes | None
    width: int
    height: int

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises ValueError if the file no longer holds the bytes that were checked, OSError if it is gone.
        """
        if self.data is not None:
            return self.data
        if self.path is None:
            raise ValueError(f"image {self.sha256} has neither a path nor bytes")
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.path} has changed since it was checked; feed the dataset again")
        return data


@dataclass(frozen=True, slots=True)
class Sample:
    """Images and a conversation, in the Hugging Face chat form with content parts.

    messages: [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]}, …]; the n-th
    {"type": "image"} part stands for `images[n]`.
    """

    sample_id: str
    source_id: str | None
    messages: list[dict[str, Any]]
    images: tuple[Image, ...]

    @property
    def text_chars(self) -> int:
        """Characters of text in all turns."""
        return text_chars(self.messages)

    @property
    def text_only(self) -> bool:
        """Whether the sample has no image."""
        return not self.images


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one row of a dataset.

    `row` is the 0-based position in `file` (a name relative to the dataset); None tells of a fault of the
    whole file. `reason` and `fix` are empty for an accepted row. `raw` is the source record as it was parsed,
    so that a selection can be written back in its own format. `of` is the sample_id that a duplicate repeats.
    `several`: the row has several answers, of which the sample has one.
    """

    file: str
    row: int | None
    outcome: Outcome
    reason: str = ""
    fix: str = ""
    sample: Sample | None = None
    raw: Any = None
    source_id: str | None = None
    of: str | None = None
    several: bool = False


def text_chars(messages: Sequence[dict[str, Any]]) -> int:
    """Characters of all text parts of `messages`."""
    return sum(
        len(part["text"]) for message in messages for part in message["content"] if part["type"] == "text"
    )


def content_id(messages: Sequence[dict[str, Any]], image_hashes: Sequence[str]) -> str:
    """Return the sample_id: 32 hex characters, the first 128 bits of SHA-256 over the canonical content.

    Canonical content is compact JSON with sorted keys, in UTF-8, of the messages and of the images' SHA-256
    in order; ids, file names and extra fields of the source do not enter.
    """
    told = ",".join(_message(message) for message in messages)
    text = f'{{"images":{_encode(list(image_hashes))},"messages":[{told}]}}'
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _message(message: dict[str, Any]) -> str:
    """A message as `_encode` writes it, in a third of the time for those that readers make: a million are hashed."""
    if len(message) == 2 and "role" in message and "content" in message:
        parts = [_TEXT % _quoted(part["text"]) for part in message["content"] if _is_text(part)]
        if len(parts) == len(message["content"]):
            return f'{{"content":[{",".join(parts)}],"role":{_quoted(message["role"])}}}'
    return _encode(message)


def _is_text(part: dict[str, Any]) -> bool:
    return len(part) == 2 and part.get("type") == "text" and isinstance(part.get("text"), str)
