"""What any row has, whatever its format: an id, values that JSON can hold, the images that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lifelong.formats.faults import Limits, RowError
from lifelong.formats.unread import is_image_name

CONVERSATION_KEYS = ("conversations", "messages")
IMAGE_KEYS = ("images", "image")
READ_KEYS = {*IMAGE_KEYS, *CONVERSATION_KEYS}
"""Where images are looked for; what names one elsewhere refuses the row."""
MAX_ID_CHARS = 4096


def check_json(value: Any, limits: Limits) -> None:
    """Refuse what Python's JSON reader lets through and other readers do not.

    Raises: RowError on NaN or Infinity, on half a surrogate pair in any string, on nesting beyond the limit.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.max_depth:
            raise too_deep(limits)
        level = [child for container in level for child in _containers(container)]


def too_deep(limits: Limits) -> RowError:
    """The fault of a row with too many levels."""
    return RowError(f"nested deeper than {limits.max_depth} levels", "flatten or remove the nested field")


def _containers(value: Any) -> list[Any]:
    """Check the scalars directly inside `value`; return the lists and objects there."""
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    else:
        children = value if isinstance(value, list) else [value]
    for child in children:
        if isinstance(child, str):
            if child.isascii():
                continue
            try:
                child.encode()
            except UnicodeEncodeError as error:
                reason = f"half a surrogate pair ({child[error.start]!a}) in a text"
                raise RowError(reason, "remove the broken character or write the pair whole") from None
        elif isinstance(child, float) and not math.isfinite(child):
            raise RowError(f"a number that is not finite ({child})", "write null or a finite number")
    return [child for child in children if isinstance(child, (dict, list))]


def source_id(fields: Any) -> str | None:
    """The row's own id as text; None if it has none, or "". Integers become text, also those written as 1.0.

    Raises: RowError if the id is neither text nor an integer, or longer than `MAX_ID_CHARS`.
    """
    found = fields.get("id") if isinstance(fields, Mapping) else None
    if found is None or found == "":
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, (str, int)) or not _is_plain(str(found)):
        raise RowError(
            f"id {str(found)[:80]!r} is neither text nor an integer", "give the row a plain text id"
        )
    if len(str(found)) > MAX_ID_CHARS:
        raise RowError(f"the id has {len(str(found)):,} characters", f"keep it under {MAX_ID_CHARS:,}")
    return str(found)


def _is_plain(text: str) -> bool:
    """Whether it is some text, without NUL and halves of surrogate pairs."""
    return text != "" and not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in text)


def image_references(fields: Mapping[str, Any]) -> list[Any]:
    """The row's images in order, from `images` (list), or else `image` (one, or a list as LLaVA allows).

    Raises: RowError if both are given and `images` lacks what is under `image`.
    """
    several, one = _listed(fields.get("images")), _listed(fields.get("image"))
    if several and any(reference and reference not in several for reference in one):
        raise RowError('"image" names an image that "images" does not', 'name all of them under "images"')
    return several or one


def image_of_folder(fields: Mapping[str, Any]) -> list[Any]:
    """The image of a row without `image` and `images` that has its name under `file_name`, as imagefolder's do."""
    found = fields.get("file_name")
    return [found] if is_image_name(found) else []


def _listed(found: Any) -> list[Any]:
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]
