"""What the driver sees of a training while it waits: an actor that rank 0 writes to and the driver asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.train.torch import TorchTrainer

POLL_SECONDS = 0.5


class Board:
    """What the driver sees of rank 0."""

    def __init__(self) -> None:
        self.seen: tuple[int, int, float] | None = None

    def write(self, step: int, steps: int, loss: float) -> None:
        self.seen = (step, steps, loss)

    def read(self) -> tuple[int, int, float] | None:
        return self.seen


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
