"""The desk: deadlines, deaths and suspects, with the table as its backend."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from geobatch.engine.generator import KILLERS, Generator
from geobatch.engine.request import Dead, Reply, Request, Sampling, hotter
from geobatch.engine.scripted import Scripted
from geobatch.errors import MachineError, UserError

DIES, STALLS = {"dies": True}, {"stalls": True}


def requests(*names: str) -> list[Request]:
    return [Request(name, [{"role": "user", "content": [{"type": "text", "text": name}]}]) for name in names]


def fates(replies: list[Reply]) -> list[str]:
    return [reply.fault.reason if reply.fault else reply.samples[0].text for reply in replies]


@pytest.fixture
def desk() -> Any:
    made: list[Generator] = []

    def make(replies: dict[str, list[Any]], **settings: Any) -> Generator:
        made.append(Generator(Scripted({**replies, "*": ["fine"]}, seconds=0.01), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_replies_come_in_the_order_of_requests(desk: Any) -> None:
    table = {f"{n}": [f"reply {n}"] for n in range(100)}
    assert fates(desk(table, in_flight=7).ask(requests(*table), Sampling())) == [f"reply {n}" for n in range(100)]


def test_draws_of_one_request(desk: Any) -> None:
    reply = desk({"a": ["x", "yy", "zzz"]}).ask(requests("a"), Sampling(draws=4, temperature=1))[0]
    assert [sample.text for sample in reply.samples] == ["x", "yy", "zzz", "x"]
    assert reply.samples[1].logprob == pytest.approx(-0.2)
    assert reply.samples[2].span_logprob(1, 3) == pytest.approx(-0.2)


@pytest.mark.parametrize("suspects", [1, 2, 3, 20, 64])
@pytest.mark.parametrize("killer", [0, 0.5, 1])
def test_one_killer_is_one_rejection_and_the_others_are_answered(desk: Any, suspects: int, killer: float) -> None:
    at = round(killer * (suspects - 1))
    generator = desk({f"n{at}": [DIES]})
    found = fates(generator.ask(requests(*(f"n{n}" for n in range(suspects))), Sampling()))
    assert found == ["crashed" if n == at else "fine" for n in range(suspects)]
    assert generator.health.deaths <= 2 * suspects.bit_length() + 2
    assert fates(generator.ask(requests("later"), Sampling())) == ["fine"]


def test_three_killers_among_fifty(desk: Any) -> None:
    killers = {"n3": [DIES], "n4": [DIES], "n40": [DIES]}
    found = fates(desk(killers, in_flight=16).ask(requests(*(f"n{n}" for n in range(50))), Sampling()))
    assert found == ["crashed" if f"n{n}" in killers else "fine" for n in range(50)]


def test_slices_asked_from_several_threads_do_not_lose_a_reply_to_anothers_killer(desk: Any) -> None:
    generator, found = desk({"b5": [DIES]}), {}

    def ask(name: str) -> None:
        found[name] = fates(generator.ask(requests(*(f"{name}{n}" for n in range(12))), Sampling()))

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {name: ["crashed" if (name, n) == ("b", 5) else "fine" for n in range(12)] for name in "abcd"}


def test_an_engine_that_died_of_its_machine_costs_nobody(desk: Any) -> None:
    generator = desk({})
    scripted = generator.backend
    scripted.seconds = 0.2
    threading.Timer(0.1, lambda: generator._loop.call_soon_threadsafe(scripted._death.set)).start()
    assert fates(generator.ask(requests(*"abcdef"), Sampling())) == ["fine"] * 6
    assert generator.health.deaths == 1


def test_a_request_that_is_never_answered_is_a_timeout_while_others_go_on(desk: Any) -> None:
    generator = desk({"slow": [STALLS]}, deadline_s=0.3)
    assert fates(generator.ask(requests("a", "slow", "b"), Sampling())) == ["fine", "timeout", "fine"]
    assert generator.health.deaths == 0


class Stuck(Scripted):
    """Hangs altogether, probe included, once it was asked for "hang"."""

    hung = False

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        if request.key == "hang":
            self.hung = True
        while self.hung:
            await asyncio.sleep(0.01)
        return await super().answer(request, sampling)

    async def open(self) -> None:
        self.hung = False
        await super().open()


def test_a_request_that_hangs_the_whole_engine_is_found_too() -> None:
    generator = Generator(Stuck({"*": ["fine"]}), deadline_s=0.2, probe_s=0.2)
    assert fates(generator.ask(requests("a", "hang", "b", "c"), Sampling())) == ["fine", "crashed", "fine", "fine"]
    generator.close()


def test_who_waited_for_an_engine_that_is_gone_does_not_take_the_new_one_down() -> None:
    """The first request hangs the engine; the second enters later and its own deadline ends after the new engine is up."""
    generator, found = Generator(Stuck({"*": ["fine"]}), deadline_s=0.6, probe_s=0.2), {}

    def ask(name: str) -> None:
        found[name] = fates(generator.ask(requests(name), Sampling()))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("hang", "b")]
    threads[0].start()
    time.sleep(0.4)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert found == {"hang": ["crashed"], "b": ["fine"]}
    assert generator.health.deaths == 3 and generator.backend.opened == 4, "the killer's own three deaths"  # type: ignore[attr-defined]
    generator.close()


def test_ten_draws_take_ten_places_and_more_than_there_are_takes_all(desk: Any) -> None:
    generator, under_way = desk({"a": ["x"] * 10}, in_flight=20), []
    answer = generator.backend.answer

    async def watched(request: Request, sampling: Sampling) -> Reply:
        under_way.append(len(generator._under_way))
        return await answer(request, sampling)

    generator.backend.answer = watched
    many = [Request(f"a{n}", requests("a")[0].messages) for n in range(8)]
    assert len(generator.ask(many, Sampling(draws=10, temperature=1))) == 8 and max(under_way) == 2
    assert len(generator.ask(many, Sampling(draws=99, temperature=1))) == 8
    assert max(under_way[8:]) == 1
    assert len(generator.ask(many, Sampling(draws=10))) == 8 and max(under_way[16:]) == 8, "greedy is one reply"


class Odd(Scripted):
    """Raises what no backend announces for some requests, from its `since`th start on."""

    def __init__(self, *odd: str, since: int = 1) -> None:
        super().__init__({"kill": [DIES], "*": ["fine"]}, seconds=0.05)
        self.odd, self.since = odd, since
        self.asked: list[str] = []

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        self.asked.append(request.key)
        if request.key in self.odd and self.opened >= self.since:
            raise KeyError("pixel_values")
        return await super().answer(request, sampling)


def test_what_no_backend_announces_is_a_fault_of_its_own_request() -> None:
    backend = Odd("odd")
    generator = Generator(backend)
    replies = generator.ask(requests("a", "odd", "b"), Sampling())
    assert fates(replies) == ["fine", "failed", "fine"] and replies[1].fault is not None
    assert "KeyError: 'pixel_values'" in replies[1].fault.detail
    assert backend.asked == ["probe", "a", "odd", "b"] and generator.health.deaths == 0
    generator.close()


def test_an_engine_that_raises_at_the_probe_lives_and_a_suspect_that_raises_breaks_nobody() -> None:
    generator = Generator(Odd("odd", "probe", since=2))
    assert fates(generator.ask(requests("a", "odd", "kill"), Sampling())) == ["fine", "failed", "crashed"]
    assert fates(generator.ask(requests("later"), Sampling())) == ["fine"]
    generator.close()


class Unset(Scripted):
    """Finds after its first death that the user's settings cannot work."""

    async def open(self) -> None:
        if self.opened:
            raise UserError("the adapter is gone; restore it")
        await super().open()


