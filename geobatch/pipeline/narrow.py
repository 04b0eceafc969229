"""An image that kills or stalls its stage's process becomes one rejection.

Ray gives the slice of a dead actor to the next one, three times, and then ends the pass. A picture that makes a native library
crash would so end every pass, and every night. Decoding and engines have processes of their own that may die; this is for the
rest: whatever a stage loads into its actor.

A ledger, one actor a run, knows what every stage has begun and not ended. Who begins a slice again that was never ended works
on it in pieces, and tells the ledger before each; so a second death names a piece, a third an image:

    1st attempt   256 images                       dies: somewhere in 256
    2nd           16 pieces of 16, one by one      dies: in this one
    3rd           its 16 images alone              dies: this one
    4th           that one rejected, the others as before

An image is condemned by three deaths in a row that close in on it, the last one on it alone. Machines die as well: a slice
whose actor was only on a lost node goes through the second time, and nothing is held against it. That three nodes are lost on
the same slice, each time on the piece in hand, is the price; `--retry-rejected crashed` asks again. Where every image kills
(a broken driver), a slice of more than a handful does not come to its end in the passes there are, nothing of it is committed,
and the run fails as it should.

Stalls: Ray has no deadline for a task, a call into native code none that Python could enforce. A thread ends the process when
a slice takes longer than its stage's `deadline`, and for code that holds Python's lock a timer of the C library does so
`GRACE` seconds later. Pieces get a sixth of it. So a stall becomes a death and is narrowed down like one.

Cost: two questions to the ledger a slice and stage, some 3 ms. Not covered: deaths while a stage is made, and what rejects
images in the reader, whose requests have deadlines of their own.
"""

from __future__ import annotations

import faulthandler
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.actors import Hands, Slice
from geobatch.errors import GeobatchError, Rejection
from geobatch.service import Service
from geobatch.stage import rejected

#: Deaths that close in on an image before it is condemned.
DEATHS = 3

#: Seconds after its deadline that a process has which does not listen.
GRACE = 30.0

#: Pieces' share of a slice's deadline.
_PIECE = 6.0

#: File descriptor of what Ray keeps of a worker's errors.
_STDERR = 2

Key = tuple[str, int, int]
Range = tuple[int, int]


@dataclass(kw_only=True)
class Case:
    """A slice that a stage has begun.

    Fields:
        ranges: the pieces it is worked on in, in order, covering all rows.
        open: the piece in hand; None before the first of several.
        deaths: how many in a row closed in on one piece.
        last: rows of the piece that the last of them was on.
        overdue: whether the last of them was the deadline's.
        condemned: rows that are rejected, with the reason.
    """

    ranges: list[Range]
    open: int | None = 0
    deaths: int = 0
    last: Range | None = None
    overdue: bool = False
    condemned: dict[int, str] = field(default_factory=dict)


class Ledger:
    """What was begun and not ended; a member of a service."""

    def __init__(self) -> None:
        self._cases: dict[Key, Case] = {}
        self._closer = 0

    def begin(self, key: Key, rows: int) -> tuple[list[Range], dict[int, str]]:
        """A process begins with a slice: the pieces to work on it in, and which rows to reject before."""
        case = self._cases.get(key)
        if case is None:
            case = self._cases[key] = Case(ranges=[(0, rows)])
        elif case.open is not None:
            self._died(case)
            case.open = 0 if len(case.ranges) == 1 else None
        return case.ranges, case.condemned

    def enter(self, key: Key, piece: int) -> None:
        """Work on this piece begins."""
        if key in self._cases:  # an actor of the ledger that was lost comes back knowing nothing
            self._cases[key].open = piece

    def overdue(self, key: Key) -> None:
        """The process will end itself."""
        if key in self._cases:
            self._cases[key].overdue = True

    def end(self, key: Key) -> None:
        """The slice went through, or raised, which is no death."""
        self._cases.pop(key, None)

    def closer(self) -> int:
        """How many deaths brought a killer nearer, the last one that condemns it too: whether another pass is worth its while.

        Each death on the way counts, not only those that cut: a pass may see just one of the three that an image alone takes,
        where its slice loses the other attempts waiting for an actor that another slice kills.
        """
        return self._closer

    def _died(self, case: Case) -> None:
        assert case.open is not None
        start, stop = case.ranges[case.open]
        closer = case.last is None or (case.last[0] <= start and stop <= case.last[1])
        case.deaths, case.last = case.deaths + 1 if closer else 1, (start, stop)
        living = [row for row in range(start, stop) if row not in case.condemned]
        if len(living) > 1:
            whole = len(case.ranges) == 1 and stop - start > 4
            width = math.isqrt(stop - start - 1) + 1 if whole else 1
            cut = [(at, min(at + width, stop)) for at in range(start, stop, width)]
            case.ranges[case.open : case.open + 1] = cut
        elif living and case.deaths >= DEATHS:
            case.condemned[living[0]] = "timeout" if case.overdue else "crashed"
            case.deaths, case.last = 0, None
        self._closer += closer or len(living) > 1
        case.overdue = False


