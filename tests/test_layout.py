"""How many actors nodes can hold: against the laying out of each actor by exhaustive search, and in the words of a refusal."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.layout import UNBOUNDED, Nodes, NodeType, Pool, settle, turns

HEAD = NodeType(name="head", resources={})
CPU = NodeType(name="cpu", resources={"CPU": 16}, most=8, brought=True)
GPU = NodeType(
    name="gpu", resources={"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}, labels={"market": "spot"}, most=16, brought=True
)
CLOUD = Nodes(types=(HEAD, CPU, GPU), workers=20)


def pool(name: str, cpus: float = 1.0, gpus: float = 0.0, most: int = 1, least: int = 1, **labels: str) -> Pool:
    return Pool(name=name, each={"CPU": cpus, "GPU": gpus}, labels=labels, least=least, most=most)


def test_all_that_is_asked_for_is_given_where_it_fits() -> None:
    assert settle([pool("Decode", most=32), pool("Embed", gpus=1, most=4), pool("Write", 0.5)], CLOUD) == [32, 4, 1]


def test_what_is_too_much_is_taken_from_each_in_proportion() -> None:
    decode, embed, write = settle([pool("Decode", most=1000), pool("Embed", gpus=0.5, most=1000), pool("Write", 0.5)], CLOUD)
    assert embed == 32  # two on each of sixteen GPUs
    assert write == 1
    assert decode == 16 * 4 + 16 * 6 - 1  # four nodes beside the sixteen with GPUs, what Embed leaves of those, and Write
    few = settle([pool("A", most=30), pool("B", most=10)], Nodes(types=(NodeType(name="node", resources={"CPU": 20}),)))
    assert few == [15, 5]


def test_gpus_are_kept_for_who_asks_for_them() -> None:
    nodes = Nodes(types=(NodeType(name="gpu", resources={"CPU": 2, "GPU": 1}), NodeType(name="cpu", resources={"CPU": 2})))
    assert settle([pool("Decode", most=2), pool("Embed", cpus=2, gpus=1)], nodes) == [2, 1]


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        (pool("Embed", gpus=2), "Embed asks for 2 GPU for each actor, and no node has or could have more than 1;"),
        (pool("Decode", cpus=17), "Decode asks for 17 CPU for each actor, and no node has or could have more than 16;"),
        (
            pool("Embed", gpus=1, market="reserved"),
            "1 CPU, 1 GPU on nodes with market=reserved for each actor, and no one node",
        ),
        (
            pool("Ask", cpus=16, gpus=1),
            "Ask asks for 16 CPU, 1 GPU for each actor, and no one node has or could have all of it;",
        ),
        (
            Pool(name="Ask", each={"GPU": 1, "accelerator_type:A100": 0.001}),
            "asks for 0.001 accelerator_type:A100 for each actor",
        ),
        (Pool(name="Ask", each={"memory": 2.0**34}), "memory for each actor, and no node has or could have more than 0;"),
    ],
)
def test_what_no_node_could_ever_hold_is_refused_in_one_line(asks: Pool, says: str) -> None:
    with pytest.raises(UserError) as raised:
        settle([pool("Decode"), asks], CLOUD)
    text = str(raised.value)
    assert says in text and "\n" not in text
    assert (
        "there are: 1 head (no CPU); up to 8 cpu (CPU 16); up to 16 gpu (CPU 8, GPU 1, accelerator_type:L4 1, market=spot)"
        in text
    )
    assert f"--stages {asks.name}:" in text


def test_stages_that_cannot_all_work_at_once_are_refused_for_one_would_wait_for_ever() -> None:
    two = Nodes(types=(NodeType(name="node", resources={"CPU": 2}),))
    with pytest.raises(UserError, match=r"Write finds no room beside 2 other stages, .* together need 3 CPU \(of 2\)"):
        settle([pool("Read"), pool("Decode"), pool("Write")], two)
    with pytest.raises(UserError, match="no room"):
        settle([pool("Decode", least=3, most=4)], two)


def test_what_one_node_alone_can_hold_has_its_room_before_the_small_and_the_large_before_both() -> None:
    zoned = NodeType(name="a", resources={"CPU": 2}, labels={"zone": "a"})
    stages = [pool("Read", 0.5), pool("Decode", 2, zone="a"), pool("Write", 0.5)]
    assert settle(stages, Nodes(types=(zoned, NodeType(name="b", resources={"CPU": 2})))) == [1, 1, 1]
    sizes = [pool("Read", 0.5), pool("Decode", 1), pool("Embed", 3), pool("Ask", 3), pool("Write", 0.5)]
    assert settle(sizes, Nodes(types=(NodeType(name="node", resources={"CPU": 4}, most=2),))) == [1] * 5
    assert turns(sizes) == [2, 3, 1, 0, 4]
    disk = Pool(name="Spill", each={"CPU": 0.1, "disk": 1})
    assert turns([*stages, disk, pool("Sample", 0, gpus=0.5)]) == [4, 1, 3, 0, 2]


def test_members_stand_on_a_node_each_before_any_stage_has_room() -> None:
    """As Ray's SPREAD places them, however they would be packed."""
    nodes = Nodes(types=(HEAD, NodeType(name="node", resources={"CPU": 2}, most=4)))
    members = Pool(name="Part", each={"CPU": 0.5}, least=4, most=4, spread=True)
    stages = [pool(f"S{number}") for number in range(4)]
    assert settle([pool("Read", 0.5, most=9), *stages, members], nodes) == [4, 1, 1, 1, 1, 4]
    assert turns([*stages, members])[0] == 4
    with pytest.raises(UserError, match="S4 finds no room"):
        settle([*stages, pool("S4"), members], nodes)
    assert settle([*stages, pool("S4"), replace(members, spread=False)], nodes) == [1, 1, 1, 1, 1, 4]
    # More of them than nodes, of two kinds: on those that hold the fewest.
    two = Nodes(types=(NodeType(name="small", resources={"CPU": 2}), NodeType(name="large", resources={"CPU": 4, "GPU": 1})))
    assert settle([pool("Embed", 3, 1), replace(members, least=3, most=3)], two) == [1, 3]
    # Nodes that are still to come are brought for all that is asked.
    assert settle([*stages, members], Nodes(types=(HEAD, NodeType(name="new", resources={"CPU": 2}, most=3, brought=True)))) \
        == [1, 1, 1, 1, 4]  # fmt: skip


