"""Deaths of processes, played to the ledger: who is condemned, and who is not. That processes really die is tried with Ray."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.actors import Hands, Slice
from geobatch.pipeline.narrow import DEATHS, Guard, Ledger, guarded, ledger_of
from geobatch.schema import FATE
from geobatch.service import Service
from geobatch.stage import Stage

KEY = ("Embed", 3, 1)


class Dead(BaseException):
    """A process is no more."""


def play(
    ledger: Ledger, rows: int, killers: set[int], lost: frozenset[int] = frozenset(), limit: int = 200
) -> tuple[int, dict]:
    """Attempts at a slice until it goes through; how many it took, and who was condemned.

    Args:
        lost: attempts at which the machine dies, whatever is in hand (at a piece drawn by the attempt's number).
    """
    for attempt in range(1, limit):
        ranges, condemned = ledger.begin(KEY, rows)
        assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
        unlucky = random.Random(attempt).randrange(len(ranges)) if attempt in lost else None
        for piece, (start, stop) in enumerate(ranges):
            if len(ranges) > 1:
                ledger.enter(KEY, piece)
            if unlucky == piece or killers & set(range(start, stop)) - condemned.keys():
                break
        else:
            ledger.end(KEY)
            return attempt, condemned
    raise AssertionError("never through")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.sets(st.integers(0, 299), max_size=4))
def test_killers_are_condemned_and_nobody_else(rows: int, drawn: set[int]) -> None:
    killers = {row for row in drawn if row < rows}
    attempts, condemned = play(Ledger(), rows, killers)
    assert set(condemned) == killers and set(condemned.values()) <= {"crashed"}
    assert attempts <= 1 + 2 * DEATHS * len(killers)
    if len(killers) == 1:
        assert attempts <= DEATHS + 1  # within Ray's attempts of one pass, whatever the slice's size
    if not killers:
        assert attempts == 1


@settings(max_examples=80, deadline=None)
@given(st.integers(30, 300), st.sets(st.integers(1, 12), max_size=2))
def test_machines_that_die_twice_condemn_nobody(rows: int, lost: set[int]) -> None:
    _, condemned = play(Ledger(), rows, set(), frozenset(lost))
    assert not condemned


def test_a_killer_among_lost_machines_is_still_the_only_one() -> None:
    ledger = Ledger()
    _, condemned = play(ledger, 256, {77}, frozenset({2, 4}))
    assert condemned == {77: "crashed"}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(0, 299))
def test_each_death_on_the_way_to_a_killer_is_worth_another_pass(rows: int, drawn: int) -> None:
    """A pass may see one of them only; it was given up after two of those that an image alone takes."""
    ledger, killer = Ledger(), drawn % rows
    for death in range(DEATHS):
        ranges, condemned = ledger.begin(KEY, rows)
        assert not condemned and ledger.closer() == death
        piece = next(at for at, (start, stop) in enumerate(ranges) if start <= killer < stop)
        if len(ranges) > 1:
            ledger.enter(KEY, piece)
    assert ledger.begin(KEY, rows)[1] == {killer: "crashed"} and ledger.closer() == DEATHS


def test_a_stall_is_said_to_be_one() -> None:
    ledger = Ledger()
    for _ in range(DEATHS):
        ledger.begin(KEY, 1)
        ledger.overdue(KEY)
    assert ledger.begin(KEY, 1) == ([(0, 1)], {0: "timeout"})


def test_a_slice_that_waited_for_its_turn_is_not_blamed() -> None:
    ledger = Ledger()
    ledger.begin(KEY, 16)
    ledger.begin(KEY, 16)  # one death: from here on in pieces
    for _ in range(5):  # deaths while it waited for another suspect of the same actor
        ranges, condemned = ledger.begin(KEY, 16)
        assert len(ranges) == 4 and not condemned


def test_pieces_shrink_by_roots() -> None:
    ledger = Ledger()
    ledger.begin(KEY, 256)
    ranges, _ = ledger.begin(KEY, 256)
    assert [stop - start for start, stop in ranges] == [16] * 16
    ledger.enter(KEY, 3)
    ranges, _ = ledger.begin(KEY, 256)
    assert len(ranges) == 31 and (48, 49) in ranges and ranges[0] == (0, 16)


class Double(Stage):
    """Doubles a number and cannot bear 13."""

    adds = (pa.field("twice", pa.int64()),)

    def __init__(self) -> None:
        self.calls: list[int] = []

    def work(self, table: pa.Table) -> pa.Table:
        self.calls.append(len(table))
        if 13 in table["number"].to_pylist():
            raise Dead
        return table.append_column("twice", pc.multiply(table["number"], 2))


def piece(rows: int, shard: int = 0, dead: tuple[int, ...] = ()) -> Slice:
    table = pa.table({"image_id": [f"i{n}" for n in range(rows)], "number": pa.array(range(rows), pa.int64())})
    for field in FATE:
        table = table.append_column(field, pa.array(["old" if n in dead else None for n in range(rows)], pa.string()))
    return Slice(shard=shard, number=0, last=True, end=-1, skipped=0, rows=table)


@pytest.mark.parametrize("dead", [(), (0, 1, 12, 14, 39)])
def test_the_slice_comes_through_whole_and_in_order_but_for_the_killer(dead: tuple[int, ...]) -> None:
    ledger, stage = ledger_of("test"), Double()
    attempts = 0
    while attempts < 9:
        attempts += 1
        # What a process does, to the moment it dies: begin, work in pieces, and no end.
        ((ranges, condemned),) = ledger.ask("begin", ("Double", 0, 0), 40)
        guard = Guard("Double", ledger)
        rows = guard._sentenced(piece(40, dead=dead).rows, condemned)
        try:
            done = guard._in_pieces(stage, ("Double", 0, 0), rows, ranges) if len(ranges) > 1 else stage(rows)
        except Dead:
            continue
        break
    assert attempts == DEATHS + 1
    assert done["number"].to_pylist() == list(range(40))
    lost = {13, *dead}
    assert done["twice"].to_pylist() == [None if n in lost else 2 * n for n in range(40)]
    assert done["reason"].to_pylist() == ["crashed" if n == 13 else "old" if n in dead else None for n in range(40)]
    assert done["stage"][13].as_py() == "double" and "on it alone" in done["detail"][13].as_py()


def test_a_slice_in_which_all_are_condemned_or_dead_passes_by() -> None:
    ledger = ledger_of("test")
    for _ in range(DEATHS):
        ledger.ask("begin", ("Double", 0, 0), 1)
    done = Guard("Double", ledger)(Double(), piece(1))
    assert done is not None and done["reason"].to_pylist() == ["crashed"] and done["twice"].to_pylist() == [None]


def test_what_a_stage_raises_is_no_death() -> None:
    class Refuse:
        def __call__(self, table: pa.Table) -> pa.Table:
            raise OSError("disk full")

    ledger = ledger_of("test")
    for _ in range(DEATHS + 2):
        with pytest.raises(OSError, match="disk full"):
            Guard("Refuse", ledger)(Refuse(), piece(3))
    assert ledger.ask("closer") == [0] and ledger.ask("begin", ("Refuse", 0, 0), 3) == [([(0, 3)], {})]


def test_a_closed_gate_lets_no_slice_begin() -> None:
    from geobatch.pipeline.drain import gate_of

    gate, ledger = gate_of("test"), ledger_of("test")
    guard = Guard("Double", ledger, gate=gate)
    assert guard(Double(), piece(3)) is not None
    assert gate.ask("close") == [{0: 1}]
    assert guard(Double(), piece(3, shard=1)) is None
    assert guard(Double(), piece(3)) is not None  # begun before: its actor died, another takes it up


def test_a_guard_travels_without_its_locks() -> None:
    import pickle

    ledger = ledger_of("test")
    guard = pickle.loads(pickle.dumps(Guard("Double", ledger, 5.0, None)))
    assert (guard.name, guard.deadline, guard.ledger.name) == ("Double", 5.0, ledger.name)
    assert guard(Double(), piece(2)) is not None


def test_who_waits_for_an_engine_gets_no_deadline_of_ours() -> None:
    class Writes:
        takes_slices = True

    ledger: Service = ledger_of("test")
    assert guarded(Hands(stage=Double, deadline=7.0), ledger).guard.deadline == 7.0  # type: ignore[union-attr]
    assert guarded(Hands(stage=Double, deadline=7.0, at_once=4), ledger).guard.deadline == 0.0  # type: ignore[union-attr]
    assert guarded(Hands(stage=Writes), ledger).guard is None
