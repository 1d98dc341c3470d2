"""From a training, wherever it runs, to a tracker's callback, which cannot stop it, nor be told of a step twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class Telling(TrainerCallback):
    """Passes on what trackers want to know: (event, Trainer's arguments, its state, what is logged)."""

    def __init__(self, tell: Callable[[str, Any, Any, dict[str, float] | None], None]) -> None:
        self.tell = tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.tell("on_train_begin", args, state, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        self.tell("on_log", args, state, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.tell("on_train_end", args, state, None)


class Guarded(TrainerCallback):
    """Passes on to a callback what comes after training step `done`, until it raises, which `warn` is told of."""

    def __init__(self, callback: TrainerCallback, done: int, warn: Callable[[Exception], None]) -> None:
        self.callback = callback
        self.done = done
        self.warn = warn
        self.failed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not self.done:
            self._tell("on_train_begin", args, state, control, others)

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step > self.done:
            self._tell("on_log", args, state, control, others)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._tell("on_train_end", args, state, control, others)

    def _tell(self, event: str, args: Any, state: Any, control: Any, others: dict[str, Any]) -> None:
        if self.failed:
            return
        try:
            getattr(self.callback, event)(args, state, control, **others)
        except Exception as error:
            self.failed = True
            self.warn(error)
