"""How many actors the nodes of a cluster can hold: the demand of all stages laid out on all nodes there could ever be.

Ray never says no: an actor that asks for what no node has waits for ever without a word, and so does one whose CPUs other
stages hold. Here the first is an error that names stage and resource, and of the second each pool gives up its part.

Laying out is greedy, as Ray's own placing is: actors with GPUs first, then those of certain nodes alone, then the largest, each
where no GPU lies idle for it if it can. They start in the same order (`geobatch.turns`). Before all of them come the members
that stages ask (`Pool.spread`), one a node: four of half a CPU on four nodes of two CPUs leave room for four actors of one, and
not for six. A thousand actors on a hundred nodes take 0.02 s where the nodes are of two kinds, 0.12 s where each is of its own.

Not covered: what other jobs on the same cluster hold. It is theirs until they end, and waiting for it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from geobatch.errors import UserError

#: Nodes of a type whose number nobody bounds.
UNBOUNDED = 1 << 20

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """Nodes that are alike.

    Fields:
        name: as the autoscaler's file calls it; else "head" or "node".
        resources: of one node, as Ray names them.
        labels: of one node.
        most: how many there are, or could be.
        brought: whether an autoscaler brings them.
        alive: how many of those that an autoscaler brings are there.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    most: int = 1
    brought: bool = False
    alive: int = 0

    def holds(self, pool: Pool) -> bool:
        """Whether an empty node of this type has room for one actor of the pool."""
        return self.most > 0 and self.suits(pool) and _fits(pool.each, self.resources)

    def suits(self, pool: Pool) -> bool:
        """Whether its labels are those that the pool asks for."""
        return all(self.labels.get(name) == value for name, value in pool.labels.items())

    def __str__(self) -> str:
        kinds = [f"{name} {amount:g}" for name, amount in sorted(self.resources.items()) if name != "memory"]
        kinds += [f"memory {self.resources['memory'] / (1 << 30):.1f} GiB"] if "memory" in self.resources else []
        kinds += [f"{name}={value}" for name, value in sorted(self.labels.items())]
        number = "any number" if self.most >= UNBOUNDED else f"{self.most}"
        return (
            f"{'up to ' if self.brought and self.most < UNBOUNDED else ''}{number} {self.name} ({', '.join(kinds) or 'no CPU'})"
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Actors that are alike.

    Fields:
        name: of the stage.
        each: resources of one actor, as Ray names them; zeros count as nothing.
        labels: what its node's labels must be.
        least: actors without which there is no work.
        most: actors it can use.
        spread: they are there before all others, and Ray puts each on another node (its strategy SPREAD).
    """

    name: str
    each: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    least: int = 1
    most: int = 1
    spread: bool = False


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """All nodes there could ever be.

    Fields:
        types: those alive and those that an autoscaler may bring.
        workers: nodes that the autoscaler brings at most, of all types together.
        known: False where an autoscaler runs whose types nobody could read.
    """

    types: tuple[NodeType, ...]
    workers: int = UNBOUNDED
    known: bool = True

    def total(self, resource: str) -> float:
        """The most of a resource that all nodes together could ever have."""
        fixed = sum(each.most * each.resources.get(resource, 0.0) for each in self.types if not each.brought)
        left = self.workers
        for each in sorted((each for each in self.types if each.brought), key=lambda each: -each.resources.get(resource, 0.0)):
            fixed += min(left, each.most) * each.resources.get(resource, 0.0)
            left -= min(left, each.most)
        return fixed

    def __str__(self) -> str:
        return "; ".join(str(each) for each in self.types if each.most > 0) or "no nodes"


def settle(pools: Sequence[Pool], nodes: Nodes) -> list[int]:
    """Actors that each pool can have, between its `least` and its `most`.

    What is too much for all is taken from each in proportion to what it asks for, so that none starves. Where no pool asks for
    a GPU, and the least of all finds room elsewhere, nobody is laid out on the CPUs of nodes with GPUs that are still to come:
    an autoscaler would bring them once all others are full, at more than twice the price of a CPU.

    Raises:
        UserError: no node type could ever hold an actor, or not the least of all pools at once.
    """
    if not nodes.known:
        return [pool.most for pool in pools]
    dear = [each.brought and each.resources.get("GPU", 0.0) > 0 for each in nodes.types]
    if any(dear) and not any(pool.each.get("GPU") for pool in pools):
        cheap = tuple(replace(each, most=each.alive) if late else each for each, late in zip(nodes.types, dear, strict=True))
        with suppress(UserError):
            return _settle(pools, replace(nodes, types=cheap))
    return _settle(pools, nodes)


def _settle(pools: Sequence[Pool], nodes: Nodes) -> list[int]:
    for pool in pools:
        if not any(each.holds(pool) for each in nodes.types):
            raise UserError(_nowhere(pool, nodes))
    layout, counts, order = _Layout(nodes), [0] * len(pools), turns(pools)
    for one in order:
        for _ in range(max(1, pools[one].least)):
            if not layout.place(pools[one]):
                raise UserError(_crowded(pools, pools[one], nodes))
            counts[one] += 1
    growing = {one for one in order if counts[one] < pools[one].most}
    while growing:
        one = min(growing, key=lambda each: (counts[each] / pools[each].most, each))
        if layout.place(pools[one]):
            counts[one] += 1
            growing -= {one} if counts[one] >= pools[one].most else set()
        else:
            growing.discard(one)
    return counts


def turns(pools: Sequence[Pool]) -> list[int]:
    """Positions of the pools in the order in which their actors find room: spread ones, those of few nodes, the largest."""

    def first(one: int) -> tuple[float, ...]:
        pool = pools[one]
        rare = len(pool.labels) + sum(name not in ("CPU", "memory") for name in _asked(pool))
        return not pool.spread, -pool.each.get("GPU", 0.0), -rare, -pool.each.get("CPU", 0.0), -pool.each.get("memory", 0.0)

    return sorted(range(len(pools)), key=first)


class _Layout:
    """Actors laid out on nodes so far."""

    def __init__(self, nodes: Nodes) -> None:
        self.left, self.workers = [each.most for each in nodes.types], nodes.workers
        self.types, self.open = nodes.types, [list[dict[str, float]]() for _ in nodes.types]

    def place(self, pool: Pool) -> bool:
        """Finds room for one actor more; False if there is none."""
        if pool.spread and self._spread(pool):
            return True
        # Nodes with GPUs come last for who needs none; small ones before large ones.
        able = [one for one, each in enumerate(self.types) if each.holds(pool)]
        for one in sorted(able, key=lambda one: (self.types[one].resources.get("GPU", 0.0), one)):
            if self._on(one, pool.each):
                return True
        return False

    def _spread(self, pool: Pool) -> bool:
        """On the node that is there with the fewest CPUs taken; one that is still to come is asked for as by any other."""
        there = [one for one, each in enumerate(self.types) if each.holds(pool) and not each.brought]
        for one in there:
            if self.left[one]:
                return self._take(self._opened(one), pool.each)
        found = [
            (self.types[one].resources.get("CPU", 0.0) - free.get("CPU", 0.0), free)
            for one in there
            for free in self.open[one]
            if _fits(pool.each, free)
        ]
        return bool(found) and self._take(min(found, key=lambda each: each[0])[1], pool.each)

    def _on(self, one: int, each: Mapping[str, float]) -> bool:
        free = next((free for free in self.open[one] if _fits(each, free)), None)
        if free is None:
            if not self.left[one] or (self.types[one].brought and not self.workers):
                return False
            free = self._opened(one)
        return self._take(free, each)

    def _opened(self, one: int) -> dict[str, float]:
        """One more node of a type, empty."""
        self.left[one] -= 1
        self.workers -= self.types[one].brought
        self.open[one].append(dict(self.types[one].resources))
        return self.open[one][-1]

    @staticmethod
    def _take(free: dict[str, float], each: Mapping[str, float]) -> bool:
        for name, amount in each.items():
            if amount > 0:
                free[name] -= amount
        return True


def _fits(each: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(amount <= free.get(name, 0.0) + _EPSILON for name, amount in each.items() if amount > 0)


def _asked(pool: Pool) -> dict[str, float]:
    return {name: amount for name, amount in pool.each.items() if amount > 0}


def _nowhere(pool: Pool, nodes: Nodes) -> str:
    """Which resource of the pool no node has."""
    for name, amount in _asked(pool).items():
        largest = max((each.resources.get(name, 0.0) for each in nodes.types if each.most), default=0.0)
        if amount > largest + _EPSILON:
            lacks = f"{amount:g} {name} for each actor, and no node has or could have more than {largest:g}"
            break
    else:
        asks = ", ".join(f"{amount:g} {name}" for name, amount in _asked(pool).items())
        wants = ", ".join(f"{name}={value}" for name, value in pool.labels.items())
        lacks = (
            f"{asks}{f' on nodes with {wants}' if wants else ''} for each actor, and no one node has or could have all of it"
        )
    return f"{pool.name} asks for {lacks}; there are: {nodes}; ask for less with --stages {pool.name}:…, or add such nodes"


def _crowded(pools: Sequence[Pool], last: Pool, nodes: Nodes) -> str:
    sums = {
        name: sum(max(1, pool.least) * pool.each.get(name, 0.0) for pool in pools)
        for name in sorted({name for pool in pools for name in _asked(pool)} & set(_asked(last)))
    }
    needs = ", ".join(f"{amount:g} {name} (of {nodes.total(name):g})" for name, amount in sums.items())
    return (
        f"{last.name} finds no room beside {len(pools) - 1} other stages, which all work at once and together need {needs}; "
        f"there are: {nodes}; ask for less with --stages, or add nodes"
    )
