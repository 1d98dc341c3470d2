"""What steers a run, as methods: plan, roll back, fork, accept, retire."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.context import Stores
from lifelong.handle import Handle

if TYPE_CHECKING:
    from lifelong.steer.fork import Forked
    from lifelong.steer.retire import Retired
    from lifelong.steer.rollback import RolledBack
    from lifelong.steer.verdicts import Verdict


class Steering(Handle):
    """A run that can be steered; `lifelong.Run` is one that can be fed too."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Stores]:
        """The run's stores, to write. Raises: RunError if another process is writing."""

    def plan(
        self,
        dataset: str | Path,
        *,
        images: str | Path | None = None,
        eval: str | Path | None = None,
        skill: str | None = None,
        name: str | None = None,
        format: str | None = None,
        eval_images: str | Path | None = None,
        eval_format: str | None = None,
    ) -> dict[str, Any]:
        """What feeding a dataset would bring and take; nothing is written.

        Raises:
            InputError: the dataset cannot be read.
        """
        from lifelong.run import feed_of
        from lifelong.steer.plan import plan

        feed = feed_of(
            dataset,
            name=name,
            skill=skill,
            images=images,
            eval=eval,
            eval_images=eval_images,
            format=format,
            eval_format=eval_format,
        )
        with self.reading() as stores:
            return plan(stores, self.config, feed)

    def rollback(self, to: int) -> RolledBack:
        """Make the run again what it was when timestep `to` had finished; nothing is deleted until `gc`.

        Raises:
            UsageError: there is no such timestep, or nothing after it.
        """
        from lifelong.steer.rollback import rollback

        with self.writing() as stores:
            return rollback(stores, to)

    def bring_back(self) -> RolledBack:
        """Undo the last rollback, while nothing has been fed since.

        Raises:
            UsageError: there was none, something was fed since, or `gc` has collected what it took back.
        """
        from lifelong.steer.rollback import bring_back

        with self.writing() as stores:
            return bring_back(stores)

    def accept(self) -> Verdict:
        """Let the run go on from what a guard stopped at. Raises: UsageError if none has stopped it."""
        from lifelong.steer.verdicts import accept

        with self.writing() as stores:
            return accept(stores)

    def retire(
        self,
        reason: str,
        *,
        dataset: str | None = None,
        samples: Sequence[str] = (),
        where: str | None = None,
    ) -> Retired:
        """Let the content of samples go for good: a dataset's, those named, those that an SQL condition holds for.

        Their ids and the reason stay; whatever they are fed in again is refused. See lifelong/steer/retire.py.

        Raises:
            InputError: no such sample.
            RunError: a timestep is under way.
        """
        from lifelong.steer.retire import find, retire

        with self.writing() as stores:
            return retire(stores, find(stores, dataset=dataset, samples=samples, where=where), reason)

    def fork(
        self, new: str | Path, at: int | None = None, *, recipe: str | dict[str, str] | None = None
    ) -> Forked:
        """Another run that begins where this one stood after timestep `at` (default: the last finished one).

        Raises:
            UsageError: `new` is there already, the timestep is not, or the recipe is wrong.
        """
        from lifelong.steer.fork import fork

        return fork(self, Path(new), at, recipe)
