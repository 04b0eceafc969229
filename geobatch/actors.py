"""How many hands a stage has: the one place that speaks of CPUs, GPUs, pools and Ray's retries.

A **slice** is what travels between actors: one row of a Ray block that holds, in the column `rows`, the Arrow table of a run
of images from one shard (a list of structs, so that wrapping and unwrapping copy nothing). It exists because Ray cuts and
joins blocks as it likes: with `target_max_block_size=None` all that a read task yields becomes one block (a 24 GB tar would
be one), with any other value blocks are split by bytes, and a part that holds two thirds of a shard cannot be committed. A
row cannot be split, so with `target_max_block_size=1` one slice is one block is one task, from read to commit.

Retries: Ray restarts a dead actor and gives its slice to it again, three times; the default is for ever, which a picture
that kills its worker turns into an endless loop.

What this does not cover: actors over several nodes. Tensor parallelism asks for its GPUs as one actor's, which are one node's.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from geobatch import metrics
from geobatch.errors import UserError

#: Attempts for a slice whose actor died, after the first.
TASK_RETRIES = 3

#: Nothing calls home: Ray, Hugging Face, vLLM, and whoever honours the common word for it.
SILENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

SECONDS = pa.list_(pa.struct([pa.field("stage", pa.string()), pa.field("seconds", pa.float64())]))


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A deterministic run of images of one shard: the unit of work and of commit.

    Fields:
        shard: number of the shard in the run's plan.
        number: position in the shard, from 0.
        last: whether the shard ends here.
        end: where the next slice begins, for the reader (bytes of a tar, rows of a Parquet file).
        skipped: members of the archive passed over by name since the slice before.
        rows: the images.
        seconds: (stage, seconds) in the order of the river.
    """

    shard: int
    number: int
    last: bool
    end: int
    skipped: int
    rows: pa.Table
    seconds: tuple[tuple[str, float], ...] = ()

    def to_block(self) -> pa.Table:
        """One row that Ray can neither split nor join with another."""
        structs = self.rows.combine_chunks().to_struct_array()
        if isinstance(structs, pa.ChunkedArray):
            structs = structs.combine_chunks() if structs.num_chunks != 1 else structs.chunk(0)
        seconds = [[{"stage": stage, "seconds": spent} for stage, spent in self.seconds]]
        return pa.table(
            {
                "shard": pa.array([self.shard], pa.int32()),
                "number": pa.array([self.number], pa.int32()),
                "last": pa.array([self.last]),
                "end": pa.array([self.end], pa.int64()),
                "skipped": pa.array([self.skipped], pa.int64()),
                "seconds": pa.array(seconds, SECONDS),
                "rows": pa.LargeListArray.from_arrays(pa.array([0, len(structs)], pa.int64()), structs),
            }
        )

    @staticmethod
    def from_block(block: pa.Table) -> Iterator[Slice]:
        """The slices of a block; usually one."""
        rows = block["rows"]
        for index in range(len(block)):
            head = {name: block[name][index].as_py() for name in ("shard", "number", "last", "end", "skipped", "seconds")}
            head["seconds"] = tuple((each["stage"], each["seconds"]) for each in head["seconds"])
            yield Slice(**head, rows=pa.Table.from_struct_array(rows[index].values))


@dataclass(frozen=True, kw_only=True)
class Hands:
    """A stage and the hands it gets.

    Fields:
        stage: the class; its name is what progress and plans show.
        make: keyword arguments of its constructor, picklable and small.
        workers: actors at most; at least one.
        cpus: CPUs of one actor.
        gpus: GPUs of one actor, fractions allowed.
        memory: bytes of heap one actor asks for; 0 says nothing.
        at_once: slices that one actor works on at a time, in threads, for a stage that waits for an engine.
        deadline: seconds that a slice may take before its process is ended; 0: the stage has deadlines of its own.
        guard: stands around the stage in its actor: called with the stage and a slice, gives its rows, or None for a slice
            that goes no further.
    """

    stage: type[Any]
    make: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    at_once: int = 1
    deadline: float = 3600.0
    guard: Callable[[Any, Slice], pa.Table | None] | None = None

    def __call__(self) -> Any:
        """The stage itself, made here: the river without Ray."""
        return self.stage(**self.make)


def cores() -> int:
    """CPUs this process may use (a container's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cluster_gpus() -> float:
    """GPUs of the cluster that this process has joined; 0 before it has."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0.0


def through(dataset: Any, hands: Hands) -> Any:
    """Appends a stage to a Ray dataset of slices, as a pool of actors."""
    import ray

    with warnings.catch_warnings():
        # `max_task_retries` goes through arguments that 2.64 removes and for which 2.60 has no other name.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return dataset.map_batches(
            _on_slices(hands.stage),
            fn_constructor_args=(hands.make, hands.guard),
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=max(1, hands.workers),
                **(
                    {"max_concurrent_calls_per_actor": hands.at_once, "enable_true_multi_threading": True}
                    if hands.at_once > 1
                    else {}
                ),
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=hands.cpus,
            num_gpus=hands.gpus or None,
            memory=hands.memory or None,
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
                self.stage = stage(**make)
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
    import ray

    os.environ.update(SILENCE)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # The C++ side of each driver complains once a pool about arguments in the object store, on the user's terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        return
    if address and address != "local":
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": SILENCE})
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of one process tree, on loopback, without a dashboard
    stages = list(river)
    need = sum(max(1, hands.workers) * hands.cpus for hands in stages)
    # More processes than cores start at once here on purpose; Ray would warn of it on the terminal.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(sum(max(1, hands.workers) for hands in stages) + 2))
    with _hushed():
        ray.init(
            address="local",
            num_cpus=max(cores(), int(need + 2)),
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            **local,
        )


def join_cluster(address: str | None) -> None:
    """Joins the cluster that `address` or RAY_ADDRESS names, if one does: how a river is made depends on what it has."""
    if (address or os.environ.get("RAY_ADDRESS") or "local") != "local":
        start([], address)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what Ray's C++ side writes to standard error while it starts: that it read its log level. Errors are raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    blocks: list[pa.Table], river: list[Hands], cut: Callable[[Callable[[], None]], None] | None = None
) -> Iterator[pa.Table]:
    """Sends each block through the stages as its own task and yields what comes out, in the order it is done.

    Args:
        blocks: the tasks.
        river: the stages.
        cut: is handed a function that any thread may call to end the iteration now; what is under way is dropped.
    """
    import ray

    settings()
    dataset = ray.data.from_arrow(blocks)
    for hands in river:
        dataset = through(dataset, hands)
    if cut is not None:
        cut(_breaking_off(dataset))
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _breaking_off(dataset: Any) -> Callable[[], None]:
    """Ray shows a dataset's executor once its first block is out, which a river that waits for a node may never see."""
    executors: list[Any] = []
    create = dataset._create_executor

    def created() -> Any:
        executors.append(create())
        return executors[-1]

    dataset._create_executor = created

    def end() -> None:
        for executor in executors:
            executor.shutdown(force=True)

    return end
