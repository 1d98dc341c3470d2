"""A stream: datasets in the order of their release, as a YAML file names them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lifelong.context import Feed
from lifelong.errors import InputError
from lifelong.formats.detect import is_hub_name

FIELDS = ("name", "skill", "format", "train", "images", "eval", "metric", "eval_images", "eval_format")
PATHS = ("train", "images", "eval", "eval_images")
NOTES = ("licence", "license", "origin", "source")
"""Fields that describe a dataset to a reader; cards repeat them."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Datasets in order, with absolute paths."""

    name: str
    datasets: list[Feed]


def read_stream(path: Path) -> Stream:
    """Read a stream file; paths in it are relative to the file.

    Raises:
        InputError: naming the file, the dataset and the field that is missing, unknown or wrong.
    """
    import yaml

    from lifelong.plainyaml import read_yaml

    try:
        values = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the stream {path}: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("datasets"), list):
        raise InputError(f"{path}: a stream is `name:` and a list `datasets:`")
    datasets = [_feed(path, number, entry) for number, entry in enumerate(values["datasets"], 1)]
    names = [feed.name for feed in datasets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two datasets are named {name!r}; give each a name of its own")
    return Stream(str(values.get("name") or path.stem), datasets)


def _feed(path: Path, number: int, entry: Any) -> Feed:
    where = f"{path}: dataset {number}"
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a set of fields: write {{name: …, train: …}}")
    for name in ("name", "train"):
        if not entry.get(name):
            raise InputError(f"{where} ({entry.get('name', 'no name')}) has no field {name!r}")
    where += f" ({entry['name']})"
    for name, value in entry.items():
        if name not in FIELDS + NOTES:
            near = get_close_matches(str(name), FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; fields are {', '.join(FIELDS)}"
            raise InputError(f"{where}: unknown field {name!r}{hint}")
        if not isinstance(value, str):
            raise InputError(f"{where}: field {name!r} is {value!r}; write text")
    folder = path.absolute().parent
    return Feed(
        name=entry["name"],
        train=located(entry["train"], folder),
        skill=entry.get("skill") or entry["name"],
        images=str(folder / entry["images"]) if entry.get("images") else None,
        format=entry.get("format"),
        eval=located(entry["eval"], folder) if entry.get("eval") else None,
        metric=entry.get("metric"),
        licence=entry.get("licence") or entry.get("license"),
        origin=entry.get("origin") or entry.get("source"),
        eval_images=str(folder / entry["eval_images"]) if entry.get("eval_images") else None,
        eval_format=entry.get("eval_format"),
    )


def located(text: str, folder: Path) -> str:
    """A path in a stream file as an absolute one; the name of a hub dataset stays as it is."""
    place = folder / text
    return text if is_hub_name(text, place) else str(place)
