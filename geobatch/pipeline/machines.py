"""Which machines a run has, and for how many hours: looked at again and again while it works.

The head knows its nodes: their types, groups and labels, and which of them are gone; asking takes 1 ms. A node that is there at
two looks counts for all the time between them, one that came or went between them for half; so a node's time is wrong by half
of `LOOK_SECONDS` at its coming and at its going, at most, and right if it stays. One that came and went between two looks was
never there.

What counts is the cluster while the run lasts, whoever else works on it: that is what is paid. So machines of a cloud count
from their launch, while they are not Ray's nodes yet (`coming`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

import geobatch.nodes
from geobatch.errors import UserError
from geobatch.joining import joins
from geobatch.layout import NodeType
from geobatch.pipeline.prices import HERE, SPOT, Prices

#: Seconds between two looks.
LOOK_SECONDS = 15.0

#: Labels that name a node's type and its market, as clusters set them: cluster.yaml's own, Ray's, Kubernetes'.
TYPE_LABELS = ("instance", "ray.io/instance-type", "node.kubernetes.io/instance-type")
MARKET_LABELS = ("market", "ray.io/market-type", "karpenter.sh/capacity-type")


@dataclass(frozen=True)
class Node:
    """One machine.

    Fields:
        id: of its Ray node; one that comes back has another.
        names: what a table of prices may call it, the most telling first.
        coming: whether it is launched and no node yet; what is said of it then may be less than it says itself.
    """

    id: str
    names: tuple[str, ...]
    coming: bool = False


class Hours:
    """Seconds of machines by kind, out of looks at who is there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._at: float | None = None
        self._there: dict[str, str] = {}

    def look(self, at: float, there: Mapping[str, str]) -> None:
        """At this time these nodes (id -> kind) were there."""
        if self._at is not None:
            for node, kind in {**self._there, **there}.items():
                self.seconds[kind] += (at - self._at) * ((node in self._there) + (node in there)) / 2
        for kind in there.values():
            self.seconds[kind] += 0.0  # known from the first look on, if only for its price
        self._at, self._there = at, dict(there)

    def until(self, at: float) -> dict[str, float]:
        """Seconds by kind up to now, were those of the last look still there."""
        seconds = dict(self.seconds)
        for kind in self._there.values():
            seconds[kind] += max(0.0, at - (self._at or 0.0))
        return seconds


def payable(prices: Prices, address: str | None) -> None:
    """Refuses a budget for a machine that no table can know, before anything is opened or listed.

    Raises:
        UserError: the run joins no cluster, and nobody named what this machine costs.
    """
    if not joins(address) and prices.of(HERE) is None:
        raise UserError(
            f'--max-cost needs what an hour of {HERE} costs, which no table knows; give --prices FILE with {{"hours": '
            f'{{"{HERE}": 0.40}}}}, or leave --max-cost out'
        )


def nodes(address: str | None) -> list[Node]:
    """Who is there now: the nodes of the cluster that was joined; this machine where there is no cluster.

    Args:
        address: as the job was told; None: what RAY_ADDRESS says.
    """
    if not joins(address):
        return [Node(HERE, (HERE,))]
    if not ray.is_initialized():
        return []
    status = geobatch.nodes.status()
    there = [
        Node(node.node_id, named(node.labels or {}, node.instance_type_name, node.ray_node_type_name, node.total_resources()))
        for node in (*status.active_nodes, *status.idle_nodes)
    ]
    # Of Kubernetes' pods on their way nobody knows which have a machine yet.
    paid = status.pending_nodes and not os.environ.get("KUBERNETES_SERVICE_HOST")
    return [*there, *(coming(status, geobatch.nodes.seen().types) if paid else [])]


def coming(status: Any, types: Iterable[NodeType]) -> list[Node]:
    """Machines that were launched, and are paid, and are no nodes of Ray's yet: they pull images, or try to, all night.

    Args:
        status: see `geobatch.nodes.status`.
        types: what the autoscaler was told of them; their labels name instance and market, which none says of itself yet.
    """
    told = {each.name: each for each in types if each.brought}
    found = []
    for each in status.pending_nodes:
        kind = told.get(each.ray_node_type_name)
        labels, resources = (kind.labels, kind.resources) if kind else ({}, {})
        names = named(labels, each.instance_type_name, each.ray_node_type_name, resources)
        found.append(Node(each.instance_id, names, coming=True))
    return found


def named(labels: Mapping[str, str], instance: str, group: str, resources: Mapping[str, float]) -> tuple[str, ...]:
    """What a node may be called: its instance type (" spot" behind it where it is one), its group, what it has."""
    types = [labels[label] for label in TYPE_LABELS if labels.get(label)] + [instance] * bool(instance)
    spot = any(labels.get(label) == "spot" for label in MARKET_LABELS)
    groups = [labels.get("ray.io/node-group", ""), "" if group.startswith("node_") else group]  # Ray makes up node_ID
    has = " + ".join(f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if resources.get(kind)) or "no CPU"
    return tuple(dict.fromkeys([*(f"{each}{SPOT}" if spot else each for each in types), *filter(None, groups), has]))
