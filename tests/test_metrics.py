"""GPU seconds, names, and silence without Ray. What is counted is scraped from a real Ray in `tests/river/test_seen.py`."""

from __future__ import annotations

import subprocess
import sys
import time

import pyarrow as pa
import pytest

from geobatch import metrics
from geobatch.archive.slice import Rows
from geobatch.errors import Rejection
from geobatch.metrics import METRICS, _Gpus


def test_gpu_seconds_are_busy_and_held() -> None:
    gpu = _Gpus(0.5)
    assert gpu.worked(2.0, now=100.0) == (1.0, 1.0)  # the first slice: nobody knows since when it was held
    assert gpu.worked(3.0, now=110.0) == (1.5, 5.0)  # ten seconds later, three of them at work
    assert gpu.worked(8.0, now=112.0) == (1.0, 1.0)  # begun beside the one before: only the time since counts


def test_names_are_prometheus_own_and_each_is_said_once() -> None:
    exported = [name for metric in METRICS for name in metric.exported()]
    assert len(set(exported)) == len(exported) and all(name.startswith("ray_geobatch_") for name in exported)
    assert all(metric.text.endswith(".") and list(metric.bounds) == sorted(metric.bounds) for metric in METRICS)


def test_without_ray_nothing_is_recorded_and_ray_is_not_imported() -> None:
    script = """
import sys, pyarrow as pa
from geobatch import metrics
metrics.observe("Read", 1, 0.1, pa.table({"reason": pa.nulls(1, pa.string())}))
metrics.committed(1, {}); metrics.retried("request")
assert "ray" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_what_was_not_read_counts_no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is rejected unread has the size that the listing says."""
    counted: dict[str, float] = {}
    monkeypatch.setattr(metrics, "_on", lambda: True)
    monkeypatch.setattr(metrics, "_in_actor", lambda: False)
    monkeypatch.setattr(metrics, "_record", lambda *_: None)
    monkeypatch.setattr(metrics, "_count", lambda metric, value, tags: counted.update({metric.name: value}))
    rows = Rows()
    rows.add("a", "a", None, b"abc")
    rows.reject("b", "b", None, 1_000_000, Rejection("too_large"))
    metrics.observe("Read", 2, 0.1, rows.take())
    assert counted["geobatch_read_bytes"] == 3


def test_where_ray_is_off_counting_costs_next_to_nothing() -> None:
    """The floor of what a stage pays; with Ray it is measured in tests/river/test_seen.py."""
    table = pa.table({"reason": pa.nulls(256, pa.string())})
    started = time.thread_time()
    for _ in range(1000):
        metrics.observe("Decode", 256, 0.1, table)
    assert (time.thread_time() - started) / 1000 < 1e-4
