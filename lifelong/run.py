"""A run on disk: create it, feed it datasets, stop and resume it, read its curves."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.callbacks import Callback, Callbacks
from lifelong.config import ModelConfig, RunConfig, parse_config
from lifelong.context import DATABASE, Context, Feed, ModelHolder, Stores, as_run_errors
from lifelong.environment import check_drift, located
from lifelong.errors import InputError, RunError, TrainingError, UsageError, require_utf8
from lifelong.progress import Noting, Progress, as_asked
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method
from lifelong.recorded import CONFIG, FEEDING, write_config
from lifelong.signals.pool import MEASURED
from lifelong.steer.verbs import Steering
from lifelong.steer.verdicts import error_of, stopped
from lifelong.stream import Stream, read_stream
from lifelong.trackers import bring_in_line, require
from lifelong.training.mend import elsewhere, mended, moved
from lifelong.upkeep.between import Freed, collect_garbage, removable, settle
from stores.commit import make_folder, sweep
from stores.database import open_database, transaction
from stores.fsck import FOLDERS
from stores.lock import RunLock

if TYPE_CHECKING:
    from lifelong.engines import Engine
    from stores.pool import DatasetRow

# The phases import torch: a second writer, and whoever only reads, should not wait for it. Hence the imports below.


class Run(Steering):
    """A lifelong run in a folder.

        run = Run.create("my-run", model="path/or/hub-name", recipe="adapt-inf")
        run.feed("release-2026-01/train.json", images="release-2026-01/images", eval="eval.json", skill="vqa")
        run.curves()  # a DataFrame: the skill matrix

    One process may write to a run at a time; any number may read it.
    """

    def __init__(
        self, root: Path, progress: Progress | bool | None = None, callbacks: Iterable[Callback] = ()
    ) -> None:
        super().__init__(root, as_asked(progress))
        self.callbacks = Callbacks(self, callbacks)
        self._models: ModelHolder | None = None
        self._lock = RunLock(root)
        self._engine: Engine | None = None
        self._where: dict[str, Any] = {}

    def work_on(self, engine: str | None = None, **cluster: Any) -> Run:
        """Have the work done elsewhere than the configuration says, while this object lives; returns the run.

        engine: local, ray or accelerate; cluster: fields of the section `cluster`. What is None stays as it is.
        """
        self._where = {"engine": engine, "cluster": cluster}
        return self

    @property
    def config(self) -> RunConfig:
        """The configuration as the file has it now; the next timestep takes it."""
        return elsewhere(super().config, self._where)

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        model: str = "",
        recipe: str | Path | dict[str, str] | None = None,
        config: RunConfig | dict[str, Any] | None = None,
        progress: Progress | bool | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> Run:
        """Make a run folder with a commented configuration. progress, callbacks: as for `open`.

        Raises:
            UsageError: the configuration or the recipe is wrong, or the folder holds something already.
            InputError: the folder's name is not in UTF-8.
        """
        root = Path(root)
        require_utf8(root.absolute())
        resolved = config if isinstance(config, RunConfig) else parse_config(config or {})
        if model:
            path = str(Path(model).absolute()) if Path(model).is_dir() else model
            resolved = resolved.model_copy(update={"model": resolved.model.model_copy(update={"path": path})})
        if recipe is not None:
            resolved = resolved.model_copy(update={"recipe": read_recipe(recipe)})
        method(resolved.recipe, resolved)
        if root.is_file() or (root.exists() and any(root.iterdir())):
            what = "a file" if root.is_file() else "not empty"
            raise UsageError(f"{root} is {what}; name a new folder for the run")
        with as_run_errors(root):
            make_folder(root)
            write_config(root, resolved)
        run = cls(root, progress, callbacks)
        with run._writing():
            return run

    def configure(self, config: RunConfig) -> None:
        """Have the file hold this configuration, with comments; the next timestep takes it.

        Raises:
            UsageError: the recipe is wrong.
        """
        method(config.recipe, config)
        with self._writing():
            write_config(self.root, config)

    @classmethod
    def open(
        cls,
        root: str | Path,
        progress: Progress | bool | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> Run:
        """Open a run.

        progress: True shows what suits a terminal, a file or a notebook; False nothing; None bars in a notebook.
        callbacks: told of each timestep, phase and evaluation; see `lifelong.Callback`.

        Raises:
            RunError: the folder holds no run.
        """
        root = Path(root)
        if not (root / DATABASE).is_file():
            raise RunError(f"{root} holds no run (no {DATABASE} in it); make one with `lifelong init {root}`")
        return cls(root, progress, callbacks)

    def feed(
        self,
        dataset: str | Path,
        *,
        images: str | Path | None = None,
        eval: str | Path | None = None,
        skill: str | None = None,
        name: str | None = None,
        metric: str | None = None,
        format: str | None = None,
        licence: str | None = None,
        origin: str | None = None,
        eval_images: str | Path | None = None,
        eval_format: str | None = None,
    ) -> dict[str, Any]:
        """One timestep: the dataset joins, is measured, selected from, trained on, tested; returns the status.

        licence, origin: of the dataset, for the cards of what is exported. eval_images, eval_format: of the eval set;
        by default those of the dataset.

        Raises:
            InputError: the dataset cannot be read, or holds nothing new; the run is as it was.
            RunError: an earlier timestep is unfinished (`resume` it first), or another process is writing.
        """
        feed = feed_of(
            dataset,
            name=name,
            skill=skill,
            images=images,
            eval=eval,
            eval_images=eval_images,
            format=format,
            metric=metric,
            licence=licence,
            origin=origin,
            eval_format=eval_format,
        )
        with self._writing() as stores:
            from lifelong.phases.ingest import refuse_repeated

            self._refuse_unfinished(stores)
            self._refuse_stopped(stores)
            refuse_repeated(stores, feed)
            self._timestep(stores, self._arrive(stores, feed))
        return self.status()

    def run_stream(
        self, stream: str | Path | Stream, *, until: int | None = None, allow_drift: bool = False
    ) -> dict[str, Any]:
        """Feed every dataset of a stream that has not been fed, after finishing what was interrupted.

        All skills of the stream are tested from before the first timestep on. until: feed no more than its first so
        many datasets. allow_drift: see `resume`.
        """
        stream = stream if isinstance(stream, Stream) else read_stream(Path(stream))
        with self._writing() as stores:
            from lifelong.phases.ingest import NothingNewError

            self._finish(stores, allow_drift)
            self._refuse_stopped(stores)
            self._register_skills(stores, stream)
            for feed in stream.datasets[:until]:
                fed = next((each for each in stores.pool.datasets() if each.name == feed.name), None)
                if fed is not None:
                    self.progress.say(f"{feed.name}: fed at timestep {fed.timestep}{_known_name(fed, feed)}")
                    continue
                try:
                    self._timestep(stores, self._arrive(stores, feed))
                except NothingNewError as error:
                    self.progress.say(str(error))
        return self.status()

    def resume(self, *, allow_drift: bool = False) -> bool:
        """Finish the timestep that was interrupted, and bring trackers in line; False if there was none to finish.

        allow_drift: go on although the model's files, or a library that computes, are not those that the timestep
        began with; its results are then not those that it would have had.

        Raises:
            RunError: they are not, and it is not allowed.
        """
        with self._writing() as stores:
            if self._finish(stores, allow_drift):
                return True
            bring_in_line(stores, self.config.report_to, self.progress.say)
            return False

    def gc(self, *, dry_run: bool = False) -> list[Freed]:
        """Remove what nothing needs, and what the configuration's section `keep` lets go; returns what.

        Images that only pruned samples have go too. The live pool, the curves, the decisions and the digest stay what
        they are. With `dry_run` nothing is removed.

        Raises:
            RunError: a timestep is unfinished (`resume` it first), or another process is writing.
        """
        if dry_run:
            with self.reading() as stores:
                return list(removable(stores, self.config.keep))
        with self._writing() as stores:
            self._refuse_unfinished(stores)
            return collect_garbage(stores, self.config.keep)

    @contextmanager
    def writing(self) -> Iterator[Stores]:
        """The run's stores, to write. Raises: RunError if another process is writing."""
        with self._writing() as stores:
            yield stores

    def _timestep(self, stores: Stores, context: Context) -> None:
        from lifelong.loop import run_timestep

        self.progress.say(f"timestep {context.timestep}: {context.feed.name} ({context.feed.skill})")
        try:
            self.callbacks.call("on_timestep_begin", context.timestep, context.feed)
            run_timestep(context)
            bring_in_line(stores, context.config.report_to, self.progress.say)
            self.callbacks.call("on_timestep_end", context.timestep)
        except BaseException as error:
            self._note_fault(stores, context, error)
            self.callbacks.call("on_error", context.timestep, error)
            if type(error) is InputError and (way := self._way_out(stores, context.timestep)):
                raise InputError(f"{error}; {way}") from error
            raise

    def _way_out(self, stores: Stores, timestep: int) -> str:
        """What can be done about a timestep that stopped at its input, in words; "" where nothing of it was taken."""
        if stores.ledger.phase(timestep, "ingest") is None:
            return ""
        return f"once that is mended, `lifelong resume {self.root}` goes on; {self._giving_up(timestep)}"

    def _giving_up(self, timestep: int) -> str:
        return f"`lifelong rollback {self.root} --to {timestep - 1}` gives timestep {timestep} up"

    def _note_fault(self, stores: Stores, context: Context, error: BaseException) -> None:
        """Keep what `resume` must know of how the timestep stopped."""
        if isinstance(error, TrainingError):
            request = stores.ledger.get_meta(FEEDING)
            stores.ledger.set_meta(FEEDING, {**request, "training_stopped": True})
        elif isinstance(error, InputError) and stores.ledger.phase(context.timestep, "ingest") is None:
            # Refused as a whole: nothing of it was taken, so there is nothing to resume.
            stores.ledger.set_meta(FEEDING, None)

    def _arrive(self, stores: Stores, feed: Feed) -> Context:
        """The context of a new timestep; what is fed and the configuration are on record before it begins."""
        timestep = (stores.ledger.last_timestep() or 0) + 1
        known = {dataset.name for dataset in stores.pool.datasets()}
        if feed.name in known:
            # Monthly releases come under one file name; each is a dataset of its own.
            feed = Feed(**{**asdict(feed), "name": f"{feed.name}@{timestep}"})
        config = self.config
        method(config.recipe, config)
        context = self._context(stores, timestep, feed, config)
        if stores.ledger.last_timestep() is None:
            # A model that cannot be loaded must show before it is on record for good.
            _ = context.models.vlm
        self._keep_identity(stores, config)
        check_drift(stores, config, timestep)
        request = {"timestep": timestep, "feed": asdict(feed), "config": config.model_dump(mode="json")}
        stores.ledger.set_meta(FEEDING, request)
        return context

    def _context(self, stores: Stores, timestep: int, feed: Feed, config: RunConfig) -> Context:
        require(config.report_to)
        if self._models is None or self._models.config != config:
            self._let_workers_go()
            self._models = ModelHolder(config)
        if self._engine is None:
            from lifelong.engines import open_engine

            self._engine = open_engine(self.root, self._models)
        progress = Noting(self.progress, self._lock.note)
        return Context(
            stores, config, timestep, feed, self._models, progress, self.callbacks, _engine=self._engine
        )

    def _let_workers_go(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _keep_identity(self, stores: Stores, config: RunConfig) -> None:
        """The seed, the model (wherever it lies) and the adapter's shape are the run's: they stay what they were."""
        identity = {
            "seed": config.seed,
            "model": {"path": config.model.path, "dtype": config.model.dtype},
            "lora": config.lora.model_dump(mode="json", exclude={"dropout"}),
        }
        before = stores.ledger.get_meta("identity")
        if before is None or stores.ledger.last_timestep() is None:
            stores.ledger.set_meta("identity", identity)
            return
        model = located(stores, ModelConfig(**before["model"]), config.model)
        known = {**before, "model": {"path": model.path, "dtype": model.dtype}}
        changed = [name for name in identity if identity[name] != known[name]]
        if changed:
            raise UsageError(
                f"{self.root / CONFIG}: {' and '.join(changed)} changed since the run began ({before}); "
                "change it back, or start another run with `lifelong init`"
            )
        if identity != before:
            stores.ledger.set_meta("identity", identity)

    def _refuse_unfinished(self, stores: Stores) -> None:
        request = self._feeding(stores)
        if request is not None:
            raise RunError(
                f"timestep {request['timestep']} ({request['feed']['name']}) of {self.root} is unfinished; "
                f"finish it with `lifelong resume {self.root}`, or where that cannot be done: "
                f"{self._giving_up(request['timestep'])}"
            )

    def _refuse_stopped(self, stores: Stores) -> None:
        verdict = stopped(stores)
        if verdict is not None:
            raise error_of(verdict, self.root)

    def _finish(self, stores: Stores, allow_drift: bool) -> bool:
        request = self._feeding(stores)
        if request is None:
            return False
        config = parse_config(request["config"], "the configuration on record")
        if not stores.ledger.shards(request["timestep"], MEASURED):
            # Nothing of the timestep depends on the configuration yet, so a mended one may take over: a
            # model.max_length, say, that no sample had met.
            config = self.config
            self._keep_identity(stores, config)
            stores.ledger.set_meta(FEEDING, {**request, "config": config.model_dump(mode="json")})
        elif request.get("training_stopped"):
            config = mended(config, self.config)
            stores.ledger.set_meta(FEEDING, {**request, "config": config.model_dump(mode="json")})
        given = self.config
        config = moved(config, given)
        config = config.model_copy(update={"model": located(stores, config.model, given.model)})
        check_drift(stores, config, request["timestep"], allow_drift)
        feed = Feed(**request["feed"])
        self._timestep(stores, self._context(stores, request["timestep"], feed, config))
        return True

    def _register_skills(self, stores: Stores, stream: Stream) -> None:
        from lifelong.phases.skills import register

        if stores.ledger.phase(0, "start") is not None:
            # Skills that come later are tested from row 0 on when their data arrives.
            return
        config = self.config
        for feed in stream.datasets:
            with transaction(stores.db):
                register(self._context(stores, 0, feed, config), feed)

    @contextmanager
    def _writing(self) -> Iterator[Stores]:
        with as_run_errors(self.root), self._lock:
            db = open_database(self.root / DATABASE)
            try:
                stores = Stores(self.root, db)
                self._tidy(stores)
                yield stores
            finally:
                self._let_workers_go()
                db.close()

    def _tidy(self, stores: Stores) -> None:
        """Clear away, and finish, what a killed process was at when it died, be it the making of the run."""
        if stores.ledger.get_meta("run_id") is None:
            stores.ledger.set_meta("run_id", uuid.uuid4().hex)
        from lifelong.steer.retire import finish as finish_retiring
        from lifelong.steer.rollback import clear_aliases

        sweep(self.root, stores.ledger.known_paths(), FOLDERS)
        clear_aliases(stores)
        finish_retiring(stores)
        settle(stores)


def _known_name(fed: DatasetRow, feed: Feed) -> str:
    """What a stream's reader should know of a dataset whose name was fed."""
    if fed.source == feed.train:
        return ", nothing to do"
    return f" from {fed.source}, not from {feed.train}; to feed that as well, give it a name of its own"


def feed_of(
    dataset: str | Path,
    *,
    name: str | None = None,
    skill: str | None = None,
    images: str | Path | None = None,
    eval: str | Path | None = None,
    eval_images: str | Path | None = None,
    **told: str | None,
) -> Feed:
    """What is fed, its paths absolute. told: the other fields of a feed."""
    label = name or label_of(dataset)
    paths = {"images": absolute(images), "eval": absolute(eval), "eval_images": absolute(eval_images)}
    return Feed(label, absolute(dataset), skill or label, **paths, **told)


def label_of(dataset: str | Path) -> str:
    """A name for a dataset that was given none: the file's, or its folder's where the file is only "train"."""
    path = Path(dataset)
    file, *parts = path.name.split(":")  # a subset and a split, on the hub
    stem = file.split(".")[0].split("{")[0].rstrip("-_") or path.parent.name
    if stem in ("train", "data"):
        return path.absolute().parent.name
    return "-".join(filter(None, [stem, *parts]))


def absolute(path: str | Path | None) -> str | None:
    from lifelong.stream import located

    return None if path is None else located(str(path), Path.cwd())
