"""Hours of machines that come and go, against what they really were; what a node is called."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.pipeline.geolocate import GeolocateBucket, geolocate
from geobatch.pipeline.machines import Hours, named, nodes, payable
from geobatch.pipeline.prices import HERE, Prices

lives = st.lists(
    st.tuples(st.floats(0, 1000), st.floats(0, 500), st.sampled_from(["g6.2xlarge spot", "m6i.4xlarge", "head"])), max_size=12
)


@settings(deadline=None)
@given(lives, st.lists(st.floats(0.01, 60), min_size=1, max_size=60))
def test_hours_are_wrong_by_half_a_look_at_each_coming_and_going(
    lived: list[tuple[float, float, str]], gaps: list[float]
) -> None:
    """Looks at uneven times; the truth is each life's overlap with the time from the first look to the last."""
    hours, at = Hours(), 0.0
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    for at in times:
        hours.look(at, {f"n{node}": kind for node, (born, age, kind) in enumerate(lived) if born <= at < born + age})
    truth, slack = defaultdict(float), defaultdict(float)
    for born, age, kind in lived:
        begin, end = max(born, 0.0), min(born + age, times[-1])
        truth[kind] += max(0.0, end - begin)
        if end >= 0 and begin <= times[-1]:  # half a gap at its coming, half at its going; one, if no look ever saw it
            slack[kind] += max(gaps)
    for kind in {*truth, *hours.seconds}:
        assert abs(hours.seconds.get(kind, 0.0) - truth[kind]) <= slack[kind] + 1e-6


@settings(deadline=None)
@given(st.integers(0, 20), st.lists(st.floats(0.01, 60), min_size=1, max_size=60))
def test_who_stays_is_counted_to_the_second(count: int, gaps: list[float]) -> None:
    hours, at = Hours(), 50.0
    there = {str(node): "m6i.4xlarge" for node in range(count)}
    hours.look(at, there)
    for gap in gaps:
        at += gap
        hours.look(at, there)
    assert hours.seconds.get("m6i.4xlarge", 0.0) == pytest.approx(count * sum(gaps))


def test_by_hand() -> None:
    hours = Hours()
    hours.look(0, {"a": "gpu"})
    hours.look(10, {"a": "gpu", "b": "gpu", "c": "cpu"})  # b and c came some time in these ten seconds
    assert hours.until(14) == {"gpu": 10 + 5 + 4 + 4, "cpu": 5 + 4}  # between looks: as if all were still there
    hours.look(40, {"b": "gpu", "c": "cpu"})  # a went in these thirty
    assert dict(hours.seconds) == {"gpu": 10 + 5 + 15 + 30, "cpu": 5 + 30}


@pytest.mark.parametrize(
    ("labels", "instance", "group", "resources", "names"),
    [
        ({"market": "spot", "instance": "g6.2xlarge"}, "", "gpu_l4", {"CPU": 8.0, "GPU": 1.0, "memory": 1e9},
         ("g6.2xlarge spot", "gpu_l4", "8 CPU + 1 GPU")),
        ({}, "m6i.4xlarge", "cpu", {"CPU": 16.0}, ("m6i.4xlarge", "cpu", "16 CPU")),
        ({"market": "on-demand"}, "g6.2xlarge", "gpu", {"GPU": 1.0}, ("g6.2xlarge", "gpu", "1 GPU")),
        ({"instance": "g6.2xlarge"}, "g6.2xlarge", "gpu", {"GPU": 1.0}, ("g6.2xlarge", "gpu", "1 GPU")),
        ({"node.kubernetes.io/instance-type": "n2", "ray.io/node-group": "workers"}, "", "workers", {"CPU": 4.0},
         ("n2", "workers", "4 CPU")),
        ({}, "", "node_0123abc", {"CPU": 0.0}, ("no CPU",)),
    ],
)  # fmt: skip
def test_what_a_node_is_called(
    labels: dict[str, str], instance: str, group: str, resources: dict[str, float], names: tuple[str, ...]
) -> None:
    assert named(labels, instance, group, resources) == names


def test_a_budget_for_a_machine_without_a_price_is_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r'"this machine": 0\.40') as raised:
        geolocate(GeolocateBucket(archive="none", output="none", model="none", max_cost=200.0))
    assert "\n" not in str(raised.value)
    payable(Prices(own={HERE: 0.5}), None)
    payable(Prices(), "auto")  # a cluster's nodes are not known yet
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    payable(Prices(), None)


def test_without_a_cluster_it_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in (None, "local"):
        (here,) = nodes(address)
        assert here.names == ("this machine",)
