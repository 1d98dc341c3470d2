"""WebDataset: tar files whose members of one name up to the first dot make one sample (.json and images)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lifelong.formats.faults import FileError, Limits, RowError, first_line
from lifelong.formats.jsontext import MAX_ROW_CHARS, json_record
from lifelong.formats.pairs import ASK_FOR_CAPTION
from lifelong.formats.unread import IMAGE_SUFFIXES
from lifelong.formats.validate import Record

NEEDS_ID = False
_BLOCK = tarfile.BLOCKSIZE
_PADDING = 1 << 20


def read(path: Path, limits: Limits) -> Iterator[Record]:
    """Yield one record for each run of members that share a key, holding one sample in memory.

    A record's `raw` is its members' bytes by name, in the order of the archive.
    Raises: FileError where a header or the end of the archive is damaged or missing.
    """
    with path.open("rb") as file:
        key: str | None = None
        group: dict[str, bytes] = {}
        fault: RowError | None = None
        for member, data, wrong in _members(file, limits):
            if key_of(member) != key:
                if group or fault:
                    yield _record(group, fault, limits)
                key, group, fault = key_of(member), {}, None
            fault = fault or wrong or _excess(member, group, limits)
            if fault is None:
                group[member] = data
        if group or fault:
            yield _record(group, fault, limits)
        _refuse_more(file)


def key_of(member: str) -> str:
    """The member's folder and its base name up to the first dot, as WebDataset groups files."""
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _members(file: BinaryIO, limits: Limits) -> Iterator[tuple[str, bytes, RowError | None]]:
    """Yield (name, bytes, what is wrong with the member) for each member that is no folder."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header otherwise
                if member.size < 0 or archive.offset <= end:
                    raise tarfile.HeaderError("a member of negative size")
                end = archive.offset
                if member.isdir():
                    continue
                fault = _member_fault(member, limits)
                stream = archive.extractfile(member) if fault is None else None
                yield member.name, stream.read() if stream else b"", fault
            end = archive.offset
    except OSError:
        raise
    except Exception as error:  # tarfile raises anything on damaged headers, e.g. RecursionError
        reason = f"not a whole tar file: {first_line(error)}"
        raise FileError(reason, "fetch the file again; it is damaged") from None
    # tarfile takes a damaged later header for the end of the archive; the real end is a block of zeros.
    file.seek(end)
    block = file.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "a damaged header" if block else "cut off, the end mark is missing,"
        raise FileError(f"{what} at byte {end}", "fetch the file again; this copy is damaged")


def _refuse_more(file: BinaryIO) -> None:
    """Raises: FileError if anything but zeros is behind the end mark of an archive, where the file stands."""
    end = file.tell()
    while block := file.read(_PADDING):
        if block.strip(b"\0"):
            reason = f"more follows the end of the archive at byte {end}, and is not read"
            raise FileError(reason, "pass archives that were joined into one file as files of their own")


def _member_fault(member: tarfile.TarInfo, limits: Limits) -> RowError | None:
    if not member.isreg():
        return RowError(f'"{member.name}" is a link or a device', "pack regular files only")
    if any("\ud800" <= mark <= "\udfff" for mark in member.name):
        return RowError(f'"{member.name}" is not a name in UTF-8', "rename the member")
    if not member.name.lower().endswith((".json", *IMAGE_SUFFIXES)):
        fix = f"use .json and {', '.join(IMAGE_SUFFIXES)}"
        if member.name.lower().endswith((".txt", ".caption")):  # as img2dataset packs captions
            fix = f"{ASK_FOR_CAPTION}, in the .json, and leave this member out"
        return RowError(f'"{member.name}" is neither .json nor an image', fix)
    limit = MAX_ROW_CHARS if member.name.lower().endswith(".json") else limits.max_image_bytes
    if member.size > limit:
        reason = f'"{member.name}" is too large: {member.size:,} bytes, the limit is {limit:,}'
        return RowError(reason, "encode it in fewer bytes, or drop the sample")
    return None


def _excess(member: str, group: dict[str, bytes], limits: Limits) -> RowError | None:
    if member in group:
        return RowError(f'"{member}" occurs twice', "give each sample a key of its own")
    if len(group) > limits.max_images:
        reason = f'more than {limits.max_images} images share the key "{key_of(member)}"'
        return RowError(reason, "give each sample a key of its own")
    return None


def _record(group: dict[str, bytes], fault: RowError | None, limits: Limits) -> Record:
    texts = [name for name in group if name.lower().endswith(".json")]
    if fault is None and len(texts) != 1:
        listed = ", ".join(group)
        reason = f"{len(texts)} .json members for one sample ({listed})"
        fault = RowError(reason, "pack one .json and its images under one key, next to each other")
    if fault is not None:
        return Record(group, None, fault=fault)
    try:
        text = group[texts[0]].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = RowError(f'"{texts[0]}" is not UTF-8 at byte {error.start}', "convert it to UTF-8")
        return Record(group, None, fault=fault)
    parsed = json_record(text, limits)
    images = {name: data for name, data in group.items() if name != texts[0]}
    return Record(group, parsed.fields, images, parsed.fault)
