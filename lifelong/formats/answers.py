"""Several answers to one question, each of them right: those of VQA's annotators, of DocVQA, of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lifelong.formats.faults import RowError

ANSWERS = "answers"
MOST = 1000
"""Answers to one question."""
_LIST = 'write a list of texts, or of {"answer": text}'


def answers_in(value: Any, key: str = ANSWERS) -> list[str]:
    """The answers under a row's key, in their order, as often as each was given; nulls and empty ones left out.

    value: a list of texts or of objects with the text under "answer" (VQA, whose confidences do not count), or such a
    list by columns, {"answer": [texts], …} (`datasets`), or one text.
    Raises: RowError if it is anything else, or holds more than `MOST`.
    """
    if isinstance(value, Mapping) and isinstance(value.get("answer"), (list, tuple)):
        value = value["answer"]
    if isinstance(value, str):
        if value.lstrip().startswith(("[", "{")):
            raise RowError(f'"{key}" is a list written as text', "parse it with json.loads")
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise RowError(f'"{key}" holds a value of type {type(value).__name__}', _LIST)
    if len(value) > MOST:
        raise RowError(
            f'"{key}" holds {len(value):,} answers, the limit is {MOST:,}', "drop the row, or some of them"
        )
    texts = [each.get("answer") if isinstance(each, Mapping) else each for each in value]
    for found, text in zip(value, texts, strict=True):
        if isinstance(found, Mapping) and "answer" not in found:
            raise RowError(f'"{key}" holds an object without "answer"', _LIST)
        if text is not None and not isinstance(text, str):
            raise RowError(f'"{key}" holds a value of type {type(text).__name__}: {str(text)[:80]}', _LIST)
    return [text for text in texts if text is not None and text.strip()]


def most_given(answers: Sequence[str]) -> str:
    """The answer that was given most often, upper and lower case alike, as it was first spelled; of as many the first.

    Raises: RowError if there is none.
    """
    if not answers:
        raise RowError(
            f'"{ANSWERS}" is empty', "add the answers, or drop the row: a split without answers has none"
        )
    spelled = [" ".join(answer.casefold().split()) for answer in answers]
    counts = Counter(spelled)  # in the order of the first
    return answers[spelled.index(max(counts, key=counts.__getitem__))]
