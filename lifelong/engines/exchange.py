"""Where files change hands: the run's folder itself, or a place (file, s3, gs) that all reach.

In an exchange `in/` holds what workers need, `out/` what they made, all of it named by content, and `claims/` who made
what. The run's folder stays the whole truth: what comes back is checked against its hash, committed there and then
recorded. What a worker had finished when the run's process died is taken when the run goes on, not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from lifelong.config import RunConfig
from lifelong.engines.base import Files, Job, RunFolder
from lifelong.errors import RunError, UsageError
from stores.commit import HASH_CHARS, Committed, commit_file, commit_tree, content_hash
from stores.errors import DamagedError, StoreError
from stores.media import MediaRow, read_media
from stores.scratch import ScratchFolder

if TYPE_CHECKING:
    from lifelong.engines.work import Written

FETCHED = 4
"""Adapters and training states that a worker keeps at hand, the last it asked for: they would fill its disk."""
AT_ONCE = 256 << 20
"""Bytes of images that are fetched together; more of them are fetched one by one, when they are read."""
COMPUTES = ("lifelong", "torch", "transformers", "peft", "numpy")


class Exchange(Protocol):
    """The side of the run's process."""

    @property
    def files(self) -> Files:
        """The workers' side."""
        ...

    def offer(self, name: str) -> None:
        """Bring a file or folder of the run to where workers find it."""
        ...

    def withdraw(self, name: str) -> None:
        """Remove what was offered and no worker will ask for again."""
        ...

    def offer_images(self, places: Mapping[str, MediaRow]) -> None: ...

    def key(self, job: Job[Any]) -> str:
        """What a finished piece of work is found by; "" where it leaves nothing to find."""
        ...

    def claimed(self, key: str) -> Written | None:
        """What a worker has made of a piece of work, if it is there and whole; it is then in the run's folder."""
        ...

    def receive(self, committed: Committed) -> None:
        """Commit in the run's folder what a worker delivered. Raises: StoreError if it did not come through whole."""
        ...

    def clear(self, key: str, committed: Committed) -> None:
        """Remove what has been received and recorded."""
        ...


@dataclass(frozen=True, slots=True)
class NoExchange:
    """All workers reach the run's folder by its path."""

    root: Path

    @property
    def files(self) -> Files:
        return RunFolder(self.root)

    def offer(self, name: str) -> None:
        pass

    def withdraw(self, name: str) -> None:
        pass

    def offer_images(self, places: Mapping[str, MediaRow]) -> None:
        pass

    def key(self, job: Job[Any]) -> str:
        return ""

    def claimed(self, key: str) -> Written | None:
        return None

    def receive(self, committed: Committed) -> None:
        pass

    def clear(self, key: str, committed: Committed) -> None:
        pass


