"""What the phases of a timestep work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong import seeds
from lifelong.callbacks import Callbacks
from lifelong.config import RunConfig
from lifelong.errors import InputError, RunError, require_utf8
from lifelong.progress import Progress, Silent
from lifelong.recipes.method import Method, method
from stores.commit import Committed
from stores.database import Database, open_database
from stores.disk import naming_database_faults, naming_faults_under
from stores.errors import StoreError
from stores.evals import Evals
from stores.ledger import Ledger
from stores.media import Media
from stores.pool import Pool

if TYPE_CHECKING:
    from lifelong.engines import Engine
    from lifelong.loader import ConversationLoader
    from lifelong.measure.plan import MeasurePlan
    from lifelong.models.load import VisionLanguageModel
    from lifelong.signals.frozen import Lookup, Producer
    from lifelong.signals.pool import PoolSignals

DATABASE = "lifelong.sqlite"
ADAPTER = "adapter"
TRAJECTORY = "trajectory"
"""Kind of the adapters that are kept while a timestep trains."""


@contextmanager
def as_run_errors(root: Path) -> Iterator[None]:
    """Raises: RunError for whatever is wrong with what lasts, and for what its disk says."""
    try:
        with naming_faults_under(root), naming_database_faults(root / DATABASE):
            yield
    except StoreError as error:
        raise RunError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Feed:
    """One arrival: the dataset of a timestep and how it is tested. Paths are absolute.

    licence, origin: what the stream says of it, for cards. eval_images, eval_format: of the eval set, where they are
    others than those of the dataset.

    Raises:
        InputError: a name is not in UTF-8, as a file's may be.
    """

    name: str
    train: str
    skill: str
    images: str | None = None
    format: str | None = None
    eval: str | None = None
    metric: str | None = None
    licence: str | None = None
    origin: str | None = None
    eval_images: str | None = None
    eval_format: str | None = None

    def __post_init__(self) -> None:
        require_utf8(*filter(None, (getattr(self, each.name) for each in fields(self))))

    @property
    def images_of_eval(self) -> str | None:
        return self.eval_images or self.images

    @property
    def format_of_eval(self) -> str | None:
        return self.eval_format or self.format


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase leaves: a JSON result, files, and what it changes in the pool, committed as one."""

    result: dict[str, Any]
    files: list[tuple[str, Committed]] = field(default_factory=list)
    apply: Callable[[], None] | None = None


class Stores:
    """The stores of a run folder, opened."""

    def __init__(self, root: Path, db: Database) -> None:
        self.root = root
        self.db = db
        self.ledger = Ledger(db, root)
        self.pool = Pool(db)
        self.evals = Evals(db)
        self.media = Media(root, db)

    @cached_property
    def loader(self) -> ConversationLoader:
        """Reads the pool's conversations."""
        # It imports torch, for which those who only read the ledger should not wait.
        from lifelong.loader import ConversationLoader

        return ConversationLoader(self.pool, self.media)

    def reopened(self) -> Stores:
        """The same stores, to read, in a process forked from the one that opened these."""
        return Stores(self.root, open_database(self.root / DATABASE, read_only=True))


class ModelHolder:
    """Loads the model once, and puts one adapter after another on it."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._adapter: Path | None = None
        self._producers: dict[str, Producer | Lookup] = {}

    @cached_property
    def vlm(self) -> VisionLanguageModel:
        """The model with a fresh adapter, drawn from the run's seed."""
        from lifelong.models.load import load

        seed = seeds.derive(self.config.seed, 0, "start", "adapter")
        vlm = load(self.config.model, self.config.lora, seed)
        vlm.model.eval()
        return vlm

    def with_adapter(self, folder: Path) -> VisionLanguageModel:
        """The model with a checkpoint's adapter."""
        if self._adapter != folder:
            self.vlm.load_adapter(folder)
            self._adapter = folder
        return self.vlm

    def producers(self, plan: MeasurePlan) -> list[Producer | Lookup]:
        """The frozen encoders and raters of a plan; each is loaded when it is first asked for features."""
        return [self.producer(kind) for kind in plan.producers]

    def producer(self, kind: str) -> Producer | Lookup:
        """The frozen encoder, or rater, of the configuration."""
        from lifelong.signals.frozen import producer

        if kind not in self._producers:
            self._producers[kind] = producer(kind, self.config)
        return self._producers[kind]

    def altered(self) -> None:
        """Say that the adapter in memory is no longer that of any checkpoint."""
        self._adapter = None


