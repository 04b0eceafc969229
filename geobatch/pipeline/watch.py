"""Who looks on while a run works: deadlines, budgets, accounts, canaries plug in here and nowhere else in the loop.

A watch is told what happens and is asked, after every slice and every few seconds in between, whether the run should end now.
One reason is enough: what is under way is finished, nothing more is read (`geobatch.pipeline.drain`), and the run ends in
order, as a run does whose work is all done.

`Watching` is all watches as one. Slices are reported by the thread that drives the river and questions asked by another, since
the first may wait hours for a node; a lock keeps them apart, so that no watch has to think of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Protocol

from geobatch.actors import Hands
from geobatch.sink import Run


class Watch(Protocol):
    """What a run tells, and asks."""

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """The plan is frozen, now or by the driver before this one."""

    def river(self, hands: list[Hands]) -> None:
        """A pass starts with these stages; Ray is running."""

    def slice(self, row: dict[str, Any]) -> None:
        """A slice is committed: what `geobatch.sink.write.SUMMARY` says of it."""

    def enough(self) -> str | None:
        """Why the run should end now, in order: "word: what happened"; None while it should not.

        The word is what programs go by; it is the first of `done.json`'s "ended".
        """

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """What it adds to the account, before `done.json` is written."""

    def close(self) -> None:
        """The run is over, however it ended."""


class Onlooker:
    """A watch that does nothing; what it does say or do, a watch made from it says."""

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """See `Watch`."""

    def river(self, hands: list[Hands]) -> None:
        """See `Watch`."""

    def slice(self, row: dict[str, Any]) -> None:
        """See `Watch`."""

    def enough(self) -> str | None:
        """See `Watch`."""
        return None

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """See `Watch`."""
        return {}

    def close(self) -> None:
        """See `Watch`."""


class Watching:
    """All watches of a run."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self.watches, self._lock = tuple(watches), threading.Lock()

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """See `Watch`."""
        for watch in self.watches:
            with self._lock:
                watch.begin(run, frozen)

    def river(self, hands: list[Hands]) -> None:
        """See `Watch`."""
        for watch in self.watches:
            with self._lock:
                watch.river(hands)

    def slice(self, row: dict[str, Any]) -> None:
        """See `Watch`."""
        for watch in self.watches:
            with self._lock:
                watch.slice(row)

    def enough(self) -> str | None:
        """The first reason that any of them has."""
        for watch in self.watches:
            with self._lock:
                reason = watch.enough()
            if reason is not None:
                return reason
        return None

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """What all of them add; a later one sees what earlier ones added."""
        added: dict[str, Any] = {}
        for watch in self.watches:
            with self._lock:
                added.update(watch.end({**account, **added}))
        return added

    def close(self) -> None:
        """Closes every one, whatever another raises."""
        faults = []
        for watch in self.watches:
            try:
                with self._lock:
                    watch.close()
            except Exception as fault:  # noqa: BLE001  raised below, once all are closed
                faults.append(fault)
        if faults:
            raise faults[0]
