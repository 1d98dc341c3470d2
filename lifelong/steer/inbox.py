"""A folder that datasets are dropped into: which have arrived whole, in which order, and taking one out.

    INBOX/release.json                 a dataset file; what goes with it may stand in INBOX/release.yaml
    INBOX/release/                     a folder with dataset files; what goes with it may stand in its dataset.yaml
    INBOX/release.yaml                 names all of it: train, images, eval, eval_images, skill, metric …
    INBOX/taken/000001-release/        taken, with entry.json, and with report.json once it is done
    INBOX/refused/000002-other/        refused, with refused/000002-other.report.json beside it

A name that begins with a dot, or ends as a download under way does (.part, .tmp …), is left alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lifelong.errors import InputError
from lifelong.formats.detect import KINDS, expand_braces
from lifelong.stream import FIELDS, NOTES, PATHS
from stores.commit import fsync_folder

TAKEN, REFUSED = "taken", "refused"
DETAILS = (".yaml", ".yml")
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".swp", ".ready", "~")
ENTRY, REPORT, INSIDE = "entry.json", "report.json", "dataset.yaml"
READY = ".ready"

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that arrived. parts: what moves together, names in the inbox; fields: as in a stream file."""

    name: str
    parts: tuple[str, ...]
    fields: dict[str, str]
    fault: str = ""
    """Why its details cannot be used, or ""."""


@dataclass(slots=True)
class Inbox:
    """A folder that is looked at again and again. settle: seconds for which a size and time must stand still."""

    root: Path
    settle: float = 10.0
    marked: bool = False
    """Take only what has a file NAME.ready beside it."""
    _seen: dict[str, tuple[Signature, float]] = field(default_factory=dict)

    def ready(self, now: float, clock: float) -> Entry | None:
        """The entry that arrived first of those that are whole; None if there is none.

        now: seconds of a clock that never goes back; clock: seconds since the epoch, as files have them.
        """
        whole: list[tuple[int, str, Entry]] = []
        seen: dict[str, tuple[Signature, float]] = {}
        for entry in self.entries():
            found = signature(self.root, entry)
            before, since = self._seen.get(entry.name, (found, now))
            seen[entry.name] = (found, since if before == found else now)
            still = now - seen[entry.name][1] >= self.settle and clock - _touched(found) >= self.settle
            marked = not self.marked or (self.root / f"{entry.name}{READY}").exists()
            if still and marked and found:
                whole.append((_arrived(self.root, entry), entry.name, entry))
        self._seen = seen
        return min(whole, key=lambda each: each[:2])[2] if whole else None

    def entries(self) -> list[Entry]:
        """Everything in the inbox, whole or not."""
        self.root.mkdir(parents=True, exist_ok=True)
        names = sorted(name for name in os.listdir(self.root) if not _left_alone(name))
        found = [_described(self.root, name, names) for name in names if name.endswith(DETAILS)]
        claimed = {part for entry in found for part in entry.parts}
        for name in names:
            if name in claimed:
                continue
            if (self.root / name).is_dir():
                found.append(_folder(self.root, name))
            elif Path(name).suffix in KINDS:
                found.append(Entry(name, (name,), {"train": name}))
        return found

    def take(self, entry: Entry) -> Path:
        """Move an entry into a folder of its own under taken/; killed on the way, `taken` finishes it."""
        folder = (
            self.root / TAKEN / f"{self._next():06d}-{re.sub(r'[^A-Za-z0-9._-]', '_', Path(entry.name).stem)}"
        )
        folder.mkdir(parents=True)
        _write(folder / ENTRY, asdict(entry))
        _move(self.root, folder, entry)
        return folder

    def taken(self) -> Iterator[Path]:
        """The folders taken whose outcome is not on record, first taken first."""
        for folder in sorted((self.root / TAKEN).glob("*/")):
            if not (folder / ENTRY).exists():
                # Killed before it knew what it had taken: nothing had been moved.
                shutil.rmtree(folder)
            elif not (folder / REPORT).exists():
                _move(self.root, folder, entry_of(folder))
                yield folder

    def reports(self) -> list[Path]:
        """All reports, in order of taking."""
        found = [*(self.root / TAKEN).glob(f"*/{REPORT}"), *(self.root / REFUSED).glob(f"*.{REPORT}")]
        return sorted(found, key=lambda path: path.name if path.name != REPORT else path.parent.name)

    def done(self, folder: Path, report: dict[str, Any]) -> Path:
        """Put a report into a folder that was taken."""
        return _write(folder / REPORT, report)

    def refuse(self, folder: Path, report: dict[str, Any]) -> Path:
        """Move a folder that was taken aside, with its report beside it."""
        (self.root / REFUSED).mkdir(exist_ok=True)
        path = _write(self.root / REFUSED / f"{folder.name}.{REPORT}", report)
        os.replace(folder, self.root / REFUSED / folder.name)
        fsync_folder(self.root / REFUSED)
        return path

    def _next(self) -> int:
        places = [(self.root / place).glob("[0-9]*-*") for place in (TAKEN, REFUSED)]
        numbers = [int(path.name.split("-")[0]) for paths in places for path in paths]
        return max(numbers, default=0) + 1


