"""A Ray head with its dashboard, in a process group and a folder of its own, as `ray up` and KubeRay start one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import free_port
from tests.river.job import ROOT

#: What opens the cluster; Ray wants 64 hex digits.
TOKEN = "5eed" * 16


@dataclass(frozen=True)
class Standing:
    """A running head: where drivers join, where jobs are submitted, its folder."""

    gcs: str
    dashboard: str
    folder: Path


@contextmanager
def head(cpus: int = 16, **environment: str) -> Iterator[Standing]:
    """Starts it and ends it; jobs find this interpreter as `python`, the checkout as their folder, and this environment."""
    with tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as folder:
        port, dashboard = free_port(), free_port()
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--object-store-memory=200000000"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"),
            *(f"--dashboard-agent-grpc-port={free_port()}", f"--metrics-export-port={free_port()}"),
            f"--ray-client-server-port={free_port()}",
        ]
        surroundings = {
            **os.environ,
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        }
        surroundings.pop("RAY_ADDRESS", None)
        with (Path(folder) / "said").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=surroundings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                yield _awaited(process, Standing(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", Path(folder)))
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _awaited(process: subprocess.Popen[bytes], standing: Standing) -> Standing:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert process.poll() is None, (standing.folder / "said").read_text()[-2000:]
        try:
            told = httpx.get(f"{standing.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5)
            if told.status_code == 200:
                return standing
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the head did not answer within five minutes")