class UrlExchange:
    """An exchange at a URL. Credentials are those that the file system finds by itself, in the environment, say."""

    def __init__(self, url: str, root: Path, config: RunConfig) -> None:
        self._place = _Place(url.rstrip("/"))
        self._root = root
        self._config = config
        self._offered: set[str] = set()
        _opened(self._place.url)

    @property
    def files(self) -> Files:
        return UrlFiles(self._place.url)

    def offer(self, name: str) -> None:
        if name in self._offered:
            return
        source = self._root / name
        inner = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        for file in inner:
            self._place.put(file, f"in/{file.relative_to(self._root).as_posix()}")
        self._offered.add(name)

    def withdraw(self, name: str) -> None:
        self._place.remove(f"in/{name}")
        self._offered.discard(name)

    def offer_images(self, places: Mapping[str, MediaRow]) -> None:
        for row in places.values():
            if row.kind == "packed":
                self.offer(row.path)
            elif row.sha256 not in self._offered:
                read_media(self._root, row)  # it must be what it was
                self._place.put(Path(row.path), _referenced(row))
                self._offered.add(row.sha256)

    def key(self, job: Job[Any]) -> str:
        from lifelong.engines.work import MeasureBlock, TrajectoryBlock

        if not isinstance(job, (MeasureBlock, TrajectoryBlock)):
            return ""
        config = self._config
        asked = [*sorted(job.plan.signals), repr(job.plan.gradient)] if isinstance(job, MeasureBlock) else []
        every = job.every.tolist() if isinstance(job, MeasureBlock) else []
        parts = [
            *(getattr(config, name).model_dump(mode="json") for name in ("model", "lora", "measure")),
            config.seed,
            asdict(job.shard),
            job.adapter,
            asked,
            every,
            [(row.ordinal, row.sample_id) for row in job.rows],
            [version(package) for package in COMPUTES],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def claimed(self, key: str) -> Written | None:
        from lifelong.engines.work import Written

        try:
            found = json.loads(self._place.read(_claim(key)))
            written = Written(Committed(**found["committed"]), found["rows"])
            self.receive(written.committed)
        except (FileNotFoundError, ValueError, TypeError, KeyError, StoreError):
            return None  # it is made again
        return written

    def receive(self, committed: Committed) -> None:
        path = PurePosixPath(committed.path)
        stem = path.name.removesuffix(path.suffix)[: -1 - HASH_CHARS] if path.suffix else ""
        folder, away = path.parent.as_posix(), f"out/{committed.path}"
        if path.suffix:
            got = commit_file(self._root, folder, stem, path.suffix, lambda to: self._place.get(away, to))
        else:
            stem = path.name[: -1 - HASH_CHARS]
            got = commit_tree(self._root, folder, stem, lambda to: self._place.get_tree(away, to))
        if got != committed:
            (self._root / got.path).unlink() if path.suffix else shutil.rmtree(self._root / got.path)
            raise DamagedError(
                f"{self._place.url}/{away} did not come through whole: its sha256 is {got.sha256} and its worker "
                f"said {committed.sha256}. Go on with `lifelong resume {self._root}`, and see to the exchange"
            )

    def clear(self, key: str, committed: Committed) -> None:
        for name in (f"out/{committed.path}", *([_claim(key)] if key else [])):
            self._place.remove(name)


class UrlFiles:
    """A worker's side of an exchange: what it needs comes to a folder of its own, what it makes goes from there."""

    def __init__(self, url: str) -> None:
        self._place = _Place(url)
        self._fetched: list[Path] = []

    @property
    def root(self) -> Path:
        return _own_folder().path / "made"

    def path(self, name: str) -> Path:
        here = _own_folder().path / "fetched" / name
        self._fetched = [*(path for path in self._fetched if path != here), here]
        while len(self._fetched) > FETCHED:
            shutil.rmtree(self._fetched.pop(0), ignore_errors=True)
        if not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            coming = here.with_name(f".coming-{here.name}")
            shutil.rmtree(coming, ignore_errors=True)
            coming.mkdir()
            self._place.get_tree(f"in/{name}", coming)
            coming.rename(here)
            _check(here)
        return here

    def images(self, places: Mapping[str, MediaRow]) -> Callable[[str], bytes]:
        if sum(row.length for row in places.values()) > AT_ONCE:
            return lambda sha256: self._image(sha256, self._place.ranges([_range(places[sha256])])[0])
        fetched = dict(zip(places, self._place.ranges([_range(row) for row in places.values()]), strict=True))
        return lambda sha256: self._image(sha256, fetched[sha256])

    def deliver(self, committed: Committed) -> None:
        made = self.root / committed.path
        inner = [made] if made.is_file() else [file for file in made.rglob("*") if file.is_file()]
        for file in inner:
            self._place.put(file, f"out/{file.relative_to(self.root).as_posix()}")
        made.unlink() if made.is_file() else shutil.rmtree(made)

    def claim(self, key: str, written: Written) -> None:
        """Leave word that a piece of work is done; to be called when its file is there."""
        told = json.dumps({"committed": asdict(written.committed), "rows": written.rows})
        self._place.write(_claim(key), told.encode())

    def _image(self, sha256: str, data: bytes) -> bytes:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedError(f"{self._place.url}: image {sha256} did not come through whole")
        return data


@dataclass(frozen=True, slots=True)
class _Place:
    """Files under a URL."""

    url: str

    def put(self, source: Path, name: str) -> None:
        """Bring a file there, unless one of its size is there: names hold hashes."""
        fs, base = _opened(self.url)
        target = f"{base}/{name}"
        if not (fs.exists(target) and fs.size(target) == source.stat().st_size):
            fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            fs.put_file(str(source), target)

    def write(self, name: str, data: bytes) -> None:
        fs, base = _opened(self.url)
        fs.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(f"{base}/{name}", data)

    def read(self, name: str) -> bytes:
        fs, base = _opened(self.url)
        fs.invalidate_cache()
        data: bytes = fs.cat_file(f"{base}/{name}")
        return data

    def get(self, name: str, to: Path) -> None:
        fs, base = _opened(self.url)
        fs.invalidate_cache()
        fs.get_file(f"{base}/{name}", str(to))

    def get_tree(self, name: str, to: Path) -> None:
        """Fetch a folder's files into the folder `to`. Raises: StoreError if there is none."""
        fs, base = _opened(self.url)
        fs.invalidate_cache()
        found = fs.find(f"{base}/{name}")
        if not found:
            raise StoreError(f"{self.url} has no {name}")
        for path in found:
            inner = to / path.split(f"/{name}/", 1)[1]
            inner.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(inner))

    def ranges(self, parts: list[tuple[str, int, int]]) -> list[bytes]:
        """Parts of files: (name, from, to)."""
        fs, base = _opened(self.url)
        names, starts, ends = (
            [f"{base}/{name}" for name, _, _ in parts],
            [a for _, a, _ in parts],
            [b for *_, b in parts],
        )
        found: list[bytes] = fs.cat_ranges(names, starts, ends, on_error="raise") if parts else []
        return found

    def remove(self, name: str) -> None:
        fs, base = _opened(self.url)
        fs.invalidate_cache()
        if fs.exists(f"{base}/{name}"):
            fs.rm(f"{base}/{name}", recursive=True)


