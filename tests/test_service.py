"""Services without Ray; with actors that die: tests/river/test_shards.py."""

from __future__ import annotations

import pickle

import pytest

from geobatch.actors import Hands
from geobatch.errors import UserError
from geobatch.service import Service, asking, services


class Counter:
    def __init__(self, start: int) -> None:
        if start < 0:
            raise UserError("start at 0 or later")
        self.count = start

    def add(self, more: int) -> int:
        self.count += more
        return self.count


class Asks:
    @classmethod
    def services(cls, members: int, cpus: float = 0.0, **_: object) -> list[Service]:
        return [Service("counter", Counter, [{"start": 10 * each} for each in range(members)], cpus)] if members else []


def test_every_member_is_asked_and_remembered() -> None:
    service = Service("counter", Counter, [{"start": 0}, {"start": 100}])
    assert service.ask("add", 1) == [1, 101] and service.ask("add", 2) == [3, 103]
    again: Service = pickle.loads(pickle.dumps(service))
    assert again.name == "counter" and again.ask("add", 5) == [5, 105]  # members of its own
    service.stop()
    assert service.ask("add", 1) == [1, 101]


def test_a_users_fault_stays_one() -> None:
    with pytest.raises(UserError, match="0 or later"):
        Service("counter", Counter, [{"start": -1}]).ask("add", 1)


def test_a_stage_says_what_it_asks() -> None:
    assert [len(each.make) for each in services(Hands(stage=Asks, make={"members": 3, "other": 1}))] == [3]
    assert services(Hands(stage=Asks, make={"members": 0})) == services(Hands(stage=Counter, make={"start": 1})) == []


def test_heavy_members_ask_for_room_once_a_service() -> None:
    stage = Hands(stage=Asks, make={"members": 3, "cpus": 0.5})
    (pool,) = [hands.pool() for hands in asking([stage, Hands(stage=Counter, make={"start": 1}), stage])]
    assert (pool.name, pool.each["CPU"], pool.least, pool.most) == ("Counter", 0.5, 3, 3)
    assert asking([Hands(stage=Asks, make={"members": 3}), Hands(stage=Asks, make={"members": 0, "cpus": 0.5})]) == []
    again: Service = pickle.loads(pickle.dumps(services(stage)[0]))
    assert again.cpus == 0.5
