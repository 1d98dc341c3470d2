"""A dataset of the Hugging Face `datasets` library: a `save_to_disk` folder, or a name on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifelong.formats.faults import FileError, Limits, first_line
from lifelong.formats.images import in_blobs
from lifelong.formats.parquet import arrow_records
from lifelong.formats.validate import Record

NEEDS_ID = False
SPLIT = "train"
_AGAIN = "save or fetch the dataset again"
_ON_THE_HUB = "name it as owner/name, owner/name:subset, owner/name:subset:split or owner/name::split"


def read(path: Path, limits: Limits) -> Iterator[Record]:
    """Yield the rows of the train split (or of the only split), with the images still encoded.

    A path that does not exist is taken for a name on the hub, with a subset and a split if it names them
    (owner/name:subset:split), and streamed from there.
    Raises: FileError if it cannot be opened or read.
    """
    return _saved_rows(path) if path.exists() else _streamed_rows(path)


def _saved_rows(path: Path) -> Iterator[Record]:
    """The rows of what `save_to_disk` wrote, in constant memory.

    Its tables are read as they are: `datasets` would open whatever file the state names, believe what is in it
    unchecked, and decode images wherever they are said to lie.
    """
    import pyarrow

    rows = 0
    for file in _tables(_split_folder(path), path):
        try:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                for batch in stream:
                    batch.validate(full=True)
                    yield from arrow_records(batch)
                    rows += batch.num_rows
        except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
            reason = f"{file.name} is not a whole Arrow file (read {rows} rows): {first_line(error)}"
            raise FileError(reason, _AGAIN) from None


def _split_folder(path: Path) -> Path:
    """The folder of the train split of a dataset dictionary, or of the dataset itself."""
    if not (path / "dataset_dict.json").is_file():
        return path
    splits = _json(path / "dataset_dict.json", path).get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise FileError('dataset_dict.json has no list "splits"', _AGAIN)
    if SPLIT not in splits and len(splits) != 1:
        raise FileError(
            f'no split "{SPLIT}" among {", ".join(splits)}', f"pass one split's folder: {path}/SPLIT"
        )
    return _inside(path, SPLIT if SPLIT in splits else splits[0], path)


def _tables(folder: Path, root: Path) -> list[Path]:
    """The Arrow files that a split's state names."""
    state = _json(folder / "state.json", root)
    try:
        return [_inside(folder, entry["filename"], root) for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise FileError('state.json has no list "_data_files" of file names', _AGAIN) from None


def _json(file: Path, root: Path) -> dict[str, Any]:
    try:
        found = json.loads(_inside(file.parent, file.name, root).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{file.name} cannot be read: {first_line(error)}", _AGAIN) from None
    if not isinstance(found, dict):
        raise FileError(f"{file.name} does not hold an object", _AGAIN)
    return found


def _inside(folder: Path, name: str, root: Path) -> Path:
    """A file or folder of the dataset by its name. Raises: FileError if it lies elsewhere."""
    try:
        found, resolved = Path(os.path.realpath(folder / name)), Path(os.path.realpath(root))
        inside = found.is_relative_to(resolved) or in_blobs(found, resolved)
    except ValueError:  # NUL, or half a character
        inside = False
    if not inside:
        raise FileError(f'"{name}" leaves the dataset\'s folder', "copy the file into it, under a plain name")
    return folder / name


def _streamed_rows(path: Path) -> Iterator[Record]:
    import datasets
    import pyarrow

    name, subset, split = [*path.as_posix().split(":"), "", ""][:3]
    rows = 0
    try:
        table = datasets.load_dataset(name, subset or None, split=split or SPLIT, streaming=True)
        for row in _undecoded(table):
            yield Record(row, row)
            rows += 1
    except (
        OSError,
        ValueError,
        KeyError,
        pyarrow.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:
        # The second line names the subsets that there are, where none was named.
        said = " ".join(str(error).splitlines()[:2]) or type(error).__name__
        raise FileError(f"`datasets` cannot read it (read {rows} rows): {said}", _ON_THE_HUB) from None


def _undecoded(table: Any) -> Any:
    """The same rows with images as {"bytes", "path"}: the limits are checked before anything is decoded."""
    import datasets

    return table.cast(datasets.Features(_encoded(dict(table.features)))) if table.features else table


def _encoded(feature: Any) -> Any:
    """The feature without any decoding in it: `datasets` decodes images, sound and films wherever their path leads."""
    if isinstance(feature, dict):
        return {name: _encoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_encoded(inner) for inner in feature]
    if hasattr(feature, "decode"):
        return replace(feature, decode=False)
    return replace(feature, feature=_encoded(feature.feature)) if hasattr(feature, "feature") else feature
