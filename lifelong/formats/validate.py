"""The rules that every row must pass, whatever its format: from a record to a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lifelong.formats.faults import Limits, RowError
from lifelong.formats.fields import CONVERSATION_KEYS, READ_KEYS, image_of_folder, image_references, source_id
from lifelong.formats.images import ImageOpener
from lifelong.formats.pairs import show_first, turns_of_pair
from lifelong.formats.turns import TAG, Message, images_in, to_messages
from lifelong.formats.unread import refuse_images
from lifelong.samples import Image, Sample, content_id, text_chars


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its file holds it, before any rule but that of the file's own syntax.

    raw: what a writer of the same format needs to write the row back. fields: the row's keys and values.
    members: the images that came in the same archive, by name; None where names mean files on disk. fault:
    what is wrong already with the syntax of the row.
    """

    raw: Any
    fields: Any
    members: Mapping[str, bytes] | None = None
    fault: RowError | None = None


def to_sample(record: Record, opener: ImageOpener, limits: Limits, *, needs_id: bool = False) -> Sample:
    """Check one record and return its sample; what is cheap to check comes before the images.

    Raises: RowError with the first thing that is wrong.
    """
    if record.fault is not None:
        raise record.fault
    fields = record.fields
    if not isinstance(fields, Mapping):
        reason = f"the row is not an object but a value of type {type(fields).__name__}"
        raise RowError(reason, "write each row as an object with a conversation")
    own_id = source_id(fields)
    if needs_id and own_id is None:
        reason = 'no "id", which the LLaVA format requires'
        raise RowError(reason, "add a unique id, or pass --format sharegpt, where it is optional")
    messages, own_references = _messages(fields)
    references = image_references(fields)
    if own_references and references:
        reason = "images are named both in the turns' parts and in a list of their own"
        raise RowError(reason, "keep one of the two")
    references = references or own_references
    if record.members and (not references or len(references) == len(record.members) == 1):
        references = list(record.members)  # the archive tells which image it is, whatever the row calls it
    references = references or image_of_folder(fields)
    refuse_images(fields, references, READ_KEYS)
    show_first(fields, messages, len(references))
    _check_counts(messages, references, limits)
    images = _opened(references, record.members, opener, limits)
    return Sample(content_id(messages, [image.sha256 for image in images]), own_id, messages, images)


def _messages(fields: Mapping[str, Any]) -> tuple[list[Message], list[Any]]:
    """The row's conversation, and the images that its turns name. Raises: RowError if it is none."""
    for key in ("video", "videos", "audio", "audios"):
        if fields.get(key):
            raise RowError(f'"{key}" is not supported', "keep rows of images and text only")
    turns = next((fields[key] for key in CONVERSATION_KEYS if fields.get(key) is not None), None)
    return to_messages(turns_of_pair(fields) if turns is None else turns, _system(fields))


def _system(fields: Mapping[str, Any]) -> str:
    """What a row says to the model under a key of its own; "" if nothing. Raises: RowError if it is no text."""
    given = {key: fields[key] for key in ("system", "system_prompt") if fields.get(key)}
    for key, value in given.items():
        if not isinstance(value, str):
            raise RowError(f'"{key}" is not a text', "write it as a string, or drop the key")
    said = [value for value in dict.fromkeys(given.values()) if value.strip()]
    if len(said) > 1:
        raise RowError('"system" and "system_prompt" differ', "keep one of the two")
    return said[0] if said else ""


def _opened(
    references: list[Any], members: Mapping[str, bytes] | None, opener: ImageOpener, limits: Limits
) -> tuple[Image, ...]:
    """The row's images. Raises: RowError at the first that cannot be used, or that is too much with those before it."""
    images: list[Image] = []
    pixels = 0
    for reference in references:
        image = opener.open(reference, members)
        pixels += image.width * image.height
        if pixels > limits.max_row_pixels:
            reason = f"more than {limits.max_row_pixels:,} pixels in its {len(references)} images together"
            raise RowError(reason, "scale the images down, or split the row")
        images.append(image)
    return tuple(images)


def _check_counts(messages: list[dict[str, Any]], references: list[Any], limits: Limits) -> None:
    chars = text_chars(messages)
    if chars > limits.max_text_chars:
        reason = f"{chars:,} characters of text, the limit is {limits.max_text_chars:,}"
        raise RowError(reason, "shorten the conversation, or split it into several rows")
    if len(messages) > limits.max_turns:
        reason = f"{len(messages):,} turns, the limit is {limits.max_turns:,}"
        raise RowError(reason, "split the conversation into several rows")
    if len(references) > limits.max_images:
        reason = f"{len(references)} images, the limit is {limits.max_images}"
        raise RowError(reason, "split the row, or drop it")
    tags = images_in(messages)
    if tags != len(references):
        reason = f"{tags} {TAG} tag(s) in the user's turns for {len(references)} image(s)"
        raise RowError(reason, f"put one {TAG} where each image belongs, in the order of the images")
