"""How many hands a stage has: the one place that speaks of CPUs, GPUs, pools and Ray's retries.

What travels between actors is a `Slice` (`geobatch.slices`).

Retries: Ray restarts a dead actor and gives its slice to it again, three times; the default is for ever, which a picture
that kills its worker turns into an endless loop. Actors of a node that is lost are restarted on others; what they had made and
nobody had read yet is made again, for as long as the node's inputs can be.

What a stage asks for stands in its `Hands`, and is laid out on the nodes there could be before any work (`settled`).

What this does not cover: actors over several nodes. Tensor parallelism asks for its GPUs as one actor's, which are one node's.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from geobatch import joining, metrics, nodes
from geobatch.errors import UserError
from geobatch.joining import SILENCE as SILENCE  # noqa: PLC0414
from geobatch.layout import Nodes, Pool, settle
from geobatch.nodes import brought
from geobatch.progress import say
from geobatch.slices import Slice as Slice  # noqa: PLC0414  known to all by this name
from geobatch.starving import Starving, breaking_off

#: Attempts for a slice whose actor died, after the first.
TASK_RETRIES = 3

#: Slices at one actor of a stage that alone serves the whole river and is soon through. Ray's driver gives an actor two at a
#: look, ten looks a second: such a stage let 18 slices a second pass. 64 slots, 2 s a slice, were busy 78 % by 8, 97 by 16.
AHEAD = 16

#: Actors of one stage, at most, where nobody says how many: more wait for what one driver and one listing give them.
MOST = 256


@dataclass(frozen=True, kw_only=True)
class Hands:
    """A stage and the hands it gets.

    Fields:
        stage: the class; its name is what progress and plans show.
        make: keyword arguments of its constructor, picklable and small.
        workers: actors at most; at least one.
        least: actors at least, all of which must find room before the run starts.
        cpus: CPUs of one actor; None: 1, and none beside a GPU, or decoders that came first could take the last CPU of its node
            and the GPU wait for ever.
        gpus: GPUs of one actor, fractions allowed.
        accelerator: type of its GPU, as Ray names it ("L4"); empty: any.
        resources: amounts of custom resources of one actor.
        labels: labels that its node must have ({"market": "spot"}).
        memory: bytes of heap one actor asks for; 0 says nothing.
        at_once: slices that one actor works on at a time, in threads, for a stage that waits for an engine or a store.
        ahead: slices at one actor, worked on or waiting, at least twice `at_once`; what waits at one is nobody else's.
        deadline: seconds that a slice may take before its process is ended; 0: the stage has deadlines of its own.
        spread: see `geobatch.layout.Pool`; of members, which are no stages of a dataset.
        guard: stands around the stage in its actor: called with the stage and a slice, gives its rows, or None for a slice
            that goes no further.
    """

    stage: type[Any]
    make: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    least: int = 1
    cpus: float | None = None
    gpus: float = 0.0
    accelerator: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    memory: int = 0
    at_once: int = 1
    ahead: int = 2
    deadline: float = 3600.0
    spread: bool = False
    guard: Callable[[Any, Slice], pa.Table | None] | None = None

    def __call__(self) -> Any:
        """The stage itself, made here: the river without Ray."""
        return self.stage(**brought(self.make))

    @property
    def cores(self) -> float:
        """CPUs that Ray keeps for one actor."""
        return float(not self.gpus) if self.cpus is None else self.cpus

    def pool(self) -> Pool:
        """What it asks of the nodes."""
        own = {"CPU": self.cores, "GPU": self.gpus, "memory": float(self.memory)}
        typed = {f"accelerator_type:{self.accelerator}": 0.001} if self.accelerator else {}  # Ray asks for that much of it
        return Pool(
            name=self.stage.__name__,
            each={**own, **typed, **self.resources},
            labels=self.labels,
            least=max(1, self.least),
            most=max(1, self.workers, self.least),
            spread=self.spread,
        )


def cores() -> int:
    """CPUs this process may use (a container's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def workers_of(asked: int, address: str | None, there: Nodes | None = None) -> int:
    """Actors at most of a stage that computes on CPUs: as many as are asked for; 0 means one a CPU.

    On a cluster, which is joined, those are the CPUs of all nodes that it has or could have, `MOST` at most: the driver's may
    be few, or not for work. `settled` takes from each stage what is too much for all. Where nobody knows what nodes could
    come they are this machine's at least. `there` are the nodes, if they need not be asked for.
    """
    if asked:
        return asked
    if not joining.joins(address):
        return cores()
    if there is None:
        join_cluster(address)
        there = nodes.seen()
    cpus = int(min(MOST, there.total("CPU")))
    return max(1, cpus) if there.known else max(cores(), cpus)


def cluster_gpus() -> float:
    """GPUs that the cluster which this process has joined has, or could have; 0 before it has joined one."""
    import ray

    return nodes.seen().total("GPU") if ray.is_initialized() else 0.0


def settled(river: Iterable[Hands], tell: bool = True) -> list[Hands]:
    """The river as the cluster that this process has joined can ever hold it: what is too much for all, each gives a part of.

    Args:
        river: the stages that work at the same time.
        tell: say which stages get fewer actors than they could use.

    Raises:
        UserError: a stage asks for what no node has or could have, or one actor of each stage is too much at once.
    """
    hands = list(river)
    there = nodes.seen()
    counts = settle([each.pool() for each in hands], there)
    fewer = [
        (each.stage.__name__, count, each.workers) for each, count in zip(hands, counts, strict=True) if count < each.workers
    ]
    if fewer and tell:
        told = ", ".join(f"{count:,} of {most:,} actors of {name}" for name, count, most in fewer)
        say(f"the cluster has room for {told}; there are: {there}")
    return [replace(each, workers=count, least=min(each.least, count)) for each, count in zip(hands, counts, strict=True)]


def through(dataset: Any, hands: Hands) -> Any:
    """Appends a stage to a Ray dataset of slices, as a pool of actors."""
    import ray

    many = {"max_concurrent_calls_per_actor": hands.at_once, "enable_true_multi_threading": True}
    with warnings.catch_warnings():
        # `max_task_retries` goes through arguments that 2.64 removes and for which 2.60 has no other name.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return dataset.map_batches(
            _on_slices(hands.stage),
            fn_constructor_args=(hands.make, hands.guard),
            compute=ray.data.ActorPoolStrategy(
                min_size=max(1, hands.least),
                max_size=max(1, hands.workers, hands.least),
                max_tasks_in_flight_per_actor=max(hands.ahead, 2 * hands.at_once),
                **(many if hands.at_once > 1 else {}),
            ),
            batch_size=1 if hands.gpus else None,  # a slice is a row; with GPUs Ray insists on a number
            batch_format="pyarrow",
            num_cpus=hands.cores,
            num_gpus=hands.gpus or None,
            memory=hands.memory or None,
            resources=hands.resources or None,
            accelerator_type=hands.accelerator or None,
            label_selector=hands.labels or None,
            max_restarts=-1,
            max_task_retries=TASK_RETRIES,
        )


