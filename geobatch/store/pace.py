"""How fast a process may ask a store that says it is asked too much.

Retries alone do not help there: each thread waits for itself, and all of them together ask as much as before. So the threads
of a process share one pace. It has no limit until, within `WINDOW`, more than `TOLERATED` of the answers (and `FEW` at least)
told it to slow down; single ones are everyday life of a large store and slow nobody. Then the rate becomes nine tenths of
what was answered well in that window. Each window that goes well raises it by a quarter, until it is `FREE` times what is
asked for and falls away.

Against a simulated store of 100 requests a second and 32 threads that ask 640, the share of refused requests falls from 84 %
to 12 %, and all of the 100 are used (`tests/store/test_pace.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds over which answers are counted, the share of refusals among them that is none of our business, and their number.
WINDOW, TOLERATED, FEW = 1.0, 0.1, 5

#: Requests a second that a process may always make, and by how much a limit exceeds what is asked for before it goes.
FLOOR, FREE = 1.0, 4.0


class Pace:
    """The rate of one process's requests to one store, shared by its threads.

    Args:
        clock, sleep: seconds that rise, and what waits for some of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._next = self._since = clock()
        self._well = self._refused = 0

    @property
    def rate(self) -> float | None:
        """Requests a second that may begin; None: as many as like."""
        return self._rate

    def enter(self) -> None:
        """Waits for this request's turn."""
        with self._lock:
            if self._rate is None:
                return
            now = self._clock()
            begin = max(now, self._next)
            self._next = begin + 1.0 / self._rate
        if begin > now:
            self._sleep(begin - now)

    def answered(self, *, refused: bool) -> None:
        """How the store took a request: whether it said to slow down."""
        with self._lock:
            now = self._clock()
            if now - self._since > 3 * WINDOW:  # nobody asked meanwhile: such a window says nothing of a rate
                self._since, self._well, self._refused = now, 0, 0
            self._refused += refused
            self._well += not refused
            spent = now - self._since
            if spent < WINDOW:
                return
            self._adapt(self._well / spent)
            self._since, self._well, self._refused = now, 0, 0

    def _adapt(self, good: float) -> None:
        if self._refused >= FEW and self._refused > TOLERATED * (self._well + self._refused):
            self._rate = max(FLOOR, 0.9 * good)
        elif self._rate is not None:
            self._rate *= 1.25
            if self._rate > FREE * max(FLOOR, good):
                self._rate = None
