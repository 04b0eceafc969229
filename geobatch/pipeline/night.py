"""A run that nobody watches: what it is asked to do again, when it must end, and what it says of itself by its exit status.

    0    all is done
    2    ended in order since nobody could say what it cost, which --max-cost has to know: the price of a new kind of machine is
         missing, or the cluster does not say what nodes it has; or after `BARREN` seconds without an image through,
         mostly since no nodes came
    3    more images were rejected than --max-rejected allows, at the end or so many that it was ended before, or the canary is
         worse and --canary-stop was given
    4    ended in order at --deadline or --max-cost with something left, which the next run does

In each case the table stands, with every row that was committed. A run that its watches ended is over: the next command lists
the archive anew and finds what was left as it finds what is new. Only a run that is to take the table's place (--all,
--relocate) publishes nothing before all of it is done: --deadline, --max-cost and a missing price leave it open, and the next
command goes on with it, night by night; a bad canary and too many rejections abandon it. A run that died is taken up by the
next command instead, and when its old plan is done, the archive is listed once more in the same command: what came since is not
left to the night after. So it is where the run had been asked for something else: what this command asks for follows. Only a
budget that is spent by then leaves that to the next command (4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geobatch.errors import REASONS, UserError
from geobatch.pipeline.deadline import Deadline, moment
from geobatch.pipeline.entry import DONE, ENDED, REJECTED, USER
from geobatch.pipeline.frozen import Wanted
from geobatch.pipeline.limits import PRICE, Budget, Costs, Rejections, too_many
from geobatch.pipeline.watch import Watch

#: Seconds of a run without an image read that are no night's work: nodes take five minutes or ten to come.
BARREN = 900.0


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a run over a standing output does, and when it ends."""

    all: bool = False
    """Locate everything again, not only what is new since the last run; its rows take the place of the old ones in one step.
    A run that --deadline or --max-cost ends is gone on with by the same command, and only then takes their place."""
    retry_rejected: tuple[str, ...] | None = None
    """Try again what was rejected for these reasons (none named: for any), beside what is new; a success replaces the
    rejection. After an early end the same command tries what is still rejected from the first again, and then the rest."""
    archive_emptied: bool = False
    """The archive may be found without a single object that the table knows; else that is taken for a mistake."""
    deadline: str | None = None
    """When to end in order: HH:MM, the next such time in --timezone, or a moment like 2026-11-22T06:30+01:00."""
    timezone: str | None = None
    """Zone of the deadline, such as Europe/Berlin; default: this machine's."""
    max_cost: float | None = None
    """USD after which the run ends in order, by --prices, which must name this machine's where there is no cluster; counted
    once the archive is listed, and of what earlier drivers of the same run spent the last 12 h."""
    max_rejected: float = 1.0
    """Share of the run's images that may be rejected; more end with status 3, far more end the run early. 1 allows all."""
    canary: str | None = None
    """A few labelled images that go through every run and never into the table: an archive like --archive."""
    canary_truth: str | None = None
    """CSV or Parquet of where the canary's images were taken."""
    canary_stop: bool = False
    """End the run when the canary is worse than its record, which is waited for before anything else; else it is only said."""

    def __post_init__(self) -> None:
        """Refuses what does not go together, before anything starts."""
        if self.all and self.retry_rejected is not None:
            raise UserError("--all does the rejected ones again as well; leave --retry-rejected out")
        if unknown := [reason for reason in self.retry_rejected or () if reason not in REASONS]:
            raise UserError(f"--retry-rejected: there is no reason {unknown[0]!r}; there are {', '.join(REASONS)}")
        if self.timezone and not self.deadline:
            raise UserError("--timezone is the deadline's; give --deadline, or leave it out")
        if self.max_cost is not None and not (self.max_cost > 0 and math.isfinite(self.max_cost)):
            raise UserError(f"--max-cost {self.max_cost:g} pays for nothing; give USD above 0")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"--max-rejected {self.max_rejected:g} is no share; give a number from 0 to 1, such as 0.2")
        if (self.canary is None) != (self.canary_truth is None):
            raise UserError("a canary is images and their places; give both --canary and --canary-truth")
        if self.canary_stop and self.canary is None:
            raise UserError("--canary-stop needs a canary; give --canary and --canary-truth")

    def wanted(self) -> Wanted:
        """What is done beside what is new."""
        retry = self.retry_rejected
        reasons = None if retry is None else frozenset(retry or REASONS)
        return Wanted(everything=self.all, retry=reasons, emptied=self.archive_emptied)

    def again(self, account: Mapping[str, Any]) -> bool:
        """Whether, after a run that was taken up, the archive is to be listed once more: for what came since, or for what this
        command asks for, where the run had been asked for something else.
        """
        if not account.get("resumed") or account.get("ended") or self._worse(account):
            return False
        return not account.get("as_asked", True) or (not self.all and self.retry_rejected is None)

    def ends(self, now: datetime | None = None) -> datetime | None:
        """The deadline.

        Raises:
            UserError: it is no time, or past.
        """
        return moment(self.deadline, self.timezone, now) if self.deadline else None

    def watches(self, account: Costs, at: datetime | None, usd: float | None) -> tuple[Watch, ...]:
        """What may end the run: its bounds, and rejections."""
        bounds = self.bounds(account, at, usd)
        return (*bounds, Rejections(self.max_rejected)) if self.max_rejected < 1 else bounds

    def bounds(self, account: Costs, at: datetime | None, usd: float | None) -> tuple[Watch, ...]:
        """Deadline and budget, of which `usd` are left (None: there is none)."""
        found: list[Watch] = []
        if at is not None:
            found.append(Deadline(at))
        if usd is not None:
            found.append(Budget(account, usd))
        return tuple(found)

    def verdict(self, account: Mapping[str, Any]) -> tuple[int, str | None]:
        """Exit status of a run that ended in order, and one line where it is not 0."""
        ended, left = account.get("ended"), account.get("left")
        status = USER if str(ended).startswith(f"{PRICE}:") else ENDED
        if not account["new"]:
            early = f"ended while the archive was listed, {ended}; the table stands as it was; the same command begins anew"
            return (status, early) if ended else (DONE, None)
        stands = "; the table stands as it was" if left else ""
        if (line := self._stopped(account, stands)) is not None:
            return REJECTED, line
        if left is None and (line := too_many(account, self.max_rejected)) is not None:
            return REJECTED, line
        if not ended:
            return DONE, None
        if status == ENDED and not account["read"] and account.get("wall_seconds", 0.0) >= BARREN:
            minutes = account["wall_seconds"] / 60
            line = f"ended, {ended}, and in {minutes:.0f} min not one image came through"
            return USER, f"{line}; see by `ray status` and in the log whether nodes did not come, then run it again"
        failed = "" if self.retry_rejected is None else ", after what was rejected again"
        line = f"ended before all was done, {ended}; {_left(account)}{stands}; the same command goes on with the rest{failed}"
        return status, line

    def _stopped(self, account: Mapping[str, Any], stands: str) -> str | None:
        """What a run is stopped for that must be looked at before the next."""
        ended = str(account.get("ended") or "")
        look = f"look at runs/{account['run']}/canary.json before running again"
        if ended.startswith("canary:"):
            return f"stopped, {ended}; {_left(account)}{stands}; {look}"
        if self._worse(account):
            return f"the canary is worse: {account['canary']['said']}; {look}"
        if account.get("left") == "abandoned":
            return f"stopped, {ended}; {_left(account)}{stands}; mend the cause, then give the same command again"
        return None

    def _worse(self, account: Mapping[str, Any]) -> bool:
        """Whether the canary should have stopped the run, also where the rest was through before it was judged."""
        return self.canary_stop and bool((account.get("canary") or {}).get("worse"))


def unspent(watches: Iterable[Watch]) -> float | None:
    """USD that a run with these watches has left of its budget; None where it had none.

    Raises:
        UserError, MachineError: see `geobatch.pipeline.account.Account.cost_so_far`.
    """
    budget = next((each for each in watches if isinstance(each, Budget)), None)
    return None if budget is None else budget.usd - budget.account.cost_so_far()


def _left(account: Mapping[str, Any]) -> str:
    return f"{account['read']:,} images are done, {account['unfinished']:,} of {account['shards']:,} shards are left"
