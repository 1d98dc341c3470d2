"""From what a user names to files and their format: by content first, by name where content does not tell."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

from lifelong.formats.faults import DatasetError
from lifelong.formats.fields import CONVERSATION_KEYS
from lifelong.formats.jsontext import first_values
from lifelong.formats.pairs import spelled_otherwise

KINDS = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[^:/{}]*){0,2}")
_BRACES = re.compile(r"\{([^{}]+)\}")
_MAX_SHARDS = 100_000
_PEEK_BYTES = 1 << 16
_SPLIT = re.compile(r"(?<![a-z])(train|dev|val|valid|validation|test|testing|eval|evaluation)(?![a-z])")
_SAME_SPLIT = {"valid": "val", "validation": "val", "testing": "test", "evaluation": "eval"}
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}
_TABLES = (".csv", ".tsv")
DECISIONS = ".decisions.parquet"
"""End of the name of what a selection leaves beside the rows that it writes: of no dataset."""


def find_files(path: str | Path) -> tuple[Path, list[Path]]:
    """Return (the folder that file names are relative to, the files in order) of a dataset.

    A file is itself; `train-{000..003}.tar` is its shards; a folder is what `save_to_disk` wrote, or the
    files of one kind in it (or in its `data/`), those that begin with "train" where there are any, and
    otherwise all, if their names do not tell of several splits;
    `owner/name` that does not exist here is a name on the hub, unless HF_HUB_OFFLINE is set; `owner/name:subset` and
    `owner/name:subset:split` say which part of it (`owner/name::split`).
    Raises: DatasetError if nothing readable is there.
    """
    text, path = str(path), Path(path)
    if path.is_dir():
        return (path.parent, [path]) if is_saved_dataset(path) else (path, _files_in(path))
    if path.is_file():
        return path.parent, [path]
    if path.exists():
        raise DatasetError(f"{path} is neither a file nor a folder; pass a dataset")
    if _BRACES.search(text):
        files = [Path(name) for name in expand_braces(text)]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise DatasetError(
                f"{len(missing)} of the {len(files)} files of {text} are missing, e.g. {missing[0]}"
            )
        return Path(os.path.commonpath([file.parent for file in files])), files
    if is_hub_name(text, path):
        if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("0", "", "false", "no", "off"):
            return path.parent, [path]
        raise DatasetError(f"{text} does not exist here and HF_HUB_OFFLINE forbids to ask the hub; unset it")
    raise DatasetError(f"{path} does not exist; pass a file, a folder or a pattern like a-{{000..003}}.tar")


def is_hub_name(text: str, place: Path) -> bool:
    """Whether a dataset that is asked for by this text is one on the hub. place: where it would lie here."""
    return bool(_HUB_NAME.fullmatch(text)) and place.suffix not in KINDS and not place.parent.exists()


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def expand_braces(pattern: str) -> list[str]:
    """Expand {000..003} and {a,b} as a shell does; widths are kept.

    Raises: DatasetError at a brace that is neither, or at more than 100,000 names.
    """
    pieces = _BRACES.split(pattern)
    choices = [[piece] if number % 2 == 0 else _choices(piece) for number, piece in enumerate(pieces)]
    names = list(itertools.islice(map("".join, itertools.product(*choices)), _MAX_SHARDS + 1))
    if len(names) > _MAX_SHARDS:
        raise DatasetError(f"{pattern} stands for more than {_MAX_SHARDS:,} files; narrow the range")
    return names


def _choices(inside: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if 0 <= last - first <= _MAX_SHARDS:
            return [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
        raise DatasetError(f"{{{inside}}} is not a range of up to {_MAX_SHARDS:,} files that counts up")
    if "," in inside:
        return inside.split(",")
    raise DatasetError(f"{{{inside}}} is neither a range like {{000..003}} nor a list like {{a,b}}")


def _files_in(folder: Path) -> list[Path]:
    """The files of the one kind in a folder. Raises: DatasetError if there is none, or a choice of them."""
    places = [folder, folder / "data"]
    found = [
        sorted(
            file
            for file in place.iterdir()
            if file.suffix in KINDS and not file.name.endswith(DECISIONS) and file.is_file()
        )
        for place in places
        if place.is_dir()
    ]
    files = next((some for some in found if some), [])
    files = [file for file in files if file.name.startswith("train")] or files
    kinds = {KINDS[file.suffix] for file in files}
    if not files:
        known = ", ".join(KINDS)
        raise DatasetError(f"{folder} holds no file that ends in {known} (unpacked); name the file")
    if len(kinds) > 1 or (kinds == {"json"} and len(files) > 1):
        names = ", ".join(file.name for file in files[:5])
        raise DatasetError(f"{folder} holds several datasets ({names}); name the one that is meant")
    _refuse_splits(folder, files)
    return files


def _refuse_splits(folder: Path, files: list[Path]) -> None:
    """Raises: DatasetError if the files' names tell of more than one split."""
    splits: dict[str, Path] = {}
    for file in files:
        splits.setdefault(_split_of(file), file)
    if len(splits) > 1:
        names = ", ".join(file.name for file in splits.values())
        fix = "name one file, or one split's files as a pattern like test-{00000..00003}.parquet"
        raise DatasetError(f"{folder} holds several splits and no train-* ({names}); {fix}")


def _split_of(file: Path) -> str:
    """The split that a file's name tells of; "" if none."""
    found = _SPLIT.search(file.stem.lower())
    return _SAME_SPLIT.get(found[1], found[1]) if found else ""


def detect_format(file: Path) -> str:
    """Tell the format of one file or folder. Raises: DatasetError if neither content nor name tells."""
    if not file.is_file():
        return "huggingface"
    with file.open("rb") as stream:
        head = stream.read(_PEEK_BYTES)
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packed is not None:
        raise DatasetError(f"{file} is compressed ({packed}); decompress it first")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        return "webdataset"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = KINDS.get(file.suffix)
    if text.startswith(b"["):
        return _list_format(file)
    if text.startswith(b"{") and (kind == "jsonl" or _is_row(text.partition(b"\n")[0])):
        return "jsonl"
    if file.suffix.lower() in _TABLES:
        fix = "write it as Parquet (`datasets`: load_dataset, to_parquet)"
        raise DatasetError(f"{file} is a table in text, which is not read; {fix}")
    if kind is None:
        raise DatasetError(f"{file} is in no format that is known; pass --format if it has another name")
    return "sharegpt" if kind == "json" else kind


def _is_row(line: bytes) -> bool:
    """Whether the line is one JSON object with a conversation."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return any(key in value for key in CONVERSATION_KEYS) or spelled_otherwise(value)


def _list_format(file: Path) -> str:
    """LLaVA rows have an id and `image`; those with other keys, or all without ids, are ShareGPT's."""
    rows = [row for row in first_values(file) if isinstance(row, dict)]
    if any("messages" in row or "images" in row or spelled_otherwise(row) for row in rows):
        return "sharegpt"
    named = ["id" in row for row in rows]
    if (any("image" in row for row in rows) and any(named)) or (rows and all(named)):
        return "llava"
    return "sharegpt"