def entry_of(folder: Path) -> Entry:
    """What was taken into a folder."""
    values = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    return Entry(values["name"], tuple(values["parts"]), values["fields"], values["fault"])


def feed_of(folder: Path, inbox: Path) -> dict[str, str]:
    """What to feed of a folder that was taken: arguments of `Run.feed`, the dataset as `dataset`.

    Raises:
        InputError: what was written about it cannot be used.
    """
    entry = entry_of(folder)
    if entry.fault:
        raise InputError(entry.fault)
    given = dict(entry.fields)
    for name in PATHS:
        if name in given:
            inside = bool(_heads(given[name]) & set(entry.parts))
            given[name] = str((folder if inside else inbox).absolute() / given[name])
    given["dataset"] = given.pop("train")
    given.setdefault("name", Path(entry.name).stem)
    return {name: value for name, value in given.items() if name not in NOTES}


def signature(root: Path, entry: Entry) -> Signature:
    """Name, size and time of change of every file of an entry."""
    found = []
    for path in _files(root, entry):
        try:
            status = path.stat()
        except OSError:
            continue  # it is being moved about: not the same as before, not the same as later
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def _files(root: Path, entry: Entry) -> Iterator[Path]:
    for part in entry.parts:
        path = root / part
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def _touched(found: Signature) -> float:
    return max((changed for _, _, changed in found), default=0) / 1e9


def _arrived(root: Path, entry: Entry) -> int:
    """When the last of an entry came to be under its name: a rename or a last write, in nanoseconds."""
    paths = [*(root / part for part in entry.parts), *_files(root, entry)]
    return max((path.stat().st_ctime_ns for path in paths if path.exists()), default=0)


def _left_alone(name: str) -> bool:
    return name in (TAKEN, REFUSED) or name.startswith(".") or name.endswith(UNFINISHED)


def _described(root: Path, name: str, names: list[str]) -> Entry:
    """An entry by its details, and whatever lies beside them in the inbox that they name."""
    values, fault = _details(root / name)
    beside = [each for each in names if each != name and Path(each).stem == Path(name).stem]
    values.setdefault("train", beside[0] if beside else "")
    inside = {head for key in PATHS for head in _heads(values.get(key, ""))}
    parts = (name, *sorted({*beside, *(part for part in inside if part in names)} - {name}))
    if not values["train"] and not fault:
        fault = (
            f"{name} names no dataset: write `train: FILE`, or give it the name of one that lies beside it"
        )
    return Entry(beside[0] if beside else name, parts, values, fault)


def _heads(path: str) -> set[str]:
    """What a path, or a pattern like a-{000..003}.tar, begins with: the names in the inbox that it means."""
    return {Path(each).parts[0] for each in expand_braces(path) if each}


def _folder(root: Path, name: str) -> Entry:
    path = root / name / INSIDE
    if not path.is_file():
        evals = {"train": name}
        return Entry(name, (name,), evals)
    values, fault = _details(path)
    for key in PATHS:
        if key in values:
            values[key] = f"{name}/{values[key]}"
    return Entry(name, (name,), {"train": name, **values}, fault)


def _details(path: Path) -> tuple[dict[str, str], str]:
    """The fields in a file of details, and what is wrong with it."""
    import yaml

    from lifelong.plainyaml import read_yaml

    try:
        values = read_yaml(path) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, f"cannot read {path.name}: {error}"
    if not isinstance(values, dict):
        return {}, f"{path.name} is no set of fields; write for example `skill: charts`"
    wrong = [
        str(key)
        for key, value in values.items()
        if key not in (*FIELDS, *NOTES) or not isinstance(value, str)
    ]
    if wrong:
        return (
            {},
            f"{path.name}: {', '.join(wrong)}: no such field, or not text; fields are {', '.join(FIELDS)}",
        )
    return values, ""


def _move(root: Path, folder: Path, entry: Entry) -> None:
    for part in entry.parts:
        if (root / part).exists():
            os.replace(root / part, folder / part)
    (root / f"{entry.name}{READY}").unlink(missing_ok=True)
    fsync_folder(folder)
    fsync_folder(root)


def _write(path: Path, values: dict[str, Any]) -> Path:
    staged = path.with_name(f".{path.name}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(values, file, ensure_ascii=False, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    fsync_folder(path.parent)
    return path


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Replace a report."""
    _write(path, report)
