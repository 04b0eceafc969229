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

A container that could not be opened, or broke off, is one rejection, however many images it holds: 900 of 1,000 tars that
may not be read are 0.09 % of the rows. So containers are a share of their own, judged by the same flag, at the end and (not
before `LEAST_CONTAINERS` of them) earlier.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.errors import MachineError, UserError
from geobatch.pipeline.watch import Onlooker
from geobatch.sink import Run
from geobatch.sink.record import WHOLE
from geobatch.sink.unread import UNREAD

#: Images that must have been read before their share says anything of the rest.
LEAST = 1000
#: Containers that must have failed before they end a run.
LEAST_CONTAINERS = 20
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
    """Has enough once too many images, or too many containers, are rejected.

    Args:
        share: of the run's images and of its containers, that may be; from 1 on all may.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._read = self._rejected = 0
        self._reasons: Counter[str] = Counter()
        self._planned: int | None = None
        self._containers = Containers()

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Counts what is planned, where the plan says it, and what earlier drivers of the run committed."""
        whole = all(kind in WHOLE for file in frozen["files"] for kind in file["kinds"])
        self._planned = sum(sum(file["rows"]) for file in frozen["files"]) if whole else None
        self._containers = Containers()
        self._containers.plan(run, frozen)
        if run.resumed:
            for commit in run.committed():
                self._add(commit["shard"], commit["read"], commit["rejected"], commit["reasons"])

    def slice(self, row: dict[str, Any]) -> None:
        """Counts; the canary's images are none of the run's."""
        if row["shard"] >= 0:
            self._add(row["shard"], row["read"], row["rejected"], dict(row["reasons"]))

    def _add(self, shard: int, read: int, rejected: int, reasons: Mapping[str, int]) -> None:
        self._read, self._rejected = self._read + read, self._rejected + rejected
        self._reasons.update(reasons)
        self._containers.add(shard, read, reasons)

    def enough(self) -> str | None:
        """See `Watch`."""
        if self.share >= 1:
            return None
        if (reason := self._containers.enough(self.share)) is not None:
            return f"{reason} ({most(self._reasons)})"
        certain = self._planned is not None and self._rejected > self.share * self._planned
        likely = self._rejected > (1 + self.share) / 2 * self._read
        if self._read < LEAST or not (certain or likely):
            return None
        return f"rejected: {self._rejected:,} of {self._read:,} images ({most(self._reasons)})"

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """`{"containers": {"planned", "unread"}}`, where any are planned."""
        return self._containers.counted()


class Containers:
    """Which containers of a run could not be opened, or broke off."""

    def __init__(self) -> None:
        self._number: dict[int, int] = {}  # shard -> container
        self._zips: set[int] = set()  # shards
        self._planned = 0
        self._met: set[int] = set()
        self._gave: set[int] = set()  # zips
        self._unread: set[int] = set()

    def plan(self, run: Run, frozen: dict[str, Any]) -> None:
        """Reads which shards are of one container."""
        numbers: dict[str, int] = {}
        for file in frozen["files"]:
            held = {file["first"] + at: kind for at, kind in enumerate(file["kinds"]) if kind != "object"}
            if not held:
                continue
            rows = pq.read_table(pa.BufferReader(run.store.get(run.at(file["path"]))), columns=["shard", "uri"])
            for shard, uri in zip(rows["shard"].to_pylist(), rows["uri"].to_pylist(), strict=True):
                if shard in held and shard not in self._number:  # the first row of a shard says whose it is
                    self._number[shard] = numbers.setdefault(uri, len(numbers))
            self._zips |= {shard for shard, kind in held.items() if kind == "zip"}
        self._planned = len(numbers)

    def add(self, shard: int, read: int, reasons: Mapping[str, int]) -> None:
        """A slice. A zip's members fail one by one; it counts as long as all of them did, over all of its slices."""
        if (container := self._number.get(shard)) is None:
            return
        self._met.add(container)
        lost = sum(reasons.get(reason, 0) for reason in UNREAD)
        if shard in self._zips and lost < read:
            self._gave.add(container)
            self._unread.discard(container)
        elif lost and container not in self._gave:
            self._unread.add(container)

    def enough(self, share: float) -> str | None:
        """As `Rejections.enough`."""
        unread, met = len(self._unread), len(self._met)
        if unread < LEAST_CONTAINERS or not (unread > share * self._planned or unread > (1 + share) / 2 * met):
            return None
        return f"rejected: {unread:,} of {met:,} containers could not be opened or broke off"

    def counted(self) -> dict[str, Any]:
        """For the account."""
        return {"containers": {"planned": self._planned, "unread": len(self._unread)}} if self._planned else {}


def too_many(account: Mapping[str, Any], share: float) -> str | None:
    """One line on a finished run that rejected more images, or containers, than it may; None where it did not."""
    read, rejected = account["read"], account["rejected"]
    containers = account.get("containers") or {"planned": 0, "unread": 0}
    if share < 1 and rejected > share * read:
        said = f"{rejected / read:.1%} of {read:,} images were rejected"
    elif share < 1 and containers["unread"] > share * containers["planned"]:
        said = f"{containers['unread']:,} of {containers['planned']:,} tars, zips and the like could not be opened or broke off"
    else:
        return None
    return (
        f"{said}, more than --max-rejected {share:g} ({most(account['reasons'])}); the table holds what there is: mend the "
        "cause, then run again with --retry-rejected"
    )


def most(reasons: Mapping[str, int]) -> str:
    """The three biggest reasons."""
    return ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0]))[:3]
    )
