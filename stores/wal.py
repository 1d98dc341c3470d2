"""Whether SQLite's write-ahead log lost committed work.

SQLite reads the log up to the first frame whose checksum is wrong and takes what follows for an unfinished write, so
a byte altered in the middle makes the commits behind it vanish without a word. Here they are looked for. Format:
https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HEADER = 32
_FRAME_HEADER = 24
_MAGIC = 0x377F0682
_WORD = (1 << 32) - 1

Checksum = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame of this log. follows: its checksum continues the one before it."""

    commits: bool
    follows: bool


def torn(log: Path) -> str | None:
    """What is wrong with a write-ahead log, or None; a last transaction that was never finished is not wrong.

    The very last frame cannot be told from one that a kill cut short, and is not reported.
    """
    if not log.exists() or log.stat().st_size <= _HEADER:
        return None
    with log.open("rb") as file:
        header = file.read(_HEADER)
        magic, _, page_size = struct.unpack(">3I", header[:12])
        order = ">" if magic & 1 else "<"
        sound = magic & ~1 == _MAGIC and _checksum(header[:24], order, (0, 0)) == _stored(header[24:])
        if not sound:
            return "its header is altered, so nothing in it will be read"
        whole = True
        for number, frame in enumerate(_frames(file, header, page_size, order)):
            if not frame.follows and whole:
                whole, first_bad = False, number
            elif not whole and frame.follows and frame.commits:
                return (
                    f"frame {first_bad} is altered, or was torn by a power cut before its commit was confirmed: the "
                    "commits from there on will not be read"
                )
    return None


def _frames(file: BinaryIO, header: bytes, page_size: int, order: str) -> Iterator[_Frame]:
    """The frames written since the log was last begun anew: those that hold its salt."""
    salt, before = header[16:24], {_stored(header[24:])}
    while len(frame := file.read(_FRAME_HEADER + page_size)) == _FRAME_HEADER + page_size:
        stored = _stored(frame[16:24])
        # Where the checksum stored before is itself altered, the one that it should have been still leads on.
        found = {_checksum(frame[:8] + frame[_FRAME_HEADER:], order, each) for each in before}
        ours = frame[8:16] == salt
        yield _Frame(commits=ours and frame[4:8] != b"\0\0\0\0", follows=ours and stored in found)
        before = {stored, *found} if ours else {stored}


def _checksum(data: bytes, order: str, before: Checksum) -> Checksum:
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second


def _stored(data: bytes) -> Checksum:
    first, second = struct.unpack(">2I", data)
    return first, second
