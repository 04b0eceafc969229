"""A pass is broken off where its nodes are gone for good and nothing comes, and nowhere else."""

from __future__ import annotations

import threading
import time

import pytest

from geobatch.layout import Nodes, NodeType, Pool
from geobatch.starving import Starving

POOLS = [Pool(name="Read", each={"CPU": 0.5}), Pool(name="Doze", each={"CPU": 1}, most=3)]
ENOUGH = Nodes(types=(NodeType(name="node", resources={"CPU": 2}, most=2),))
ONE = Nodes(types=(NodeType(name="node", resources={"CPU": 2}),))
COMING = Nodes(types=(*ONE.types, NodeType(name="spot", resources={"CPU": 2}, most=4, brought=True)), workers=4)
GONE = Nodes(types=())


def watched(there: Nodes, fed: bool = False, fails: bool = False, seconds: float = 0.5) -> bool:
    """Whether a pass on these nodes is broken off within so many seconds, at a patience of 0.1 s."""
    ended = threading.Event()

    def see() -> Nodes:
        if fails:
            raise TimeoutError("the head does not answer")
        return there

    with Starving(POOLS, ended.set, see, poll=0.01, patience=0.1) as starving:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not ended.is_set():
            if fed:
                starving.fed()
            time.sleep(0.002)
    assert ended.is_set() == starving.starved
    return starving.starved


@pytest.mark.parametrize("there", [ONE, GONE])
def test_a_pass_on_too_few_nodes_through_which_nothing_comes_is_broken_off(there: Nodes) -> None:
    assert watched(there, seconds=20)


def test_a_pass_that_goes_on_is_left_alone() -> None:
    assert not watched(ENOUGH)  # it only waits
    assert not watched(ONE, fed=True)  # too few nodes, and yet it goes on
    assert not watched(COMING)  # for nodes that an autoscaler could bring
    assert not watched(ONE, fails=True)


def test_a_node_that_comes_back_in_time_is_enough() -> None:
    lost, ended = time.monotonic(), threading.Event()
    with Starving(POOLS, ended.set, lambda: ONE if time.monotonic() - lost < 0.2 else ENOUGH, poll=0.01, patience=1.0):
        time.sleep(1.5)
    assert not ended.is_set()


def test_what_it_says_is_one_line_that_ends_with_what_to_do() -> None:
    text = str(Starving(POOLS, lambda: None).fault())
    assert "\n" not in text and text.endswith("run the same command again")


def test_what_is_waited_for_is_said_once_an_hour_while_nothing_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with Starving(POOLS, lambda: None, lambda: COMING, poll=0.01, patience=0.1, told=lambda: "asked for: 2 gpu") as starving:
        time.sleep(0.5)
        assert capsys.readouterr().out.count("nothing has come through for 0 min; asked for: 2 gpu") == 1
        for _ in range(20):
            starving.fed()
            time.sleep(0.01)
        assert capsys.readouterr().out == ""
        time.sleep(0.4)
        assert capsys.readouterr().out.count("asked for: 2 gpu") == 1  # it came, and stopped again


def test_where_no_node_is_waited_for_or_the_head_is_silent_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def silent() -> str:
        raise TimeoutError("the head does not answer")

    for told in (lambda: "", silent):
        with Starving(POOLS, lambda: None, lambda: COMING, poll=0.01, patience=0.05, told=told):
            time.sleep(0.3)
    assert capsys.readouterr().out == ""
