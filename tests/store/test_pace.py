"""One pace for all threads, in a simulated time: against a store with a limit, and against one that only stumbles."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from geobatch.store.pace import FLOOR, Pace


@dataclass
class Clock:
    """Time that a thread's wait moves on for this thread alone."""

    now: float = 0.0
    slept: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@dataclass
class Told:
    """What a simulation counted, second by second."""

    good: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


def simulate(limit: float, stumbles: float, seconds: int, threads: int = 32, paced: bool = True) -> tuple[Told, Pace]:
    """Threads that ask again and again, each answer after 50 ms, of a store that takes `limit` requests a second."""
    clock, draw, told = Clock(), random.Random(3), Told([0] * (seconds + 60), [0] * (seconds + 60))
    pace = Pace(clock, clock.sleep)
    # Events: (when, thread, what), what: 0 it wants to ask, 1 its request reaches the store, 2 its answer comes.
    events = [(thread * 0.001, thread, 0, False) for thread in range(threads)]
    heapq.heapify(events)
    tokens, filled = limit, 0.0
    while events and events[0][0] < seconds:
        now, thread, what, refused = heapq.heappop(events)
        clock.now = now
        if what == 0:
            clock.slept = 0.0
            if paced:
                pace.enter()
            heapq.heappush(events, (now + clock.slept, thread, 1, False))
        elif what == 1:
            tokens, filled = min(limit, tokens + (now - filled) * limit), now
            full = tokens < 1
            tokens -= not full
            heapq.heappush(events, (now + 0.05, thread, 2, full or draw.random() < stumbles))
        else:
            pace.answered(refused=refused)
            (told.refused if refused else told.good)[int(now)] += 1
            heapq.heappush(events, (now, thread, 0, False))
    return told, pace


def test_threads_together_find_what_a_store_takes() -> None:
    paced, pace = simulate(limit=100, stumbles=0, seconds=40)
    alone, _ = simulate(limit=100, stumbles=0, seconds=40, paced=False)
    assert sum(alone.refused[5:40]) > 0.8 * (sum(alone.refused[5:40]) + sum(alone.good[5:40]))
    share = sum(paced.refused[5:40]) / (sum(paced.refused[5:40]) + sum(paced.good[5:40]))
    print(f"refused {share:.0%} of requests, {sum(paced.good[5:40]) / 35:.0f}/s went through of 100/s")
    assert share < 0.15 and sum(paced.good[5:40]) / 35 > 80
    assert pace.rate is not None and 70 < pace.rate < 160


def test_single_refusals_slow_nobody() -> None:
    told, pace = simulate(limit=10_000, stumbles=0.05, seconds=10)
    quiet, _ = simulate(limit=10_000, stumbles=0, seconds=10)
    assert pace.rate is None and sum(told.good) + sum(told.refused) == sum(quiet.good)


def test_a_limit_falls_away_when_it_no_longer_matters() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    for _ in range(20):
        clock.now += 0.1
        pace.answered(refused=True)
    assert pace.rate == FLOOR
    for _ in range(20):
        clock.now += 1.0
        pace.answered(refused=False)
    assert pace.rate is None
    clock.slept = 0.0
    pace.enter()
    assert clock.slept == 0.0


def test_waits_follow_one_another() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    pace._rate = 10.0
    waits = []
    for _ in range(5):
        clock.slept = 0.0
        pace.enter()
        waits.append(clock.slept)
    assert waits == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_an_idle_hour_is_no_slow_hour() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    clock.now = 3600.0
    for _ in range(12):
        clock.now += 0.11
        pace.answered(refused=True)
        pace.answered(refused=False)
    assert pace.rate is not None and 5 < pace.rate < 10