@dataclass(slots=True)
class Context:
    """A timestep: the run's stores, its resolved configuration, and what earlier phases committed."""

    stores: Stores
    config: RunConfig
    timestep: int
    feed: Feed
    models: ModelHolder
    progress: Progress = field(default_factory=Silent)
    callbacks: Callbacks = field(default_factory=Callbacks)
    _method: Method | None = None
    _engine: Engine | None = None

    @property
    def root(self) -> Path:
        return self.stores.root

    @property
    def method(self) -> Method:
        """The recipe's words."""
        if self._method is None:
            self._method = method(self.config.recipe, self.config)
        return self._method

    @property
    def engine(self) -> Engine:
        """Has the work done: this process does, where nothing else is said."""
        if self._engine is None:
            from lifelong.engines import Local, Worker

            self._engine = Local(Worker.of_run(self.root, self.models))
        return self._engine

    def rng(self, phase: str, purpose: str) -> np.random.Generator:
        """A generator of its own for each random draw."""
        return seeds.generator(self.config.seed, self.timestep, phase, purpose)

    def seed(self, phase: str, purpose: str = "") -> int:
        return seeds.derive(self.config.seed, self.timestep, phase, purpose)

    def result(self, phase: str) -> dict[str, Any]:
        """What an earlier phase of this timestep committed."""
        record = self.stores.ledger.phase(self.timestep, phase)
        if record is None:
            raise InputError(f"timestep {self.timestep}: phase {phase!r} has not been committed")
        return record.result

    def adapter(self, timestep: int) -> Path:
        """The adapter that a timestep left (0: before any training)."""
        return self.stores.ledger.file(timestep, ADAPTER)

    def within(self, path: Path) -> str:
        """A path of the run as its workers name it: relative to the run's folder."""
        return path.relative_to(self.root).as_posix()

    def current_model(self) -> VisionLanguageModel:
        """The model as the last timestep left it: what this timestep measures and trains on."""
        return self.models.with_adapter(self.adapter(self.timestep - 1))

    def signals(self) -> PoolSignals:
        """What the measure phase left, by name."""
        from lifelong.signals.pool import PoolSignals

        return PoolSignals(self)

    def producers(self) -> list[Producer | Lookup]:
        """The frozen encoders and raters that the recipe's signals come from."""
        return self.models.producers(self.method.measures)

    @property
    def features_folder(self) -> Path:
        """Where features that depend on content alone are kept."""
        return Path(self.config.encoder.cache) if self.config.encoder.cache else self.root / "features"

    def trajectory_checkpoints(self) -> list[Path]:
        """Adapters kept while the last timestep trained, first to last; empty where none were."""
        shards = self.stores.ledger.shards(self.timestep - 1, TRAJECTORY)
        return [self.root / shard.path for shard in shards]

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        """The arrays of a file that an earlier phase committed."""
        from stores.shards import read_shard

        return read_shard(self.stores.ledger.file(self.timestep, kind))

    def commit_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> Committed:
        """Arrays as a committed file of this timestep."""
        from safetensors.numpy import save_file

        from stores.commit import commit_file

        dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        return commit_file(
            self.root, self.folder, name, ".safetensors", lambda path: save_file(dense, str(path))
        )

    @property
    def folder(self) -> str:
        """Where this timestep's files go, relative to the run."""
        return f"timesteps/{self.timestep:04d}"
