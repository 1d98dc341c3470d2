"""The rules that every row must pass, whatever its format: from a record to a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lifelong.formats import shapes
from lifelong.formats.faults import Limits, RowError
from lifelong.formats.images import ImageOpener
from lifelong.formats.unread import refuse_images
from lifelong.samples import Sample, content_id, text_chars


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
    source_id = shapes.source_id(fields)
    if needs_id and source_id is None:
        reason = 'no "id", which the LLaVA format requires'
        raise RowError(reason, "add a unique id, or pass --format sharegpt, where it is optional")
    messages, own_references = shapes.messages_of(fields)
    references = shapes.image_references(fields)
    if own_references and references:
        reason = "images are named both in the turns' parts and in a list of their own"
        raise RowError(reason, "keep one of the two")
    references = references or own_references
    if record.members and (not references or len(references) == len(record.members) == 1):
        references = list(record.members)  # the archive tells which image it is, whatever the row calls it
    references = references or shapes.image_of_folder(fields)
    refuse_images(fields, references, shapes.READ_KEYS)
    shapes.show_first(fields, messages, len(references))
    _check_counts(messages, references, limits)
    images = tuple(opener.open(reference, record.members) for reference in references)
    return Sample(content_id(messages, [image.sha256 for image in images]), source_id, messages, images)


def _check_counts(messages: list[dict[str, Any]], references: list[Any], limits: Limits) -> None:
    chars = text_chars(messages)
    if chars > limits.max_text_chars:
        reason = f"{chars:,} characters of text, the limit is {limits.max_text_chars:,}"
        raise RowError(reason, "shorten the conversation, or split it into several rows")
    if len(references) > limits.max_images:
        reason = f"{len(references)} images, the limit is {limits.max_images}"
        raise RowError(reason, "split the row, or drop it")
    tags = shapes.images_in(messages)
    if tags != len(references):
        reason = f"{tags} {shapes.TAG} tag(s) in the user's turns for {len(references)} image(s)"
        raise RowError(reason, f"put one {shapes.TAG} where each image belongs, in the order of the images")
