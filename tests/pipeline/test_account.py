"""The account against sums made by hand, over drivers that come and go, with a clock and machines of the test's own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from geobatch.actors import Hands
from geobatch.errors import MachineError, UserError
from geobatch.pipeline.account import RECENT, Account, Spent, costs, lasted, reckoned, spent, table
from geobatch.pipeline.limits import SILENCE, Budget
from geobatch.pipeline.machines import Node
from geobatch.pipeline.prices import Prices
from geobatch.sink import Run
from geobatch.store import Store

PRICES = Prices(hours={"cpu": 0.6, "gpu": 3.6}, own={}, date="2026-11", source="by hand")


class Read:
    """Names of stages, for their hands."""


class Embed:
    """As above."""


def run_at(folder: Path, *, resumed: bool = False) -> Run:
    return Run(store=Store(), output=str(folder), id="000001", record={"started": "2026-11-20T00:00:00+00:00"}, resumed=resumed)


class World:
    """A clock, and the machines that are there."""

    def __init__(self) -> None:
        self.now, self.there = 1000.0, {"a": "cpu"}

    def account(self, prices: Prices = PRICES) -> Account:
        return Account(prices, look=self.look, clock=lambda: self.now, look_seconds=3600)

    def look(self) -> list[Node]:
        return [Node(node, (kind,)) for node, kind in self.there.items()]

    def wait(self, seconds: float, account: Account) -> None:
        self.now += seconds
        account.sample()


def test_by_hand(tmp_path: Path) -> None:
    """Half an hour with one CPU node, then half an hour with a GPU node beside it that comes between two looks 60 s apart."""
    world = World()
    account = world.account()
    account.begin(run_at(tmp_path), {})
    account.river([Hands(stage=Read, workers=2), Hands(stage=Embed, workers=3, at_once=2)])
    world.wait(1800, account)
    world.there["b"] = "gpu"
    world.wait(60, account)
    world.wait(1740, account)
    told = account.end({"read": 500_000, "seconds": {"Read": 3600.0, "Embed": 14_400.0}})
    account.close()
    assert told == {
        "wall_seconds": 3600,
        "images_a_second": round(500_000 / 3600, 3),
        "stages": {
            "Read": {"busy_seconds": 3600.0, "workers": 2, "busy_share": 0.5, "images_a_second": round(1e6 / 3600, 3)},
            "Embed": {"busy_seconds": 14_400.0, "workers": 6, "busy_share": round(4 / 6, 4), "images_a_second": 208.333},
        },
        "slowest": "Embed",
        "machines": {
            "cpu": {"hours": 1.0, "usd_an_hour": 0.6, "usd": 0.6},
            "gpu": {"hours": round(1770 / 3600, 4), "usd_an_hour": 3.6, "usd": 1.77},
        },
        "usd": 2.37,
        "usd_a_million": 4.74,
        "unpriced": [],
        "prices": {"date": "2026-11", "source": "by hand"},
    }
    assert table({"read": 500_000, **told}) == [
        "500,000 images in 60 min, 138.9 a second",
        "  Read     2 at once, busy  50 %, could do 277.8 images a second",
        "  Embed    6 at once, busy  67 %, could do 208.3 images a second  <- the slowest",
        "  1.00 h of cpu: 0.60 USD",
        "  0.49 h of gpu: 1.77 USD",
        "cost: 2.37 USD, 4.74 USD a million images (prices of 2026-11)",
    ]


def test_a_resumed_run_adds_what_earlier_drivers_spent(tmp_path: Path) -> None:
    world = World()
    first = world.account()
    first.begin(run_at(tmp_path), {})
    first.river([Hands(stage=Read, workers=2)])
    world.wait(600, first)
    first.close()  # its driver breaks off; the account stays behind
    world.now += 10_000  # nobody drives
    second = world.account()
    second.begin(run_at(tmp_path, resumed=True), {})
    assert second.cost_so_far() == pytest.approx(0.1)
    world.now += 150  # and nobody looked meanwhile
    assert second.cost_so_far() == pytest.approx(0.125)
    world.wait(150, second)
    assert second.cost_so_far() == pytest.approx(0.15)
    told = second.end({"read": 900, "seconds": {"Read": 90.0}})
    second.close()
    assert (told["wall_seconds"], told["usd"], told["stages"]["Read"]["workers"]) == (900, 0.15, 2)  # from the first's file
    assert spent(run_at(tmp_path)).wall == 900
    assert len(list((tmp_path / "runs/000001/account").iterdir())) == 2


def test_a_killed_driver_leaves_what_it_saved(tmp_path: Path) -> None:
    """The looking thread saves every minute; a driver that is killed never closes."""
    world = World()
    killed = Account(PRICES, look=world.look, clock=lambda: world.now, look_seconds=0.01)
    killed.begin(run_at(tmp_path), {})
    world.now += 61
    folder = tmp_path / "runs/000001/account"
    while not folder.is_dir() or not (files := list(folder.glob("*.json"))):
        time.sleep(0.01)  # pytest's timeout ends the wait for a thread that never saves
    assert json.loads(files[0].read_text())["wall_seconds"] == 61
    killed._ended = True
    killed.close()
    second = world.account()
    second.begin(run_at(tmp_path, resumed=True), {})
    assert second.cost_so_far() == pytest.approx(61 / 3600 * 0.6)
    second.close()


def test_a_machine_without_a_price_has_hours_and_no_cost(tmp_path: Path) -> None:
    world = World()
    world.there = {"a": "cpu", "b": "z9.enormous"}
    account = world.account()
    account.begin(run_at(tmp_path), {})
    with pytest.raises(UserError, match="z9"):  # at once, before it has cost anything
        account.cost_so_far()
    world.wait(3600, account)
    with pytest.raises(UserError, match=r"what 'z9\.enormous' costs an hour; name it in a file of --prices"):
        account.cost_so_far()
    told = account.end({"read": 10, "seconds": {}})
    account.close()
    assert (told["usd"], told["usd_a_million"], told["unpriced"], told["slowest"]) == (None, None, ["z9.enormous"], None)
    assert told["machines"]["z9.enormous"] == {"hours": 1.0, "usd_an_hour": None, "usd": None}
    assert table({"read": 10, **told})[-1] == "cost: not known; name the price of z9.enormous in a file of --prices"


def test_a_cluster_that_does_not_answer_is_interpolated(tmp_path: Path) -> None:
    world = World()
    account = world.account()
    account.begin(run_at(tmp_path), {})
    world.now += 600

    def silent() -> list[Node]:
        raise RuntimeError("the head is busy")

    account.look = silent
    account.sample()
    account.look = world.look
    world.wait(600, account)
    assert account.spent().machines == {"cpu": 1200}
    account.close()


def test_a_cluster_that_never_answers_ends_a_run_with_a_budget(tmp_path: Path) -> None:
    world = World()
    world.there = {}
    account = world.account()
    account.begin(run_at(tmp_path), {})
    budget = Budget(account, 1.0, clock=lambda: world.now)
    budget.begin(run_at(tmp_path), {})
    with pytest.raises(MachineError, match="does not say what nodes it has"):
        account.cost_so_far()
    world.wait(SILENCE - 1, account)
    assert budget.enough() is None
    world.wait(1, account)
    assert str(budget.enough()).startswith("price: the cluster does not say what nodes it has")
    told = account.end({"read": 10, "seconds": {}})
    account.close()
    assert (told["usd"], told["usd_a_million"], told["machines"]) == (None, None, {})
    assert table({"read": 10, **told})[-1] == "cost: not known; the cluster did not say what nodes it had"


def test_what_the_night_before_spent_is_no_part_of_this_nights_budget(tmp_path: Path) -> None:
    """Drivers that began 30 h, 12.5 h and 2 h before, an hour each: half of the second counts, and all of the third."""
    run, now = run_at(tmp_path, resumed=True), time.time()
    for hours in (30.0, 12.5, 2.0):
        record = {"wall_seconds": 3600.0, "machine_seconds": {"gpu": 3600.0}, "workers": {}}
        began = int((now - hours * 3600) * 1e9)
        run.store.put(run.at("account", f"{began:020d}-x.json"), json.dumps(record).encode())
    assert spent(run).wall == 3 * 3600 and spent(run, now - RECENT).wall == pytest.approx(5400, abs=1)
    world = World()
    account = world.account()
    account.begin(run, {})
    budget = Budget(account, 5.99)
    budget.begin(run, {})
    assert account.cost_so_far() == pytest.approx(5.4, abs=0.1) and budget.enough() is None
    world.wait(3600, account)
    assert budget.enough() == "cost: 6.00 USD of 5.99 are spent, 5.40 of it by earlier drivers"
    assert account.end({"read": 1, "seconds": {}})["usd"] == pytest.approx(11.4, abs=0.01)  # the account forgets nothing
    account.close()


def test_a_store_that_refuses_is_told_of_at_the_end_and_hides_no_other_error(tmp_path: Path) -> None:
    class Full(Store):
        def put(self, uri: str, data: bytes) -> None:
            raise MachineError("the disk is full")

    world, run = World(), run_at(tmp_path)
    run.store = Full()
    account = world.account()
    account.begin(run, {})
    with pytest.raises(MachineError, match="full"):
        account.end({"read": 1, "seconds": {}})
    account.close()


def test_a_run_that_read_nothing_divides_by_nothing() -> None:
    nothing: dict[str, Any] = {"read": 0, "seconds": {"Read": 0.0}}
    told = reckoned(nothing, Spent(0.0, {}, {}), PRICES)
    assert (told["usd"], told["usd_a_million"], told["images_a_second"]) == (0, None, None)
    assert told["stages"]["Read"] == {"busy_seconds": 0.0, "workers": 1, "busy_share": None, "images_a_second": None}
    assert table({**nothing, **told}) == [
        "0 images in 0 s",
        "  Read    1 at once  <- the slowest",
        "cost: 0.00 USD (prices of 2026-11)",
    ]


def test_of_ones_own_machine_nobody_asks_what_it_costs() -> None:
    account: dict[str, Any] = {"read": 10, "seconds": {}}
    own = reckoned(account, Spent(100.0, {"this machine": 100.0}, {}), PRICES)
    assert (own["usd"], own["unpriced"]) == (None, ["this machine"])
    assert table({**account, **own}) == ["10 images in 100 s, 0.1 a second"]
    priced = reckoned(account, Spent(100.0, {"this machine": 100.0}, {}), Prices(own={"this machine": 3.6}, date="2026-11"))
    assert table({**account, **priced})[-1] == "cost: 0.10 USD, 10,000.00 USD a million images (prices of 2026-11)"


def test_costs() -> None:
    assert costs({"cpu": 1800, "gpu": 3600}, PRICES) == (pytest.approx(0.3 + 3.6), [])
    assert costs({"cpu": 1, "y": 1, "x": 1}, PRICES) == (None, ["x", "y"])


@pytest.mark.parametrize(("seconds", "said"), [(3, "3 s"), (119, "119 s"), (125, "2 min"), (7199, "120 min"), (9000, "2.5 h")])
def test_lasted(seconds: float, said: str) -> None:
    assert lasted(seconds) == said


def test_a_machine_on_its_way_counts_if_its_price_is_known_and_ends_no_run_if_not(tmp_path: Path) -> None:
    world = World()
    named = [Node("a", ("cpu",)), Node("i1", ("gpu",), coming=True), Node("i2", ("gpu_group", "no CPU"), coming=True)]
    account = Account(PRICES, look=lambda: named, clock=lambda: world.now, look_seconds=3600)
    account.begin(run_at(tmp_path), {})
    world.wait(3600, account)
    alone = world.account()
    alone.begin(run_at(tmp_path / "alone"), {})
    world.wait(3600, alone)
    assert account.cost_so_far() > alone.cost_so_far() > 0
