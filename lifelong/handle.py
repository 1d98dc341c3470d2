"""What a run says of itself: read by any number of processes, while one writes."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.config import RunConfig, parse_config, read_config
from lifelong.context import DATABASE, Stores, as_run_errors
from lifelong.progress import Progress, Silent
from lifelong.recipes.method import called
from lifelong.recorded import CONFIG, FEEDING
from lifelong.steer.verdicts import pending
from lifelong.upkeep.space import bytes_on_disk, bytes_per_sample
from stores.database import open_database
from stores.digest import run_digest
from stores.ledger import PHASES

if TYPE_CHECKING:
    import pandas as pd

    from lifelong.account.curves import Curves
    from lifelong.export.card import What
    from lifelong.upkeep.repair import Repaired
    from stores.fsck import Problem


class Handle:
    """A run in a folder, to read. `lifelong.Run` is one that can be fed too."""

    def __init__(self, root: Path, progress: Progress | None = None) -> None:
        self.root = root
        self.progress: Progress = progress or Silent()

    @property
    def config(self) -> RunConfig:
        """The configuration as the file has it now; the next timestep takes it."""
        return read_config(self.root / CONFIG)

    def status(self) -> dict[str, Any]:
        """Where the run stands: run_id, timestep, phase (the next one, or None), finished, pool, seconds, kept …

        finished: when the last phase was, in UTC (ISO 8601), "" where it is not on record. seconds: of each phase of
        the timestep. kept: those that SQLite and files took of them, the commit of the phase before included.
        bytes_per_sample: of each timestep, see lifelong/upkeep/space.py. forecast: the seconds that were foretold, None
        for a first timestep; forecast_error: how far off the timesteps were, a share. guard: the last verdict, None
        where there is no guard. retired: each retirement, with the timesteps that trained on what it took. origin: the
        run and timestep that this was forked from, or None.
        """
        from lifelong.steer.forecast import beside
        from lifelong.steer.verdicts import told_of

        with self.reading() as stores:
            ledger = stores.ledger
            timestep = ledger.last_timestep() or 0
            feeding = self._feeding(stores)
            following = ledger.pending()
            if feeding and feeding["timestep"] > timestep:
                timestep, following = feeding["timestep"], (feeding["timestep"], "ingest")
            phases = ledger.phases(timestep)
            return {
                "run_id": ledger.get_meta("run_id"),
                "timestep": timestep,
                "phase": following[1] if following else None,
                "finished": phases[-1].finished if phases else "",
                "pool": stores.pool.counts(),
                "seconds": {record.phase: round(record.seconds, 3) for record in phases},
                "kept": {record.phase: round(record.kept, 3) for record in phases},
                **beside(stores, timestep),
                "guard": told_of(stores, timestep),
                "bytes": bytes_on_disk(self.root),
                "bytes_per_sample": bytes_per_sample(stores),
                "retired": [event.told for event in ledger.events("retired")],
                "origin": ledger.get_meta("origin"),
            }

    def curves(self) -> pd.DataFrame:
        """The skill matrix R: a row per timestep (0: before any training), a column per skill; accuracy in [0, 1].

        NaN where a skill was not evaluated. `attrs` holds what follows from it, by the names of
        `lifelong curves --json`: stderr, n, average_accuracy, forgetting, backward_transfer, forward_transfer …
        """
        return self.skill_matrix().matrix()

    def skill_matrix(self) -> Curves:
        """The skill matrix with everything derived from it as arrays, tables and text."""
        from lifelong.account.curves import curves_of

        with self.reading() as stores:
            return curves_of(stores)

    def frame(self) -> pd.DataFrame:
        """The curves as a long table: a row per timestep and skill, a column per figure."""
        return self.skill_matrix().to_frame()

    def routes(self, timestep: int | None = None) -> dict[str, Any]:
        """Which cluster, of which skills, went to which expert, with the entropies; default: the last timestep's.

        Raises:
            InputError: the timestep is not finished.
        """
        from lifelong.account.routes import routes

        with self.reading() as stores:
            return routes(stores, timestep)

    def why(self, sample: str) -> dict[str, Any]:
        """Why a sample was kept, used, dropped or refused: {"samples": […], "refused": […]}.

        sample: its sample id, the beginning of it, its id in its dataset, or file:row of a refused row.

        Raises:
            InputError: nothing on record has that name.
        """
        from lifelong.account.why import why

        with self.reading() as stores:
            return why(stores, sample)

    def decisions(self, timestep: int | None = None) -> pd.DataFrame:
        """The decisions of a timestep (default: the last one), a row per sample.

        Raises:
            RunError: the timestep has none.
        """
        import pandas as pd

        with self.reading() as stores:
            chosen = (stores.ledger.last_timestep() or 0) if timestep is None else timestep
            return pd.read_parquet(stores.ledger.file(chosen, "decisions"))

    def report(self, out: str | Path | None = None, also: dict[str, Curves] | None = None) -> Path:
        """Write everything about the run as one offline HTML page; returns its path.

        out: default `report.html` in the run. also: name → skill matrix of other runs, drawn beside this one's.

        Raises:
            InputError: the extra `report` is not installed, or the file cannot be written.
        """
        from lifelong.report import write_report

        target = Path(out) if out is not None else self.root / "report.html"
        write_report(self, target, also)
        return target

    def export(
        self, out: str | Path, format: str = "llava", timestep: int | None = None, *, card: bool = False
    ) -> int:
        """Write a timestep's selection, or with None the live pool, for another trainer; returns the samples written.

        format: one of `lifelong.export.samples.FORMATS`. card: write a dataset card, README.md, in the folder of
        `out`, or in `out` where that is a folder.

        Raises:
            InputError: there is nothing to export, its images are gone since `gc`, or the format is unknown.
        """
        from lifelong.export.samples import export

        with self.reading() as stores:
            count = export(stores, Path(out), format, timestep)
        if card:
            folder = Path(out) if Path(out).is_dir() else Path(out).parent
            (folder / "README.md").write_text(self.card("data", timestep), encoding="utf-8")
        return count

    def card(self, what: What = "model", timestep: int | None = None) -> str:
        """A card for the Hub: README text with sources, licences where known, recipe, budgets, curves, versions.

        what: `model`, of the adapter after `timestep` (default: the last one); `data`, of the selection of `timestep`,
        or with None of the live pool.
        """
        from lifelong.export.card import card

        with self.reading() as stores:
            return card(stores, self.skill_matrix(), self.config, what, timestep, self.root.resolve().name)

    def merge(self, out: str | Path, timestep: int | None = None) -> int:
        """Write base model + adapter as one model with its processor to a new folder; returns the timestep.

        timestep: default the last one that was trained.

        Raises:
            InputError: there is no such adapter, `out` exists, or the base model cannot be loaded.
        """
        from lifelong.export.merge import merge

        with self.reading() as stores:
            return merge(stores, self.config.model, Path(out), timestep)

    def push(
        self, repo: str, what: What = "model", *, timestep: int | None = None, private: bool = False
    ) -> str:
        """Upload an adapter, or a selection, with its card to the Hub; returns its address (`export.hub.push`).

        Raises:
            InputError: there is nothing to push, or the hub refuses it.
        """
        from lifelong.export.hub import push

        return push(self, repo, what, timestep=timestep, private=private)

    def digest(self) -> str:
        """One hash over decisions, metrics, selected order and adapter weights: equal for equal runs."""
        with self.reading() as stores:
            return run_digest(stores.db, self.root)

    def fsck(self) -> list[Problem]:
        """Check every value and file against what was committed; every problem found."""
        from lifelong.upkeep.fsck import examine

        with as_run_errors(self.root):
            return examine(self.root)

    def repair(self) -> list[Repaired]:
        """Make again whatever of the damaged files can be made again; what became of each.

        Raises:
            RunError: another process is writing.
        """
        from lifelong.upkeep.repair import repair

        with as_run_errors(self.root):
            return repair(self.root, self.progress)

    @contextmanager
    def reading(self) -> Iterator[Stores]:
        """The run's stores, to read; works while another process writes."""
        with as_run_errors(self.root):
            db = open_database(self.root / DATABASE, read_only=True)
            try:
                yield Stores(self.root, db)
            finally:
                db.close()

    def _feeding(self, stores: Stores) -> dict[str, Any] | None:
        """The request of the timestep that is under way, or None."""
        request = stores.ledger.get_meta(FEEDING)
        if request is None:
            return None
        done = {record.phase for record in stores.ledger.phases(request["timestep"])}
        config = parse_config(request["config"], "the configuration on record")
        judged = not pending(stores, config, request["timestep"])
        return None if done >= set(PHASES) and judged else request

    def __repr__(self) -> str:
        """One screen: where the run stands, and its skill matrix."""
        return f"{self._headline()}\n\n{self.skill_matrix().table(explain=False)}".rstrip()

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        table = self.curves().mul(100).to_html(float_format="{:.1f}".format, na_rep="–", border=0)
        first, *rest = self._headline().splitlines()
        lines = "<br>".join(html.escape(line) for line in rest)
        return f"<p><strong>{html.escape(first)}</strong><br>{lines}</p>\n<p>accuracy in %</p>\n{table}"

    def _headline(self) -> str:
        status = self.status()
        stands = f"stopped before phase {status['phase']}" if status["phase"] else "finished"
        pool = ", ".join(f"{count} {name}" for name, count in status["pool"].items())
        return (
            f"lifelong run {self.root}\n"
            f"recipe {called(self.config.recipe)}, "
            f"model {self.config.model.path}\n"
            f"timestep {status['timestep']}, {stands}; {status['bytes'] / 1e6:.1f} MB\n"
            f"pool: {pool}"
        )
