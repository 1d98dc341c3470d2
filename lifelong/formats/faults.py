"""Limits on what a row may hold, and the faults that a dataset, a file or a row can have."""

from __future__ import annotations

from dataclasses import dataclass

from lifelong.errors import InputError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a row may hold at most; a row beyond a limit is refused, never cut."""

    max_pixels: int = 89_478_485
    """Pixels of one image, checked before it is decoded (Pillow's own bound on decompression bombs)."""
    min_side: int = 2
    """Pixels of an image's shorter side, at least."""
    max_text_chars: int = 100_000
    """Characters of text over all turns of a row."""
    max_image_bytes: int = 64 * 2**20
    """Bytes of one encoded image."""
    max_depth: int = 64
    """Levels of nesting of a JSON row, counting its own braces."""
    max_images: int = 64
    """Images of one row."""
    max_row_pixels: int = 4 * 89_478_485
    """Pixels of all images of one row, which are in memory together when it is measured: 1 GiB as RGB."""
    max_turns: int = 1000
    """Turns of one row. Finding its answers takes the square of them: seconds here, hours for ten thousand."""


DEFAULT_LIMITS = Limits()
MESSAGE_CHARS = 1000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git puts in the place of a large file until `git lfs pull`."""


class DatasetError(InputError):
    """The dataset cannot be opened at all: no such path, unknown format, nothing readable in a folder."""


class FaultError(Exception):
    """Something refused, with what is wrong and what to do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        self.reason = shown(reason)
        self.fix = fix
        super().__init__(self.reason)


class FileError(FaultError):
    """A whole file is unreadable from some point on."""


class RowError(FaultError):
    """One row is refused; the next one can be read."""


def shown(text: str) -> str:
    """Text of a stranger fit for a message: cut to `MESSAGE_CHARS`, what a terminal would act on escaped."""
    cut = text if len(text) <= MESSAGE_CHARS else f"{text[:MESSAGE_CHARS]}… ({len(text):,} characters)"
    if cut.isprintable():
        return cut
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii") for mark in cut
    )


def first_line(error: Exception) -> str:
    """What an exception of a library says, in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
