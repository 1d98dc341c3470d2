"""Watching a folder: each dataset that arrives whole is a timestep; what is refused is set aside with a report."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.errors import GuardError, InputError, RunError, TrainingError, UsageError
from lifelong.steer.inbox import Inbox, feed_of, write_report
from stores.errors import LockedError

if TYPE_CHECKING:
    from lifelong.run import Run

HOOK_SECONDS = 600
"""A command that takes longer is ended."""
ROWS_TOLD = 20


@dataclass(slots=True)
class Watch:
    """What `lifelong watch` does. hook: a command for the shell that is told of each event, or ""."""

    run: Run
    inbox: Inbox
    hook: str = ""
    every: float = 2.0

    def go(self, *, once: bool = False) -> int:
        """Take datasets as they arrive, for ever; with `once`, until the inbox is empty. Returns how many were taken.

        What a killed watch was at is finished first: the timestep, then the entries that it had taken.

        Raises:
            GuardError: a guard stopped the run.
            TrainingError: training cannot go on; mend the configuration and start again.
        """
        if self.run.config.pool.media == "reference":
            raise UsageError(
                f"{self.run.root}: a watched dataset is moved, and pool.media is reference: its images would not be "
                "found again; set pool.media to copy"
            )
        self._catch_up()
        count = 0
        while True:
            entry = self.inbox.ready(time.monotonic(), time.time())
            if entry is not None:
                self._settle(self.inbox.take(entry))
                count += 1
            elif once and not self.inbox.entries():
                return count
            else:
                time.sleep(self.every)

    def _catch_up(self) -> None:
        try:
            self._unlocked(self.run.resume)
        except GuardError as error:
            self.run.progress.say(str(error))
        for path in self.inbox.reports():
            report = json.loads(path.read_text(encoding="utf-8"))
            if not report["told"]:
                self._tell(path, report)
        for folder in list(self.inbox.taken()):
            self._settle(folder)

    def _settle(self, folder: Path) -> None:
        """Feed what was taken into a folder, and leave its report."""
        began = time.monotonic()
        guard: GuardError | None = None
        try:
            status = self._fed_before(folder) or self._feed(folder)
            report = {"event": "done", **self._taken(folder, status)}
        except GuardError as error:
            guard = error
            report = {
                "event": "guard",
                "error": str(error),
                "timestep": error.timestep,
                "verdict": error.verdict,
            }
        except TrainingError:
            raise
        except InputError as error:
            self._let_go()
            report = {"event": "refused", "error": str(error), "rows_refused": self._rows(folder)}
        report |= {"entry": folder.name, "run": str(self.run.root), "told": False}
        report["seconds"] = round(time.monotonic() - began, 1)
        aside = report["event"] == "refused" or (guard is not None and guard.undone)
        path = self.inbox.refuse(folder, report) if aside else self.inbox.done(folder, report)
        self.run.progress.say(f"{folder.name}: {report['event']}; {path}")
        self._tell(path, report)
        if guard is not None and not guard.undone:
            raise guard

    def _feed(self, folder: Path) -> dict[str, Any]:
        given = feed_of(folder, self.inbox.root)
        dataset = given.pop("dataset")
        return self._unlocked(lambda: self.run.feed(dataset, **given))

    def _fed_before(self, folder: Path) -> dict[str, Any] | None:
        """The status of the run, if a killed watch had fed what lies in a folder; what a guard said of it, if it did.

        Raises:
            GuardError: a guard has undone it.
        """
        from lifelong.steer.verdicts import last_trip

        place = str(folder.absolute())
        with self.run.reading() as stores:
            if any(each.source.startswith(place) for each in stores.pool.datasets()):
                return self.run.status()
            tripped = last_trip(stores)
        if tripped is not None and tripped.source.startswith(place):
            raise tripped
        return None

    def _taken(self, folder: Path, status: dict[str, Any]) -> dict[str, Any]:
        """Which timestep a folder's dataset was, and what became of its rows."""
        with self.run.reading() as stores:
            fed = [each for each in stores.pool.datasets() if each.source.startswith(str(folder.absolute()))]
            (dataset,) = fed[-1:]
            refused = list(stores.pool.refusals(dataset=dataset.name))
        return {
            "timestep": dataset.timestep,
            "dataset": dataset.name,
            "skill": dataset.skill,
            "rows": {name: getattr(dataset, name) for name in ("rows", "accepted", "rejected", "duplicates")},
            "rows_refused": [
                f"{row.file} row {row.row}: {row.reason}; {row.fix}" for row in refused[:ROWS_TOLD]
            ],
            "pool": status["pool"],
        }

    def _rows(self, folder: Path) -> list[str]:
        """What is wrong with the rows of a dataset that was refused."""
        from lifelong.formats import open_dataset
        from lifelong.formats.check import check

        try:
            given = feed_of(folder, self.inbox.root)
            dataset = open_dataset(given["dataset"], images=given.get("images"), format=given.get("format"))
            faults = (each for each in check(dataset) if each["outcome"] != "accepted")
            told = (f"{each['file']} row {each['row']}: {each['reason']}; {each['fix']}" for each in faults)
            return [line for line, _ in zip(told, range(ROWS_TOLD), strict=False)]
        except InputError:
            return []

    def _let_go(self) -> None:
        """Take back a timestep that began and could not go on, so that the next dataset can be fed."""
        status = self.run.status()
        if status["phase"] is not None:
            self.run.rollback(to=status["timestep"] - 1)

    def _unlocked(self, work: Any) -> Any:
        """Do what writes to the run, once no other process does."""
        while True:
            try:
                return work()
            except RunError as error:
                if not isinstance(error.__cause__, LockedError):
                    raise
                self.run.progress.say(f"waiting: {error}")
                time.sleep(max(self.every, 1.0))

    def _tell(self, path: Path, report: dict[str, Any]) -> None:
        """Run the user's command; it is run again after a kill that came before its end was noted."""
        if self.hook:
            told = {**report, "report": str(path)}
            environment = {
                f"LIFELONG_{name.upper()}": str(told[name])
                for name in ("event", "entry", "run", "timestep", "dataset", "skill", "error", "report")
                if told.get(name) is not None
            }
            try:
                ended = subprocess.run(
                    self.hook,
                    shell=True,
                    input=json.dumps(told, ensure_ascii=False).encode(),
                    env=os.environ | environment,
                    timeout=HOOK_SECONDS,
                    check=False,
                )
                if ended.returncode:
                    self.run.progress.say(
                        f"the command on {report['event']} ended with code {ended.returncode}"
                    )
            except subprocess.TimeoutExpired:
                self.run.progress.say(
                    f"the command on {report['event']} took over {HOOK_SECONDS} s and was ended"
                )
        write_report(path, {**report, "told": True})
