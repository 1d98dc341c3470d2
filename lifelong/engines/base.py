"""What an engine is, and who does the work: a worker, which holds the model and reaches the run's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from stores.commit import Committed
from stores.media import MediaRow, read_media

if TYPE_CHECKING:
    from lifelong.context import ModelHolder
    from lifelong.engines.training import Desk, Done, Training
    from lifelong.measure.passes import Pass
    from lifelong.measure.plan import MeasurePlan
    from lifelong.models.load import VisionLanguageModel


class Files(Protocol):
    """The run's files, as a worker reaches them."""

    @property
    def root(self) -> Path:
        """Where the worker writes; a path relative to it is one relative to the run's folder."""
        ...

    def path(self, name: str) -> Path:
        """A committed file or folder of the run, by its path relative to the run's folder, to read."""
        ...

    def images(self, places: Mapping[str, MediaRow]) -> Callable[[str], bytes]:
        """Reads the encoded bytes of located images by their sha256."""
        ...

    def deliver(self, committed: Committed) -> None:
        """Bring what was committed under `root` to where the run's process finds it."""
        ...


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The run's own folder, on a path that every worker reaches."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / name

    def images(self, places: Mapping[str, MediaRow]) -> Callable[[str], bytes]:
        return lambda sha256: read_media(self.root, places[sha256])

    def deliver(self, committed: Committed) -> None:
        pass


def _nothing(count: int) -> None:
    pass


@dataclass(slots=True)
class Worker:
    """One that does work. progress: told of samples that are done within a piece of work."""

    models: ModelHolder
    files: Files
    progress: Callable[[int], None] = _nothing
    _passes: dict[MeasurePlan, list[Pass]] = field(default_factory=dict)

    @classmethod
    def of_run(cls, root: Path, models: ModelHolder) -> Worker:
        """A worker that reaches the run's folder."""
        return cls(models, RunFolder(root))

    def model(self, adapter: str) -> VisionLanguageModel:
        """The model with an adapter of the run, by its path relative to the run's folder."""
        return self.models.with_adapter(self.files.path(adapter))

    def passes(self, plan: MeasurePlan, adapter: str) -> list[Pass]:
        """The passes of a plan on the model with an adapter. What they draw at random is drawn once."""
        from lifelong.measure.plan import passes_of

        vlm = self.model(adapter)
        if plan not in self._passes:
            self._passes = {plan: passes_of(plan, vlm, self.models.config.seed)}
        return self._passes[plan]


Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Job(Protocol[Result_co]):
    """A piece of work: all that it needs beside the model and the run's files. It travels between processes.

    The same piece of work gives the same result, whoever does it and however often. Its length is the number of its
    samples; as text it says what it is.
    """

    def __len__(self) -> int: ...

    def run(self, worker: Worker) -> Result_co: ...


class Engine(Protocol):
    """Has work done. Not for use by several threads."""

    def map(
        self, jobs: Iterable[Job[Result]], progress: Callable[[int], None] = _nothing
    ) -> Iterator[tuple[Job[Result], Result]]:
        """Each piece of work with its result, as they are done, in whatever order.

        jobs: taken one after the other, when there is a worker for the next. progress: told how many samples more are
        done.
        Raises: what the work raises; RunError where a worker's death cannot be made good.
        """
        ...

    def train(self, training: Training, desk: Desk) -> Done:
        """Have a training done, alone or by several workers that share each batch.

        Raises: TrainingError, KeyboardInterrupt as `lifelong.training.train.train` does; RunError as `map`.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...
