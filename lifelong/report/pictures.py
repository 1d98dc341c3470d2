"""Samples as a page shows them: a line of text and a thumbnail, for as long as there is room."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

from lifelong.context import Stores
from stores.errors import DamagedError, StoreError
from stores.pool import PoolRow

TEXT = 240
"""Characters of a sample's text that are shown."""
FULL = "no room for more pictures in this page"
NO_IMAGE = "the sample has no image"
LET_GO = "its image was let go with the last sample that needed it"


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail as a data URI, or "" and why there is none."""

    uri: str
    why: str = ""


@dataclass(slots=True)
class Pictures:
    """Makes thumbnails of `side` pixels at most, of each image once, until their URIs fill `room` characters.

    repeated: an image that is shown again takes room again, as it does in HTML.
    """

    stores: Stores
    side: int
    room: int
    repeated: bool
    _made: dict[str, Picture] = field(default_factory=dict)

    def of(self, row: PoolRow, most: int = 1) -> list[Picture]:
        """The first images of a sample, or the one reason why there are none."""
        if not row.images:
            return [Picture("", NO_IMAGE)]
        return [self._picture(sha256) for sha256 in row.images[:most]]

    def _picture(self, sha256: str) -> Picture:
        known = sha256 in self._made
        if self.room <= 0 and (self.repeated or not known):
            return Picture("", FULL)
        if not known:
            self._made[sha256] = self._make(sha256)
        if self.repeated or not known:
            self.room -= len(self._made[sha256].uri)
        return self._made[sha256]

    def _make(self, sha256: str) -> Picture:
        if not self.stores.media.knows(sha256):
            return Picture("", LET_GO)
        try:
            return Picture(_as_uri(thumbnail(self.stores.media.read(sha256), self.side)))
        except DamagedError as error:
            return Picture("", str(error))
        except (StoreError, OSError, ValueError) as error:
            return Picture("", f"its image cannot be read: {error}")


@dataclass(slots=True)
class Links:
    """Thumbnails that a server makes when they are asked for."""

    stores: Stores
    side: int

    def of(self, row: PoolRow, most: int = 1) -> list[Picture]:
        """As `Pictures.of`."""
        if not row.images:
            return [Picture("", NO_IMAGE)]
        return [
            Picture(f"pictures/{sha256}?side={self.side}")
            if self.stores.media.knows(sha256)
            else Picture("", LET_GO)
            for sha256 in row.images[:most]
        ]


def thumbnail(data: bytes, side: int) -> bytes:
    """An encoded image as WebP of `side` pixels at most. Raises: ValueError or OSError if it is none."""
    from lifelong.formats.images import to_rgb

    image = to_rgb(data)
    image.thumbnail((side, side))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=60, method=4)
    return encoded.getvalue()


def _as_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def text_of(row: PoolRow) -> str:
    """The turns of a sample on one line, cut to `TEXT` characters."""
    parts = (part for message in row.messages for part in message["content"] if part["type"] == "text")
    text = " / ".join(" ".join(part["text"].split()) for part in parts)
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"
