"""A pass whose nodes went for good, ended so that the next one may do with those that are left.

Pools are laid out on the nodes there could be when a pass begins. Where no autoscaler brings another, a lost node's actors wait
for CPUs that the surviving ones hold, who wait for them: on two nodes of two CPUs, one of them lost with the first and the last
stage, nothing came in 270 s, and nothing would. Ray has no word for it. So while nothing comes, the pools are laid out anew on
what is there; if they no longer fit, and still nothing has come after `PATIENCE`, the pass is broken off.

A wait for nodes that an autoscaler could bring is none of this: they count as there. What is waited for, and why the last one
could not be had, is said after `PATIENCE` and every hour from then on, for as long as nothing comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from geobatch import nodes
from geobatch.errors import MachineError, UserError
from geobatch.layout import Nodes, Pool, settle
from geobatch.progress import say
from geobatch.turns import in_turn

#: Seconds between two looks, and that a pass may stand still on nodes that do not hold it.
POLL, PATIENCE = 15.0, 300.0

#: Seconds between two lines on what is waited for.
AGAIN = 3600.0


class Starving:
    """Watches one pass from a thread of its own, from entering to leaving.

    Args:
        pools: the stages as they were settled.
        end: breaks the pass off; may be called again.
        see: the nodes there are and could be.
        poll, patience: seconds, see above.
        told: which nodes are waited for; empty: none.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        end: Callable[[], None],
        see: Callable[[], Nodes] = nodes.seen,
        poll: float = POLL,
        patience: float = PATIENCE,
        told: Callable[[], str] = nodes.wait,
    ) -> None:
        self.pools, self.end, self.see, self.poll, self.patience, self.told = pools, end, see, poll, patience, told
        self.starved = False
        self._last = time.monotonic()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="starving", daemon=True)

    def __enter__(self) -> Starving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(self.poll)

    def fed(self) -> None:
        """Something came through."""
        self._last = time.monotonic()

    def fault(self) -> MachineError:
        """What to raise for a pass that was broken off."""
        return MachineError(
            f"nodes went, none came in their place, and for {self.patience:.0f} s those that are left were too few for all "
            "actors at once; run the same command again"
        )

    def _watch(self) -> None:
        fitted = said = time.monotonic()
        while not self._left.wait(self.poll):
            now = time.monotonic()
            if now - self._last < self.patience:
                said = now - AGAIN
            elif now - said >= AGAIN:
                said = now
                self._tell(now - self._last)
            if now - self._last < self.poll or self._fits():
                fitted = now
            elif now - max(fitted, self._last) >= self.patience:
                self.starved = True
                self.end()

    def _tell(self, seconds: float) -> None:
        try:
            if found := self.told():
                say(f"nothing has come through for {seconds / 60:.0f} min; {found}")
        except Exception:  # noqa: BLE001  a head that does not answer is asked again
            return

    def _fits(self) -> bool:
        try:
            return settle(self.pools, self.see()) == [pool.most for pool in self.pools]
        except UserError:
            return False
        except Exception:  # noqa: BLE001  a head that does not answer says nothing of its nodes
            return True


def breaking_off(dataset: Any, pools: Sequence[Pool]) -> Callable[[bool], None]:
    """What ends the iteration of a Ray dataset, now; told to kill, with its actors. The pools start in turn (`geobatch.turns`).

    Ray shows a dataset's executor once its first block is out, which a river that waits for a node may never see.
    """
    executors: list[Any] = []
    create = dataset._create_executor

    def created() -> Any:
        executors.append(in_turn(create(), pools))
        return executors[-1]

    dataset._create_executor = created

    def end(kill: bool = True) -> None:
        for executor in executors:
            executor.shutdown(force=kill)

    return end
