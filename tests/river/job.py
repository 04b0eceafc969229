"""Runs a job as a user does, in a process of its own, and kills it with all its children when asked to.

A command that ends before Ray starts may run in this process (`said`): importing everything once more costs 4 to 6 s.
"""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit status (None: killed), what it printed, and how long it took."""

    status: int | None
    output: str
    seconds: float
    peak_bytes: int = 0


def run_job(
    *arguments: str,
    job: str = "geolocate_bucket",
    kill_when: Callable[[float], bool] | None = None,
    weigh: bool = False,
    limit: float = 480,
) -> Ended:
    """`python jobs/JOB.py ARGUMENTS`.

    Args:
        kill_when: asked again and again with the seconds since the start; once it says so, the driver and every process below
            it get SIGKILL.
        weigh: measure the memory of all its processes together, which costs a tenth of a core.
        limit: seconds after which the job counts as hung.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as scratch, (Path(scratch) / "log").open("w+") as log:
        environment = {**os.environ, "RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            [sys.executable, str(ROOT / f"jobs/{job}.py"), *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        peak, status = 0, None
        while (status := process.poll()) is None:
            spent = time.monotonic() - started
            if kill_when is not None and kill_when(spent):
                kill_tree(process.pid)
                process.wait()
                break
            if spent > limit:
                kill_tree(process.pid)
                log.seek(0)
                raise TimeoutError(f"the job hung: {log.read()[-3000:]}")
            if weigh:
                peak = max(peak, memory(process.pid))
            time.sleep(0.5 if weigh else 0.02)
        log.seek(0)
        return Ended(status, log.read(), time.monotonic() - started, peak)


def said(*arguments: str, job: str = "geolocate_bucket") -> Ended:
    """`python jobs/JOB.py ARGUMENTS` in this process, for a command that starts no Ray."""
    began, before = time.monotonic(), ray.is_initialized()
    with (
        pytest.MonkeyPatch.context() as patch,
        io.StringIO() as log,
        redirect_stdout(log),
        redirect_stderr(log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of libraries; a process of its own would not raise them either
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(sys, "argv", [str(ROOT / f"jobs/{job}.py"), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(sys.argv[0], run_name="__main__")
        if started := ray.is_initialized() and not before:
            ray.shutdown()  # the next test may want a cluster of its own
        assert not started, "it started Ray: give it a process of its own"
        return Ended(int(ended.value.code or 0), log.getvalue(), time.monotonic() - began)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all below it, as one moment: stopped first, so that none can react to another's death."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for process in tree:
            try:
                process.send_signal(signum)
            except psutil.NoSuchProcess:
                continue


def memory(pid: int) -> int:
    """Bytes of RAM that a process and all below it hold; pages shared with others are counted in part (PSS)."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        pass
    return total
