"""JSON in constant memory: the elements of one long list, or one value a line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lifelong.formats.faults import DEFAULT_LIMITS, FileError, Limits, RowError
from lifelong.formats.fields import check_json, too_deep
from lifelong.formats.unread import BASE64
from lifelong.formats.validate import Record

CHUNK_BYTES = 1 << 20
MAX_ROW_CHARS = 4 * 2**20
"""Of one row as it is written, without images in base64: far more than `Limits` lets through, read within a second."""
MAX_INLINE_CHARS = 90 * 2**20
"""Of one row with images in base64: room for one of `Limits.max_image_bytes`."""
_BOM = "\ufeff"
_SPACE = " \t\n\r"
_NOT_SPACE = re.compile(r"[^ \t\n\r]")
_INSIDE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
_DECODER = json.JSONDecoder()
_INLINE = re.compile('"' + BASE64 + r"[A-Za-z0-9+/=\\]*")
_QUOTED = re.compile(r'(?:\\.[^"\\]*)+|"', re.DOTALL)
_MARKS = re.compile(r'["{}\[\],]')
_BETWEEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\],]', re.DOTALL)


def list_records(path: Path, limits: Limits, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Record]:
    """Yield one record for each element of the JSON list in `path`, reading `chunk_bytes` at a time.

    What lies between two commas is parsed on its own, so that a malformed element costs one row. Elements
    before a fault of the file (cut off, not UTF-8) are yielded, then the fault is raised: whoever reads on
    learns of it, and whoever wants all or nothing reads to the end first.
    Raises: FileError where the file is not one whole JSON list in UTF-8, telling the row and the byte.
    """
    with path.open("rb") as file:
        for value in _elements(_Text(file, chunk_bytes)):
            if isinstance(value, Record):
                yield value
            else:
                yield json_record(value, limits) if isinstance(value, _Unread) else _checked(value, limits)


def line_records(path: Path, limits: Limits, max_chars: int = MAX_ROW_CHARS) -> Iterator[Record]:
    """Yield one record for each line of `path` that is not blank, one JSON value a line.

    A line that is too long is refused unread, as a fault of its row.
    Raises: FileError where the file is not UTF-8, or its last line is cut off.
    """
    offset, rows = 0, 0
    with path.open("rb") as file:
        while line := file.readline(max_chars + 1):
            if len(line) > max_chars:
                line = _with_images(file, line, max_chars)
            if len(line) > max_chars and _too_long(line.decode("latin-1"), max_chars):
                offset += len(line) + _skip_line(file, line, max_chars)
                yield _of_excess(f"the line is longer than {max_chars:,} bytes")
                rows += 1
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(line[error.start], offset + error.start) from None
            text = text.removeprefix(_BOM) if offset == 0 else text
            offset += len(line)
            if text.strip(_SPACE):
                record = json_record(text, limits)
                if record.raw is None and record.fault is not None and not text.endswith("\n"):
                    raise _cut_off(rows, offset)
                yield record
                rows += 1


def _with_images(file: BinaryIO, line: bytes, max_chars: int) -> bytes:
    """The beginning of a line, or as much of it as may be read where images in base64 make it long."""
    if line.endswith(b"\n") or _too_long(line.decode("latin-1"), max_chars):
        return line
    return line + file.readline(MAX_INLINE_CHARS + 1 - len(line))


def _too_long(text: str, limit: int) -> bool:
    """Whether a row, or its beginning, has more than `limit` characters beside its images in base64."""
    if len(text) <= limit:
        return False
    inline = sum(found.end() - found.start() for found in _INLINE.finditer(text))
    return len(text) > MAX_INLINE_CHARS or len(text) - inline > limit


def _of_excess(reason: str) -> Record:
    """The record of a row that was passed over."""
    reason = f"{reason} beside its images in base64, or than {MAX_INLINE_CHARS:,} with them"
    return Record(
        None,
        None,
        fault=RowError(reason, "split the row, keep its images as files, or close its quotes and brackets"),
    )


def _skip_line(file: BinaryIO, line: bytes, size: int) -> int:
    """Pass over the rest of a line; how many bytes that were."""
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(size)
        skipped += len(line)
    return skipped


def json_record(text: str, limits: Limits) -> Record:
    """Parse one JSON value as Python does and refuse, as a fault of the row, what is not plain JSON."""
    try:
        value = json.loads(text)
    except RecursionError:
        return Record(None, None, fault=too_deep(limits))
    except ValueError as error:
        reason = f"not valid JSON: {error}" if text.strip() else "nothing between two commas"
        return Record(None, None, fault=RowError(reason, "mend the row, or remove it"))
    return _checked(value, limits)


def _checked(value: Any, limits: Limits) -> Record:
    """The record of a value that was parsed."""
    try:
        check_json(value, limits)
    except RowError as fault:
        return Record(value, value, fault=fault)
    return Record(value, value)


class _Unread(str):
    """The text of an element that is still to be parsed."""


class _Text:
    """The not yet consumed text of a UTF-8 file, which grows on demand."""

    def __init__(self, file: BinaryIO, chunk_bytes: int) -> None:
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._bad: FileError | None = None
        self.bytes_read = 0
        self.text = ""
        if self.more():
            self.text = self.text.removeprefix(_BOM)

    def more(self) -> bool:
        """Append at least one character; False at the end of the file.

        Raises: FileError at bytes that are not UTF-8, after the text before them has been handed out.
        """
        if self._bad is not None:
            raise self._bad
        size = max(self._chunk_bytes, len(self.text))  # as much again: a long row stays linear in its length
        while True:
            chunk = self._file.read(size)
            start = self.bytes_read - len(self._decoder.getstate()[0])
            self.bytes_read += len(chunk)
            try:
                fresh = self._decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                self._bad = _not_utf8(error.object[error.start], start + error.start)
                fresh = error.object[: error.start].decode()
                if not fresh:
                    raise self._bad from None
            self.text += fresh
            if fresh or not chunk:
                return bool(fresh)

    def skip_space(self, position: int) -> int:
        """The position of the next character that is no white space; len(text) at the end of the file."""
        while True:
            found = _NOT_SPACE.search(self.text, position)
            if found is not None:
                return found.start()
            position = len(self.text)
            if not self.more():
                return position

    def drop(self, position: int) -> None:
        """Forget the text before `position`."""
        self.text = self.text[position:]


def _elements(text: _Text) -> Iterator[Any]:
    """Yield each element of the list: its value, its `_Unread` text where that could not be read in one go, or its
    record where it is too long."""
    position = text.skip_space(0)
    if position == len(text.text):
        raise FileError("the file is empty", "fetch it again, or remove it from the dataset")
    if text.text[position] != "[":
        what = "an object" if text.text[position] == "{" else f"text that starts with {text.text[position]!r}"
        reason = f"{what} where a JSON list of rows is expected"
        raise FileError(reason, "write the rows as one list [...], or pass --format if it is another format")
    start, rows, last = position + 1, 0, False
    first = text.skip_space(start)
    if text.text[first : first + 1] == "]":
        start, last = first + 1, True
    while not last:
        value, end = _parsed(text.text, start)
        if end < 0:
            start, end = _element_end(text, start, rows)
            value = _Unread(text.text[start:end])
        if end < 0 or (end - start > MAX_ROW_CHARS and _too_long(text.text[start:end], MAX_ROW_CHARS)):
            end = end if end >= 0 else _skip_element(text, rows)
            value = _of_excess(f"the row is longer than {MAX_ROW_CHARS:,} characters")
        yield value
        rows += 1
        last = text.text[end] == "]"
        start = end + 1
    if text.skip_space(start) < len(text.text):
        raise FileError(f"text after the end of the list (after row {rows - 1})", "keep one list in the file")


def _parsed(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at or after `start` and where its , or ] stands; -1 if it is not all there, or no JSON."""
    first = _NOT_SPACE.search(text, start)
    if first is None:
        return None, -1
    try:
        value, end = _DECODER.raw_decode(text, first.start())
    except (ValueError, RecursionError):
        return None, -1
    after = _NOT_SPACE.search(text, end)
    whole = after is not None and after.group() in ",]"
    return (value, after.start()) if after is not None and whole else (None, -1)


