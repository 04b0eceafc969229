"""What the driver sees of a training while it waits: an actor that rank 0 writes to and the driver asks; and what ends one.

Ray starts a group of workers again whatever they raised. What the user must resolve is raised by the next group as well, so
`Halt` turns it into an error of the controller's, which Ray does not try again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from geobatch.errors import UserError

POLL_SECONDS = 0.5


class Board:
    """What the driver sees of rank 0."""

    def __init__(self) -> None:
        self.seen: tuple[int, int, float] | None = None

    def write(self, step: int, steps: int, loss: float) -> None:
        self.seen = (step, steps, loss)

    def read(self) -> tuple[int, int, float] | None:
        return self.seen


class Halt(UserCallback):
    """Ends a training at the first worker that raises a UserError."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray's controller, between the workers' errors and its decision to start them again."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error


def users_fault(error: BaseException) -> UserError | None:
    """The UserError that ended a training, if one did; workers may have raised one beside it while the first was handled."""
    raised = [getattr(error, "controller_failure", None), *getattr(error, "worker_failures", {}).values()]
    return next((each for each in raised if isinstance(each, UserError)), None)


def cause_of(error: BaseException) -> str:
    """The innermost message, one line: Ray wraps errors in errors."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    while getattr(inner, "cause", None) is not None or inner.__cause__ is not None:
        inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[-1].strip() if lines else ''}"


def watched(trainer: TorchTrainer, board: Any, watch: Callable[[int, int, float], None] | None) -> Any:
    """`trainer.fit()`, with what rank 0 says passed on to `watch` meanwhile."""
    if watch is None:
        return trainer.fit()
    done = threading.Event()

    def look() -> None:
        last = None
        while not done.wait(POLL_SECONDS):
            try:
                seen = ray.get(board.read.remote(), timeout=10)
            except ray.exceptions.RayError:
                continue
            if seen is not None and seen != last:
                watch(*seen)
                last = seen

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        return trainer.fit()
    finally:
        done.set()
        thread.join()