def test_an_autoscaler_that_tells_nothing_refuses_nothing() -> None:
    assert settle([pool("Ask", gpus=64, most=7)], Nodes(types=(HEAD,), known=False)) == [7]


def test_the_most_there_could_be_counts_the_best_nodes_within_the_bound_of_all() -> None:
    assert CLOUD.total("GPU") == 16
    assert CLOUD.total("CPU") == 8 * 16 + 12 * 8  # twenty nodes: all of sixteen CPUs first
    assert (
        Nodes(types=(HEAD, NodeType(name="any", resources={"GPU": 1}, most=UNBOUNDED, brought=True))).total("GPU") == UNBOUNDED
    )


some_type = st.builds(
    lambda cpus, gpus, most, brought: NodeType(name="n", resources={"CPU": cpus, "GPU": gpus}, most=most, brought=brought),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.integers(1, 3),
    st.booleans(),
)
some_asks = st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(1, 4))


def possible(pools: list[Pool], counts: list[int], nodes: Nodes) -> bool:
    """The slow reference: whether some way of placing so many actors exists, by trying all."""
    actors = tuple(
        (asks.each["CPU"], asks.each["GPU"]) for asks, count in zip(pools, counts, strict=True) for _ in range(count)
    )

    @cache
    def rest(at: int, open_nodes: tuple[tuple[float, float], ...], left: tuple[int, ...], workers: int) -> bool:
        if at == len(actors):
            return True
        cpus, gpus = actors[at]
        for one, (free_cpus, free_gpus) in enumerate(open_nodes):
            if free_cpus >= cpus and free_gpus >= gpus:
                after = tuple(sorted((*open_nodes[:one], (free_cpus - cpus, free_gpus - gpus), *open_nodes[one + 1 :])))
                if rest(at + 1, after, left, workers):
                    return True
        for one, kind in enumerate(nodes.types):
            fresh = (kind.resources["CPU"], kind.resources["GPU"])
            if left[one] and (workers or not kind.brought) and fresh[0] >= cpus and fresh[1] >= gpus:
                now = (*left[:one], left[one] - 1, *left[one + 1 :])
                after = tuple(sorted((*open_nodes, (fresh[0] - cpus, fresh[1] - gpus))))
                if rest(at + 1, after, now, workers - kind.brought):
                    return True
        return False

    return rest(0, (), tuple(kind.most for kind in nodes.types), nodes.workers)


@settings(max_examples=150, deadline=None)
@given(st.lists(some_type, min_size=1, max_size=3), st.lists(some_asks, min_size=1, max_size=3), st.integers(0, 4))
def test_what_is_given_can_be_placed_and_what_is_refused_for_good_cannot(
    types: list[NodeType], asks: list[tuple[float, float, int]], workers: int
) -> None:
    nodes = Nodes(types=tuple(types), workers=workers)
    pools = {f"P{at}": pool(f"P{at}", *each) for at, each in enumerate(asks)}
    try:
        counts = settle(list(pools.values()), nodes)
    except UserError as error:
        if "for each actor" in str(error):  # no node of any type would do: the refusal that must never be wrong
            assert not possible([pools[str(error).split()[0]]], [1], Nodes(types=tuple(types)))
        return
    assert all(asks.least <= count <= asks.most for asks, count in zip(pools.values(), counts, strict=True))
    assert possible(list(pools.values()), counts, nodes)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 4.0]), st.integers(1, 2)), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=6),
)
def test_cpus_in_halves_and_doubles_are_refused_only_where_no_way_of_placing_them_exists(
    types: list[tuple[float, int]], asks: list[float]
) -> None:
    nodes = Nodes(types=tuple(NodeType(name="n", resources={"CPU": cpus, "GPU": 0.0}, most=most) for cpus, most in types))
    pools = [pool(f"P{at}", cpus) for at, cpus in enumerate(asks)]
    try:
        settle(pools, nodes)
    except UserError:
        assert not possible(pools, [1] * len(pools), nodes)


def test_who_asks_for_no_gpu_brings_no_node_that_has_one() -> None:
    cpus = NodeType(name="cpu", resources={"CPU": 16}, most=2, brought=True)
    cloud = Nodes(types=(HEAD, cpus, GPU), workers=20)
    assert settle([pool("Decode", most=1000), pool("Write", 0.5)], cloud) == [31, 1]
    assert settle([pool("Decode", most=1000), pool("Embed", gpus=1)], cloud)[0] > 31
    assert settle([pool("Decode", most=1000)], Nodes(types=(HEAD, GPU), workers=2)) == [16]  # where there is nothing else
    assert settle([pool("Decode", most=40), pool("Match", 8, most=4, least=4)], cloud)[1] == 4
    there = NodeType(name="node", resources={"CPU": 8, "GPU": 1})  # paid already
    assert settle([pool("Decode", most=1000)], Nodes(types=(HEAD, cpus, there), workers=2)) == [40]
    alive = replace(GPU, alive=2)  # of those that could be brought two are there
    assert settle([pool("Decode", most=1000)], Nodes(types=(HEAD, cpus, alive), workers=20)) == [32 + 16]
