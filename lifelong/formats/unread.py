"""What a row holds and no reader reads: images and parts of the question that would be dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lifelong.formats.faults import RowError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BASE64 = r"(?:data:[\w.+/\\-]*(?:;[\w=.-]+)*;base64,|iVBOR|\\?/9j\\?/|R0lGOD|UklGR)"
"""How an image begins that is written as text: a data: URL, or the base64 of PNG, JPEG, GIF or WebP."""
_INLINE = re.compile(BASE64 + r"[A-Za-z0-9+/]{60}")
_MAGIC = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\0|MM\0\*", re.DOTALL)
_OF_IMAGE = re.compile(r"image|img|picture|photo|screenshot|file_?name", re.IGNORECASE)
_NUMBERED = re.compile(r"(image|img|picture|photo|screenshot)s?_?\d+", re.IGNORECASE)
_IN_TEXT = re.compile(r"<img>([^<>\n]{1,4096})</img>")
_TURN_KEYS = {"role", "from", "content", "value"}
_SAID_BESIDE = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys under which a turn says more than its text."""
_WEIGHTS = ("weight", "loss", "loss_weight", "train")
"""Keys by which an answer is left out of the loss (OpenAI, ms-swift, axolotl)."""


def is_image_name(value: Any) -> bool:
    """Whether it is text that ends like an image's file name or URL, or is an image in base64."""
    if not isinstance(value, str):
        return False
    return value.partition("?")[0].lower().endswith(IMAGE_SUFFIXES) or _INLINE.match(value) is not None


def refuse_images(fields: Mapping[str, Any], read: Sequence[Any], known: Collection[str]) -> None:
    """Refuse a row with images under a key that is not read.

    read: the row's images; where there are some, a file's name under another key is taken for metadata, unless the
    key has a number, as in "image_2". known: the keys that are read.
    Raises: RowError that names the key.
    """
    for key, value in fields.items():
        if not value or key in known:
            continue
        if type(value) is not str and _holds(value, _is_encoded):
            raise _unread(key, "holds an image")
        if _speaks_of_image(str(key), bool(read)) and _holds(value, is_image_name) and value not in read:
            raise _unread(key, "names an image")


@lru_cache(maxsize=4096)
def _speaks_of_image(key: str, numbered: bool) -> bool:
    """Whether a key's name is that of an image. numbered: only where it has a number too."""
    return (_NUMBERED.fullmatch(key) if numbered else _OF_IMAGE.search(key)) is not None


def refuse_images_of_turn(turn: Mapping[str, Any], number: int) -> None:
    """Refuse a turn that has images under a key of its own. Raises: RowError."""
    for key, value in turn.items():
        named = key not in _TURN_KEYS and value and _speaks_of_image(str(key), False)
        if named and (_holds(value, _is_encoded) or _holds(value, is_image_name)):
            fix = 'name it under "images" of the row, with an <image> in the turn\'s text'
            raise RowError(f'turn {number} has an image under "{key}", which is not read', fix)


def refuse_parts_of_turn(turn: Mapping[str, Any], role: str, number: int) -> None:
    """Refuse a turn that says more than its text, or an answer that is not to be learnt. Raises: RowError."""
    said = next(
        (key for key in _SAID_BESIDE if isinstance(turn.get(key), (str, list, dict)) and turn[key]), None
    )
    if said is not None:
        fix = "write it into the turn's text, or drop the key"
        raise RowError(f'turn {number} ({role}) has "{said}", which is not read', fix)
    mute = next((key for key in _WEIGHTS if isinstance(turn.get(key), (int, float)) and not turn[key]), None)
    if mute is not None and role == "assistant":
        reason = (
            f'turn {number} (assistant) is not to be learnt ("{mute}" is {turn[mute]}), and every answer is'
        )
        raise RowError(
            reason, "end the conversation before it, make it part of the question, or drop the key"
        )


def refuse_images_in_text(text: str, number: int) -> None:
    """Refuse a text that names an image as Qwen-VL does. Raises: RowError."""
    found = _IN_TEXT.search(text)
    if found is not None and is_image_name(found[1].strip()):
        reason = f"turn {number} names an image in its text: {found[0][:80]}, which is not read"
        raise RowError(reason, 'write <image> there and name the file under "images" of the row')


def _unread(key: Any, what: str) -> RowError:
    fix = 'name it under "image", or several as a list under "images" (`datasets`: rename_column), or drop the key'
    return RowError(f'"{key}" {what} and is not read', fix)


def _holds(value: Any, what: Any) -> bool:
    return any(map(what, value)) if isinstance(value, (list, tuple)) else what(value)


def _is_encoded(value: Any) -> bool:
    """Whether it is an image's bytes, or the {"bytes", "path"} of Hugging Face datasets."""
    if type(value) is dict or isinstance(value, Mapping):
        return len(value) == 2 and "bytes" in value and "path" in value and any(value.values())
    return isinstance(value, bytes) and _MAGIC.match(value) is not None