def _on_slices(stage: type[Any]) -> type[Any]:
    """A class of the stage's own name that works on blocks of slices: Ray prints class names, so its plan reads as ours."""

    class OnSlices:
        def __init__(self, make: dict[str, Any], guard: Callable[[Any, Slice], pa.Table | None] | None = None) -> None:
            self.fault: UserError | None = None
            self.guard = guard
            try:
                self.stage = stage(**brought(make))
            except UserError as error:  # raised from here, Ray would print its traceback on the user's terminal
                self.fault = error

        def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
            if self.fault is not None:
                raise self.fault
            if getattr(self.stage, "takes_tasks", False):
                for piece in self.stage(block):
                    metrics.observe(stage.__name__, len(piece.rows), piece.seconds[-1][1] if piece.seconds else 0.0, piece.rows)
                    yield piece.to_block()
                return
            for piece in Slice.from_block(block):
                started = time.perf_counter()
                if getattr(self.stage, "takes_slices", False):
                    told = self.stage(piece)
                    metrics.observe(stage.__name__, len(piece.rows), time.perf_counter() - started, piece.rows)
                    yield told
                    continue
                rows = self.stage(piece.rows) if self.guard is None else self.guard(self.stage, piece)
                if rows is None:
                    continue
                spent = (stage.__name__, time.perf_counter() - started)
                metrics.observe(stage.__name__, len(rows), spent[1], rows)
                yield replace(piece, rows=rows, seconds=(*piece.seconds, spent)).to_block()

    OnSlices.__name__ = OnSlices.__qualname__ = stage.__name__
    return OnSlices


def start(river: Iterable[Hands], address: str | None = None, **local: Any) -> None:
    """Connects to a cluster, or starts Ray on this machine with logical CPUs enough for every stage of the river.

    With fewer CPUs than actors some stage would wait for ever without a word. `address` "auto" or a URL joins a cluster;
    None starts a private one unless RAY_ADDRESS is set (a submitted job has it). Nothing calls home.
    """
    stages = list(river)
    actors = sum(max(1, hands.workers) for hands in stages)
    need = sum(max(1, hands.workers) * hands.cores for hands in stages)
    joining.start(address, cpus=max(cores(), int(need + 2)), processes=actors + 2, **local)


def join_cluster(address: str | None) -> None:
    """Joins the cluster that `address` or RAY_ADDRESS names, if one does: how a river is made depends on what it has."""
    if joining.joins(address):
        start([], address)


def settings(no_progress_hours: float = 12.0) -> None:
    """Ray Data's settings for rivers of slices, in this driver."""
    import ray

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # one slice, one block; see the top of this file
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = int(no_progress_hours * 3600)
    for name in ("ray.data", "ray"):  # tracebacks stay in Ray's log files; what happened is said in one line by the flow
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)


def run_river(
    blocks: list[pa.Table],
    river: list[Hands],
    cut: Callable[[Callable[[bool], None]], None] | None = None,
    beside: Sequence[Hands] = (),
) -> Iterator[pa.Table]:
    """Sends each block through the stages as its own task and yields what comes out, in the order it is done.

    Args:
        blocks: the tasks.
        river: the stages.
        cut: is handed a function that any thread may call to end the iteration now; what is under way is dropped, and told to
            kill, the actors that are at it die at once.
        beside: members that the stages ask; they need room as well where nodes are lost.

    Raises:
        MachineError: nodes went for good, and what is left is too little for all actors at once.
    """
    import ray

    settings()
    # from_arrow runs a task a block before any work: 101 s of processor and 2.2 GiB for 40,000 blocks, this 42 and 0.7.
    dataset = ray.data.from_blocks(blocks)
    for hands in river:
        dataset = through(dataset, hands)
    pools = [hands.pool() for hands in river]
    end = breaking_off(dataset, pools)
    if cut is not None:
        cut(end)
    with Starving([*pools, *(each.pool() for each in beside)], partial(end, True)) as starving:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                starving.fed()
                yield block
        except Exception:  # whatever being broken off does to Ray's iterator
            if not starving.starved:
                raise
        if starving.starved:
            raise starving.fault()
