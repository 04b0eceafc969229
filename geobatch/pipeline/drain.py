"""How a pass over the archive is ended in order.

A thread asks the watches every `POLL` seconds whether it is enough. Once it is, the gate behind the readers is closed: slices
that the first stage has begun come through and are committed, the rest is never begun. When the last of them is in, the pass is
broken off; the thousands of tasks that have nothing to say any more are not waited for, nor a node that was asked for and never
came. So the end takes as long as the slices under way, and never longer than `PATIENCE`: on a cluster that lost its nodes it
would be for ever. What is dropped then is read again by the next run, like everything else that was left.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from geobatch.archive.gate import Gate
from geobatch.errors import GeobatchError, MachineError
from geobatch.pipeline.watch import Watching
from geobatch.progress import say
from geobatch.service import Service

#: Seconds between two questions to the watches, and until slices under way are given up.
POLL, PATIENCE = 1.0, 1800.0


def gate_of(run: str) -> Service:
    """The gate behind the readers of one pass; `run` tells it from those of others on the cluster."""
    return Service(f"gate-{run}", Gate, [{}])


class Drain:
    """Watches one pass from a thread of its own, from entering to leaving.

    Args:
        watching: is asked.
        gate: stands behind the readers.
        poll, patience: seconds, see above.
    """

    def __init__(self, watching: Watching, gate: Service, poll: float = POLL, patience: float = PATIENCE) -> None:
        self.watching, self.gate, self.poll, self.patience = watching, gate, poll, patience
        self.reason: str | None = None
        self._committed: Counter[int] = Counter()
        self._cut: Callable[[bool], None] | None = None
        self._fault: Exception | None = None
        self._left, self._news = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="drain", daemon=True)

    def __enter__(self) -> Drain:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._news.set()
        self._thread.join()

    def cut_with(self, cut: Callable[[bool], None]) -> None:
        """How the pass is broken off; given by whoever starts it."""
        self._cut = cut

    def slice(self, row: dict[str, Any]) -> None:
        """A slice came through and is committed."""
        self._committed[row["shard"]] += 1
        self._news.set()

    def check(self) -> None:
        """Raises what a watch raised, which ended the pass."""
        if isinstance(self._fault, GeobatchError):
            raise self._fault
        if self._fault is not None:
            raise MachineError(f"a watch over the run failed ({type(self._fault).__name__}: {self._fault})") from self._fault

    def _keep(self) -> None:
        try:
            while not self._left.is_set():
                self.reason = self.watching.enough()
                if self.reason is not None:
                    say(f"ending early, {self.reason}; what is under way is finished, nothing more is read")
                    self._see_out()
                    return
                self._news.wait(self.poll)
                self._news.clear()
        except Exception as fault:  # noqa: BLE001  a thread's exception is nobody's: it is raised by `check`
            self._fault = fault
            self._break_off(force=True)

    def _see_out(self) -> None:
        until = time.monotonic() + self.patience
        while not self._left.is_set() and time.monotonic() < until:
            if self._through():
                break
            self._news.wait(self.poll)
            self._news.clear()
        else:
            if not self._left.is_set():
                say(f"slices under way were waited for {self.patience:.0f} s in vain; the next run does them")
            self._break_off(force=True)
        self._break_off(force=False)

    def _through(self) -> bool:
        """Whether all that was begun is committed. A gate that does not answer is asked again."""
        try:
            (begun,) = self.gate.ask("close", deadline=60.0)
        except GeobatchError:
            return False
        return all(self._committed[shard] >= slices for shard, slices in begun.items())

    def _break_off(self, *, force: bool) -> None:
        """Again and again until the pass is left: it may still be starting. By force, actors at work are killed."""
        while not self._left.is_set():
            if self._cut is not None:
                self._cut(force)
            self._left.wait(self.poll)
