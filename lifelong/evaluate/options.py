"""The options of a multiple-choice question, written as its reference answer is written.

>>> options_of("Which one?\\nA. red\\nB. blue", "B")
['A', 'B']
>>> options_of("Which one? Options: red, blue", "blue")
['red', 'blue']
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

_LETTERED = re.compile(r"\s*(\(?([A-Z])[.:)])\s+(\S.*?)\s*")  # "A. text", "A: text", "(A) text"
_ANY_CASE = re.compile(_LETTERED.pattern, re.IGNORECASE)
_MARK = re.compile(r"\(([A-Z])\)\s+")  # "(A) red (B) blue" on one line
_BEFORE = re.compile(r"(?:the )?answer(?: is)?:\s*(?=\S)", re.IGNORECASE)  # of a reference "Answer: B"
_BULLET = re.compile(r"\s*[-*•]\s+(\S.*?)\s*")  # "- text"
_INLINE = re.compile(r"\boptions?:[ \t]*(\S.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)  # "Options: a, b, c"


def options_of(question_text: str, reference: str, row_options: Any = None) -> list[str]:
    """The answers to choose from, in the question's order; `reference` is one of them.

    question_text: the user's text, line breaks kept. Understood: lines "A. text", "A: text", "(A) text" or "a) text",
    also with empty lines between them, and "(A) text (B) text" on one line (the reference may be the letter, the letter
    with its punctuation, the text or the whole line), bullet lines "- text", and "Options: a, b, c" on one line. A
    reference "Answer: B" makes every option one with "Answer: " before it.
    row_options: the row's own `options` field, which wins over the text: a list of texts or numbers, the same
    written as one text ("['a', 'b']"), or an object, whose keys or values they are. Where the text lists the same ones
    by letter, the reference may be the letter.
    Raises ValueError if no options are found, the field holds anything else, or the reference is not among them
    (exactly, white space at the ends apart).
    """
    wanted = reference.strip()
    readings = [_stripped(reading) for reading in _readings(question_text)]
    if row_options is not None:
        own = [_stripped(reading) for reading in _readings_of_field(row_options)]
        listed = any(sorted(reading) == sorted(each) for reading in readings for each in own)
        readings = own + (readings if listed else [])
    before = _BEFORE.match(wanted)
    for prefix in ["", *([before.group()] if before else [])]:
        for options in readings:
            if wanted.removeprefix(prefix) in options:
                return [prefix + option for option in options]
    where = f"question {_shorten(question_text)!r}"
    if not readings:
        raise ValueError(f'{where}: no options found; list them as lines "A. text" or "- text", {_ELSE}')
    raise ValueError(
        f"{where}: the reference {reference!r} is not one of the options {readings[0]}; "
        f'write it as one of them, or list others: "A. text" or "- text" on lines, {_ELSE}'
    )


def _stripped(reading: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(option.strip() for option in reading))


_ELSE = (
    'as "Options: a, b", or in an `options` field beside `conversations` or `messages` (a row of `question` and '
    "`answer` has them in its question)"
)


def _readings_of_field(field: Any) -> list[list[str]]:
    """Every way to read options out of a row's own field."""
    if isinstance(field, Mapping):
        # A Parquet file gives every row the keys of all.
        there = {str(key): value for key, value in field.items() if value is not None}
        return [list(there), _texts(list(there.values()))]
    return [_texts(_literal(field) if isinstance(field, str) else field)]


def _literal(text: str) -> Any:
    """The list that a text spells, as JSON or as Python; None if it spells none."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list) else _refuse_field(text)
    return _refuse_field(text)


def _texts(found: Any) -> list[str]:
    """Options as texts. Raises: ValueError unless they are a list of texts and numbers."""
    if not isinstance(found, (list, tuple)) or not found:
        _refuse_field(found)
    for option in found:
        if isinstance(option, bool) or not isinstance(option, (str, int, float)):
            _refuse_field(found)
    return [str(option) for option in found]


def _refuse_field(found: Any) -> NoReturn:
    raise ValueError(
        f'its `options` are {_shorten(repr(found))}; write a list of texts, such as ["red", "blue"]'
    )


def _readings(text: str) -> Iterator[list[str]]:
    """Every way to read options out of the text, the most explicit first."""
    lines = text.splitlines()
    yield from _lettered(_last_lettered_block(lines, _LETTERED))
    bullets = _last_bullet_block(lines)
    if bullets:
        yield bullets
    inline = _INLINE.findall(text)
    if inline:
        yield [option.strip() for option in inline[-1].removesuffix(".").split(",")]
    yield from _lettered(_last_lettered_block([line for line in lines if line.strip()], _ANY_CASE))
    for line in reversed(lines):
        yield from _lettered(_lettered_in(line))


def _lettered(block: list[tuple[str, str, str]]) -> Iterator[list[str]]:
    """The ways to name the options of a block of (mark, letter, text)."""
    if block:
        marks, letters, texts = zip(*block, strict=True)
        yield from (list(letters), list(texts), list(marks))
        yield [f"{mark} {option}" for mark, option in zip(marks, texts, strict=True)]


def _lettered_in(line: str) -> list[tuple[str, str, str]]:
    """(mark, letter, text) of "(A) text (B) text" in one line; at least two, in order from A."""
    marks = list(_MARK.finditer(line))
    ends = [*(mark.start() for mark in marks[1:]), len(line)]
    block = [
        (mark.group().strip(), mark.group(1), line[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=False)
    ]
    in_order = [letter for _, letter, _ in block] == [chr(ord("A") + i) for i in range(len(block))]
    return block if in_order and len(block) >= 2 and all(text for *_, text in block) else []


def _last_lettered_block(lines: list[str], pattern: re.Pattern[str]) -> list[tuple[str, str, str]]:
    """(mark, letter, text) of the last run of lines lettered A, B, C… in order; at least two lines."""
    last: list[tuple[str, str, str]] = []
    block: list[tuple[str, str, str]] = []
    for line in lines:
        match = pattern.fullmatch(line)
        if match is None:
            block = []
            continue
        mark, letter, option = match.groups()
        if letter in "Aa":
            block = []
        in_order = letter.upper() == chr(ord("A") + len(block))
        block = [*block, (mark, letter, option)] if in_order else []
        if len(block) >= 2:
            last = block
    return last


def _last_bullet_block(lines: list[str]) -> list[str]:
    """Texts of the last run of bullet lines; at least two lines."""
    last: list[str] = []
    block: list[str] = []
    for line in lines:
        match = _BULLET.fullmatch(line)
        block = [*block, match.group(1)] if match else []
        if len(block) >= 2:
            last = block
    return last


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
