"""The order in which a river's actors start: what few nodes can hold first, and of the rest the largest.

Ray gives each actor room when it is asked for one, and never moves it. Pools start in the order of the river, so on two nodes
of four CPUs readers and writers of 0.5 and a stage of 1 took what the second of two stages of 3 CPUs needed, and it waited for
ever, five times of five; started largest first all found room, three times of three. `layout.settle` lays actors out in the
same order, so that what it finds room for finds it in life too.

Not covered: actors that start again after a node is lost, and nodes that an autoscaler brings one by one; there room is taken
in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from geobatch.layout import Pool, turns


def in_turn(executor: Any, pools: Sequence[Pool]) -> Any:
    """A Ray dataset's executor that starts its actor pools in this order; the executor itself.

    Args:
        executor: one that has not begun.
        pools: of the dataset's actor stages, in the order of the river.
    """
    execute = executor.execute

    def executed(dag: Any, *rest: Any, **named: Any) -> Any:
        _queue(dag, pools)
        return execute(dag, *rest, **named)

    executor.execute = executed
    return executor


def _queue(dag: Any, pools: Sequence[Pool]) -> None:
    """Has the operators wait until Ray has started all of them, and then start in turn."""
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    operators = _upstream_first(dag)
    staffed = [each for each in operators if isinstance(each, ActorPoolMapOperator)]
    if len(staffed) != len(pools):  # Ray made one of two: then it knows best
        return
    order = [each for each in operators if each not in staffed] + [staffed[one] for one in turns(pools)]
    waiting: dict[Any, Callable[[], None]] = {}

    def asked(operator: Any, start: Callable[..., None], *given: Any, **named: Any) -> None:
        waiting[operator] = partial(start, *given, **named)
        if len(waiting) == len(operators):
            for each in order:
                waiting[each]()

    for each in operators:
        each.start = partial(asked, each, each.start)


def _upstream_first(dag: Any) -> list[Any]:
    return [each for above in dag.input_dependencies for each in _upstream_first(above)] + [dag]
