"""A cluster whose nodes come and go, on one machine.

`Cloud` is a head without CPUs and Ray's own autoscaler (v2) before a provider that makes nodes out of processes: their CPUs and
GPUs are pretended, everything else is as in life. `lost` takes a node away as a cloud takes a spot instance: all its processes
at one moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE, FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.cluster_utils import Cluster

from geobatch.spot import Telling
from tests.conftest import free_port
from tests.river.job import ROOT, kill_tree

#: The least that Ray takes.
STORE = 80 << 20

#: How EC2 says that it has none left.
SOLD_OUT = "InsufficientInstanceCapacity"


class Market(FakeMultiNodeProvider):
    """Refuses node types whose `node_config` says that they are sold out."""

    def create_node_with_resources_and_labels(self, node_config: dict[str, Any], *rest: Any) -> None:
        """As Ray's own."""
        if node_config.get("sold_out"):
            raise NodeLaunchException(SOLD_OUT, "none left", None)
        super().create_node_with_resources_and_labels(node_config, *rest)


class SpotMarket(Telling, Market):
    """With what `geobatch.spot.Spot` adds to Ray's provider of AWS."""


@contextmanager
def autoscaled(folder: Path, types: Mapping[str, dict[str, Any]], workers: int, idle_s: float) -> Iterator[str]:
    """A head and nothing else, and an autoscaler that may bring the node types; the address of its control store."""
    port = free_port()
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling(port, types, workers, idle_s)))
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        ),  # the autoscaler loads `SpotMarket`
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*head, f"--autoscaling-config={config}", f"--object-store-memory={STORE}", "--include-dashboard=false"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(process, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        ray.shutdown()
        family = _family(process.pid)
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=5)
        for one in alive:
            one.kill()
        process.wait(10)


def autoscaling(port: int, types: Mapping[str, dict[str, Any]], workers: int, idle_s: float) -> dict[str, Any]:
    """What the autoscaler is told; all that `ray up` would fill in stands here empty."""
    provider = {
        "type": "external",
        "module": f"{__name__}.{SpotMarket.__name__}",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": f"127.0.0.1:{port}",
        "launch_multiple": True,
        "disable_node_updaters": True,
    }
    commands = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")
    made = {name: {"node_config": {}, "min_workers": 0, **about} for name, about in types.items()}
    for about in made.values():
        about["resources"] = {**about["resources"], "object_store_memory": STORE}
    return {
        "cluster_name": "pretended",
        "max_workers": workers,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, **made},
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "docker": {},
        "auth": {},
    }


@contextmanager
def nodes_of(count: int, cpus: int, **head: Any) -> Iterator[Cluster]:
    """A head without CPUs and so many nodes, without an autoscaler; this process is its driver, without tokens.

    A dead node is found out within 2 s: its raylet is asked every half second and refuses three times. One that is slow to
    answer has 15 s.
    """
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        with _nodes(count, cpus, **head) as made:
            yield made


@contextmanager
def _nodes(count: int, cpus: int, **head: Any) -> Iterator[Cluster]:
    checks = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    about = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, **head}
    made = Cluster(
        initialize_head=True,
        shutdown_at_exit=False,
        head_node_args={**about, "_system_config": {**checks, "health_check_timeout_ms": 15_000}},
    )
    try:
        for _ in range(count):
            made.add_node(num_cpus=cpus, object_store_memory=STORE, wait=False)
        made.wait_for_nodes(120)
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def lost(cluster: Cluster, node: Any) -> None:
    """Takes a node away without a word."""
    kill_tree(node.all_processes["raylet"][0].process.pid)
    cluster.remove_node(node, allow_graceful=False)


def alive() -> dict[str, dict[str, float]]:
    """Resources of the nodes that are alive, the head left out, by their id."""
    return {
        node["NodeID"]: node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and "node:__internal_head__" not in node["Resources"]
    }


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            ray.init(address=f"127.0.0.1:{port}", logging_level="ERROR", log_to_driver=False)
            return
        except (ConnectionError, RuntimeError, ray.exceptions.RayError):
            time.sleep(0.5)
    raise RuntimeError(f"the head did not start: {log.read_text()[-3000:]}")


def _family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]
