"""What a run may cost, and how many of its images may be rejected.

A budget ends a run in order once it is spent ("cost: …"); what is under way is finished, so a run costs a little more than it
may. Where nobody can say any more what the run costs, it ends in order as well, with another word ("price: …"): that is no
budget spent but something to put right.

Rejections are judged at the end, when they are known: `--max-rejected 0.2` ends with status 3 if more than a fifth of the run's
images were. To wait for the end is dear where credentials expired or a model is broken, so a run stops before

- once more images are rejected than the share allows of all that were planned: nothing can mend that any more;
- or once the share of those that were read lies beyond the middle between what is allowed and all of them;

in either case not before `LEAST` images were read, four slices: of a smaller run there is nothing to save, and a broken tar
among the first of an archive does not stop a large one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from geobatch.errors import MachineError, UserError
from geobatch.pipeline.watch import Onlooker
from geobatch.sink import Run
from geobatch.sink.record import WHOLE

#: Images that must have been read before their share says anything of the rest.
LEAST = 1000
#: Seconds for which a run with a budget goes on while nobody can say what it costs.
SILENCE = 600.0

#: Word of an ending (`Watch.enough`) for want of a price.
PRICE = "price"


class Costs(Protocol):
    """Who knows what a run has cost."""

    def cost_so_far(self) -> float:
        """USD so far; a UserError where a price is not known, a MachineError where nobody can say what machines there are."""


class Budget(Onlooker):
    """Has enough once the money is spent.

    Args:
        account: is asked; must be among the watches before this one.
        usd: what the run may cost.
        clock: seconds; for tests.
    """

    def __init__(self, account: Costs, usd: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.account, self.usd, self.clock = account, usd, clock
        self._began, self._before = clock(), 0.0

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Refuses a budget that nobody could keep, since a price is missing. A run that the last budget left open has a new one
        from there on.
        """
        self._began = self.clock()
        with suppress(MachineError):  # a cluster that is silent is asked again
            self._before = self.account.cost_so_far()
        if run.resumed and (left := run.left()) is not None:
            self.usd += min(left.get("usd") or 0.0, self._before)

    def enough(self) -> str | None:
        """See `Watch`."""
        try:
            cost = self.account.cost_so_far()
        except UserError as error:  # a node came whose price nobody named: better ended than spent blindly
            return f"{PRICE}: {error}"
        except MachineError as error:
            return f"{PRICE}: {error}" if self.clock() - self._began >= SILENCE else None
        earlier = f", {self._before:,.2f} of it by earlier drivers" if self._before >= 0.005 else ""
        return f"cost: {cost:,.2f} USD of {self.usd:,.2f} are spent{earlier}" if cost >= self.usd else None


class Rejections(Onlooker):
    """Has enough once too many images are rejected.

    Args:
        share: of the run's images, that may be; from 1 on all may.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._read = self._rejected = 0
        self._reasons: Counter[str] = Counter()
        self._planned: int | None = None

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Counts what is planned, where the plan says it, and what earlier drivers of the run committed."""
        whole = all(kind in WHOLE for file in frozen["files"] for kind in file["kinds"])
        self._planned = sum(sum(file["rows"]) for file in frozen["files"]) if whole else None
        if run.resumed:
            for commit in run.committed():
                self._add(commit["read"], commit["rejected"], commit["reasons"])

    def slice(self, row: dict[str, Any]) -> None:
        """Counts; the canary's images are none of the run's."""
        if row["shard"] >= 0:
            self._add(row["read"], row["rejected"], dict(row["reasons"]))

    def _add(self, read: int, rejected: int, reasons: Mapping[str, int]) -> None:
        self._read, self._rejected = self._read + read, self._rejected + rejected
        self._reasons.update(reasons)

    def enough(self) -> str | None:
        """See `Watch`."""
        if self.share >= 1:
            return None
        certain = self._planned is not None and self._rejected > self.share * self._planned
        likely = self._rejected > (1 + self.share) / 2 * self._read
        if self._read < LEAST or not (certain or likely):
            return None
        return f"rejected: {self._rejected:,} of {self._read:,} images ({most(self._reasons)})"


def too_many(account: Mapping[str, Any], share: float) -> str | None:
    """One line on a finished run that rejected more than it may; None where it did not."""
    read, rejected = account["read"], account["rejected"]
    if share >= 1 or rejected <= share * read:
        return None
    return (
        f"{rejected / read:.1%} of {read:,} images were rejected, more than --max-rejected {share:g} "
        f"({most(account['reasons'])}); the table holds what there is: mend the cause, then run again with --retry-rejected"
    )


def most(reasons: Mapping[str, int]) -> str:
    """The three biggest reasons."""
    return ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0]))[:3]
    )