def test_the_users_fault_after_a_death_stays_the_users() -> None:
    generator = Generator(Unset({"kill": [DIES], "*": ["fine"]}))
    with pytest.raises(UserError, match="the adapter is gone"):
        generator.ask(requests("a", "kill"), Sampling())
    generator.close()


class Broken(Scripted):
    """Starts `starts` times, then never."""

    def __init__(self, starts: int) -> None:
        super().__init__({"kill*": [DIES], "*": ["fine"]})
        self.left = starts

    async def open(self) -> None:
        if not self.left:
            raise Dead("no device")
        self.left -= 1
        await super().open()


def test_an_engine_that_does_not_start_is_the_machines_fault() -> None:
    with pytest.raises(MachineError, match="does not start: no device"):
        Generator(Broken(0))


def test_an_engine_that_does_not_come_back_raises_for_all_who_wait() -> None:
    generator = Generator(Broken(1))
    with pytest.raises(MachineError, match="no device"):
        generator.ask(requests("a", "kill", "b"), Sampling())
    with pytest.raises(MachineError, match="no device"):
        generator.ask(requests("later"), Sampling())
    generator.close()


def test_when_every_request_kills_it_is_the_machine_and_not_the_requests(desk: Any) -> None:
    with pytest.raises(MachineError, match="in a row; look at the machine"):
        desk({"k*": [DIES]}).ask(requests(*(f"k{n}" for n in range(KILLERS + 1))), Sampling())


def test_a_refusing_model_refuses_one_request(desk: Any) -> None:
    generator = desk({"long": [{"refuses": "too_long"}]})
    assert fates(generator.ask(requests("a", "long"), Sampling())) == ["fine", "too_long"]


def test_new_requests_enter_while_old_ones_are_under_way(desk: Any) -> None:
    generator = desk({"slow": ["done"]})
    generator.backend.seconds = 0.4
    began = time.monotonic()
    threads = [threading.Thread(target=generator.ask, args=(requests("slow"), Sampling())) for _ in range(5)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert generator.health.answered == 5
    assert time.monotonic() - began < 4 * 0.4, "they were answered one after another"


def test_a_ladder_rises_and_draws_anew() -> None:
    greedy = Sampling()
    assert hotter(greedy, 0, 0.3) == greedy
    assert [hotter(greedy, attempt, 0.3).temperature for attempt in (1, 2)] == pytest.approx([0.3, 0.6])
    assert len({hotter(greedy, attempt, 0.3).seed_of("a") for attempt in range(4)}) == 4
    assert greedy.seed_of("a") == Sampling().seed_of("a") != greedy.seed_of("b")
    drawn = {Sampling(seed=seed, attempt=attempt).seed_of("a") for seed in (0, 1, 7919) for attempt in range(3)}
    assert len(drawn) == 9, "an attempt at one seed draws as another seed does"


@pytest.mark.parametrize("seed", [0, 5, 7919])
def test_the_table_reads_on_with_each_attempt_whatever_the_seed(desk: Any, seed: int) -> None:
    generator, first = desk({"a": ["x", "y", "z"]}), Sampling(seed=seed)
    said = [fates(generator.ask(requests("a"), hotter(first, attempt, 0.3))) for attempt in range(4)]
    assert said == [["x"], ["y"], ["z"], ["x"]]