def _element_end(text: _Text, start: int, row: int) -> tuple[int, int]:
    """Return where the element begins (text before it may have been dropped) and where its , or ] stands.

    The latter is -1 if the element is too long; then it begins at 0.
    """
    position, depth = start, 0
    while True:
        found = (_INSIDE if depth else _BETWEEN).search(text.text, position)
        symbol = found.group() if found else '"'
        if found is None or symbol == '"':  # no token, or a string that has not ended: read on
            resume = found.start() if found else len(text.text)
            text.drop(start)
            position, start = resume - start, 0
            if _too_long(text.text, MAX_ROW_CHARS):
                return 0, -1
            if not text.more():
                raise _cut_off(row, text.bytes_read)
            continue
        position = found.end()
        if symbol in "{[":
            depth += 1
        elif depth and symbol in "}]":
            depth -= 1
        elif symbol in ",]":
            return start, found.start()
        elif symbol == "}":
            raise FileError(f"a stray }} after row {row}", "mend the brackets there")


def _skip_element(text: _Text, row: int) -> int:
    """Pass over the element that begins at 0 and is too long, dropping it; where its , or ] stands."""
    position, depth, quoted = 0, 0, False
    while True:
        found = (_QUOTED if quoted else _MARKS).search(text.text, position)
        if found is None:
            half = quoted and text.text.endswith("\\", position)  # of an escape
            text.drop(len(text.text) - half)
            position = 0
            if not text.more():
                reason = f"row {row} is longer than {MAX_ROW_CHARS:,} characters and does not end"
                raise FileError(reason, "look for a quote or a bracket that is not closed in that row")
            continue
        symbol, position = found.group(), found.end()
        if symbol == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif symbol in "{[":
            depth += 1
        elif depth and symbol in "}]":
            depth -= 1
        elif not depth and symbol in ",]":
            return found.start()


def _cut_off(rows: int, byte: int) -> FileError:
    where = f"after row {rows - 1}" if rows else "in the first row"
    return FileError(f"cut off {where}, at byte {byte}", "fetch the file again; this copy is incomplete")


def _not_utf8(value: int, byte: int) -> FileError:
    reason = f"not UTF-8: byte 0x{value:02x} at offset {byte}"
    encoding = "UTF-16" if byte == 0 and value in (0xFE, 0xFF) else "ISO-8859-1"  # its byte order mark
    return FileError(reason, f"convert it, e.g. iconv -f {encoding} -t UTF-8 FILE")


def first_values(path: Path, count: int = 20) -> list[Any]:
    """The first values of a JSON list, for telling formats apart; as many as can be read."""
    values: list[Any] = []
    try:
        for record in list_records(path, DEFAULT_LIMITS):
            values.append(record.raw)
            if len(values) == count:
                break
    except FileError:
        pass
    return values