def _opened(url: str) -> tuple[Any, str]:
    """(file system, path in it) of a URL. Raises: UsageError, RunError."""
    # Those of s3 and gs must not be used across a fork.
    return _opened_by(os.getpid(), url)


@cache
def _opened_by(process: int, url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, base = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        fs.makedirs(base, exist_ok=True)
    except ImportError as error:
        protocol = url.split("://")[0]
        raise UsageError(
            f"cluster.exchange: {url} needs a package that is not installed ({error}): "
            f"pip install 'lifelong[{protocol}]'"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"cluster.exchange: {url} cannot be reached: {error}") from error
    return fs, base.rstrip("/")


@cache
def _own_folder() -> ScratchFolder:
    """This process's."""
    return ScratchFolder("lifelong-worker-")


def _range(row: MediaRow) -> tuple[str, int, int]:
    if row.kind == "packed":
        return f"in/{row.path}", row.offset, row.offset + row.length
    return _referenced(row), 0, row.length


def _referenced(row: MediaRow) -> str:
    return f"in/referenced/{row.sha256}"


def _claim(key: str) -> str:
    return f"claims/{key}.json"


def _check(folder: Path) -> None:
    """Raises: DamagedError if a fetched folder is not the one that its name tells of."""
    if content_hash(folder)[0][:HASH_CHARS] != folder.name[-HASH_CHARS:]:
        shutil.rmtree(folder)
        raise DamagedError(f"{folder.name} did not come through the exchange whole")


def open_exchange(root: Path, config: RunConfig) -> Exchange:
    """The exchange that the configuration names."""
    url = config.cluster.exchange
    return UrlExchange(url, root, config) if url else NoExchange(root)


def see(files: Files) -> None:
    """Raises: RunError where a worker does not see the run's folder."""
    if isinstance(files, RunFolder) and not files.root.is_dir():
        raise RunError(
            f"a worker on {platform.node()} does not see {files.root}: set cluster.exchange to a URL (file, s3, gs) "
            "that the run's process and all workers reach"
        )