def ledger_of(run: str) -> Service:
    """The ledger of a run."""
    return Service(f"ledger-{run}", Ledger, [{}])


def guarded(hands: Hands, ledger: Service, gate: Service | None = None) -> Hands:
    """The stage with a guard around it, unless it deals in slices itself.

    Who works on several slices at once waits for an engine, whose answers have deadlines of their own.
    """
    if getattr(hands.stage, "takes_slices", False):
        return hands
    deadline = hands.deadline if hands.at_once == 1 else 0.0
    return replace(hands, guard=Guard(hands.stage.__name__, ledger, deadline, gate))


class Guard:
    """Stands around a stage in its actor: called with the stage and a slice, gives the slice's rows.

    Args:
        name: the stage's.
        ledger: see the top of this file.
        deadline: seconds for one slice; 0: none.
        gate: asked before a slice is begun; None: all are.
    """

    def __init__(self, name: str, ledger: Service, deadline: float = 0.0, gate: Service | None = None) -> None:
        self.name, self.ledger, self.deadline, self.gate = name, ledger, deadline, gate
        self._alone, self._counting, self._running = threading.Lock(), threading.Lock(), 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Guard, (self.name, self.ledger, self.deadline, self.gate)

    def __call__(self, stage: Callable[[pa.Table], pa.Table], piece: Slice) -> pa.Table | None:
        """The stage's rows; None where the run is ending and the slice was not begun."""
        if self.gate is not None and not self.gate.ask("begins", piece.shard, piece.number)[0]:
            return None
        key = (self.name, piece.shard, piece.number)
        ((ranges, condemned),) = self.ledger.ask("begin", key, len(piece.rows))
        try:
            if len(ranges) == 1:
                with self._watched(key, self.deadline):
                    return stage(self._sentenced(piece.rows, condemned))
            # Suspects of one actor go one after the other: who is in hand when it dies is the one.
            with self._alone:
                return self._in_pieces(stage, key, self._sentenced(piece.rows, condemned), ranges)
        finally:
            self.ledger.ask("end", key)

    def _in_pieces(self, stage: Callable[[pa.Table], pa.Table], key: Key, rows: pa.Table, ranges: list[Range]) -> pa.Table:
        done: list[pa.Table] = []
        like: pa.Table | None = None
        for number, (start, stop) in enumerate(ranges):
            table = rows.slice(start, stop - start)
            self.ledger.ask("enter", key, number)
            with self._watched(key, self.deadline / _PIECE):
                done.append(stage(table))
            if like is None and pc.any(pc.is_null(table["reason"])).as_py():
                like = done[-1]
        pattern = done[0] if like is None else like
        return pa.concat_tables([each.select(pattern.column_names).cast(pattern.schema) for each in done])

    def _sentenced(self, rows: pa.Table, condemned: dict[int, str]) -> pa.Table:
        how = {
            "crashed": f"the process of stage {self.name} died {DEATHS} times on it, the last time on it alone",
            "timeout": f"stage {self.name} was ended on it {DEATHS} times, the last time on it alone, after its deadline "
            f"({self.deadline:g} s for a slice)",
        }
        return rejected(rows, self.name.lower(), {row: Rejection(why, how[why]) for row, why in condemned.items()})

    @contextmanager
    def _watched(self, key: Key, seconds: float) -> Iterator[None]:
        """Ends this process unless it is left within the deadline."""
        if seconds <= 0:
            yield
            return
        timer = threading.Timer(seconds, self._end, [key])
        timer.daemon = True
        timer.start()
        with self._counting:
            self._running += 1
            # Of several at work at once the newest sets it anew: one that holds Python's lock lets none of them go on.
            faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=_STDERR)
        try:
            yield
        finally:
            timer.cancel()
            with self._counting:
                self._running -= 1
                if not self._running:
                    faulthandler.cancel_dump_traceback_later()

    def _end(self, key: Key) -> None:
        try:
            faulthandler.dump_traceback(file=_STDERR)
            self.ledger.ask("overdue", key, deadline=GRACE / 2)
        except (GeobatchError, OSError, ValueError):
            pass  # who is not told that it was a stall takes it for a crash
        finally:
            os._exit(1)
