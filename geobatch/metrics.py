"""What a dashboard sees of a run while it works: counters and histograms in Ray's Prometheus export.

Every process counts for itself, Ray's agent on each node adds them up and serves them at the node's metrics port; Prometheus
collects, `jobs/cluster/dashboard.json` shows. The agent puts `ray_` before each name and `_total` behind a counter's, and a
label for node, worker and session on each series.

Sums are counters of their own, on purpose: a worker sends histograms as counts by bucket, and the agent, which gets no values,
takes each bucket's middle. A thousand slices of 0.05 s then sum up to 55 s. So histograms are good for quantiles within a
bucket's width, and rates and shares come from counters, which are exact.

One slice through one stage costs 5 records of 2.5 µs each, 23 to 29 µs in all, where a stage works on it for 10 ms at the very
least (`tests/river/test_seen.py` holds it below 1 %). Where Ray is not running nothing is recorded; where its agent is off, the
records go nowhere and nobody complains. Workers report every 10 s: one that is killed takes the last of its counts along.

Not covered: utilisation of CPUs, GPUs, memory and disks by node, which Ray exports itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Metric:
    """One metric.

    Fields:
        name: without Ray's prefix.
        text: what it counts, with its unit.
        tags: labels of its series.
        bounds: upper bounds of a histogram's buckets; empty: a counter.
    """

    name: str
    text: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def exported(self) -> tuple[str, ...]:
        """Its names in the text that Prometheus collects."""
        name = f"ray_{self.name}"
        return (f"{name}_bucket", f"{name}_count", f"{name}_sum") if self.bounds else (f"{name}_total",)


IMAGES = Metric("geobatch_images", "Images of committed slices, by what became of them.", ("status", "reason"))
BYTES = Metric("geobatch_read_bytes", "Encoded bytes of the images that were read.")
STAGE_IMAGES = Metric("geobatch_stage_images", "Images that left a stage alive.", ("stage",))
STAGE_SLICES = Metric("geobatch_stage_slices", "Slices that left a stage.", ("stage",))
STAGE_SECONDS = Metric("geobatch_stage_seconds", "Seconds that a stage's actors worked, over all of them.", ("stage",))
SLICE_SECONDS = Metric(
    "geobatch_slice_seconds",
    "Seconds that a stage worked on one slice.",
    ("stage",),
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
)
BATCH = Metric(
    "geobatch_batch_images",
    "How full batches are: images of one slice that left a stage alive.",
    ("stage",),
    (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5, 128.5, 256.5, 512.5, 1024.5),
)
GPU_BUSY = Metric("geobatch_gpu_busy_seconds", "GPU seconds in which a stage worked on what it held.", ("stage",))
GPU_HELD = Metric("geobatch_gpu_held_seconds", "GPU seconds that a stage's actors held, at work or waiting.", ("stage",))
RETRIES = Metric("geobatch_retries", "What was tried again: a request, a slice, a pass over the archive.", ("of",))

#: All there are: a dashboard names these and no others.
METRICS = (IMAGES, BYTES, STAGE_IMAGES, STAGE_SLICES, STAGE_SECONDS, SLICE_SECONDS, BATCH, GPU_BUSY, GPU_HELD, RETRIES)


def observe(stage: str, rows: int, seconds: float, table: pa.Table) -> None:
    """A stage has worked on one slice. Called in its actor, once a slice.

    Args:
        stage: the class's name.
        rows: rows of the slice, dead ones included.
        seconds: what it took.
        table: what the stage gave; its `reason` tells who is alive, and after Read `size` and `bytes` how much was read.
    """
    if not _on():
        return
    names = table.column_names
    alive = table["reason"].null_count if "reason" in names else rows
    tags = {"stage": stage}
    _count(STAGE_SLICES, 1, tags)
    _count(STAGE_IMAGES, alive, tags)
    _count(STAGE_SECONDS, seconds, tags)
    _record(SLICE_SECONDS, seconds, tags)
    _record(BATCH, alive, tags)
    if stage == "Read" and {"size", "bytes"} <= set(names):
        there = table["size"].filter(table["bytes"].is_valid())  # of what was rejected unread the size is the listing's
        _count(BYTES, pc.sum(there).as_py() or 0, {})
    if not _in_actor():
        return
    if _attempt() > 0:
        retried("slice")
    if _gpus().share:
        busy, held = _gpus().worked(seconds, time.monotonic())
        _count(GPU_BUSY, busy, tags)
        _count(GPU_HELD, held, tags)


def committed(placed: int, reasons: Mapping[str, int]) -> None:
    """A slice is committed: so many placed, so many rejected for each reason. Called by whoever wrote the commit."""
    if not _on():
        return
    _count(IMAGES, placed, {"status": "placed", "reason": ""})
    for reason, images in reasons.items():
        _count(IMAGES, images, {"status": "rejected", "reason": reason})


def retried(of: str, times: int = 1) -> None:
    """A "request", a "slice" or a "pass" was tried again."""
    if _on():
        _count(RETRIES, times, {"of": of})


class _Gpus:
    """What this process holds of GPUs, and up to when it has told of it."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._told: float | None = None
        self._lock = threading.Lock()

    def worked(self, seconds: float, now: float) -> tuple[float, float]:
        """GPU seconds (busy, held) since the last slice was told of.

        Slices that were worked on at once are told one after the other: each counts for the time since the one before.
        """
        with self._lock:
            since = seconds if self._told is None else now - self._told
            self._told = now
        return min(seconds, since) * self.share, since * self.share


@lru_cache(maxsize=1)
def _gpus() -> _Gpus:
    import ray

    return _Gpus(float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)))


def _on() -> bool:
    """Whether Ray runs in this process; asked without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


def _in_actor() -> bool:
    import ray

    return bool(ray._private.worker.global_worker.mode == ray.WORKER_MODE)


def _attempt() -> int:
    """How often the task at hand was begun before: Ray counts, and tells it through its private side alone."""
    import ray

    asked = getattr(ray._private.worker.global_worker.core_worker, "get_current_task_attempt_number", None)
    return int(asked()) if asked is not None else 0


@lru_cache(maxsize=len(METRICS))
def _made(metric: Metric) -> Any:
    from ray.util.metrics import Counter, Histogram

    if metric.bounds:
        return Histogram(metric.name, description=metric.text, boundaries=list(metric.bounds), tag_keys=metric.tags)
    return Counter(metric.name, description=metric.text, tag_keys=metric.tags)


def _count(metric: Metric, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray refuses to count nothing
        _made(metric).inc(value, tags=tags)


def _record(metric: Metric, value: float, tags: dict[str, str]) -> None:
    _made(metric).observe(value, tags=tags)
