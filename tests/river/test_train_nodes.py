"""A training that loses a worker's node goes on from its checkpoint, and its losses are those of a training that lost none.

Two workers on two nodes, each of which has room for one; the node of one of them gets SIGKILL, with all its processes, at a
seeded step, and a new one comes. The unbroken run is the same call under another name.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from geobatch import nodes
from geobatch.errors import UserError
from geobatch.train.loop import Loop, Worker, fit
from geobatch.train.ready import Mark, enough
from tests.river.cloud import STORE, alive, lost, nodes_of
from tests.train.test_loop import STEPS, Regression, weights

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]


class Telling(Regression):
    """Writes each step's loss down, and takes long enough for a node to be lost in between."""

    def advance(self) -> float:
        """One step."""
        loss = super().advance()
        told = {"step": self.step, "loss": loss, "node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()}
        with (self.notes / f"{self.worker.rank}.jsonl").open("a") as log:
            log.write(json.dumps(told) + "\n")
        time.sleep(0.3)
        return loss


@dataclass(frozen=True)
class Make:
    """Makes it in the worker."""

    notes: str

    def __call__(self, worker: Worker) -> Telling:
        return Telling(worker, self.notes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and two nodes of one."""
    with nodes_of(2, 1) as made:
        yield made


def told(notes: Path, rank: int) -> list[dict[str, Any]]:
    path = notes / f"{rank}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(notes: Path, rank: int) -> dict[int, float]:
    """Of each step, as it was made last."""
    return {each["step"]: each["loss"] for each in told(notes, rank)}


def test_a_lost_node_changes_no_loss(cluster: Cluster, tmp_path: Path) -> None:
    loop = Loop(checkpoint_steps=3, failures=3)
    for name in ("quiet", "broken"):
        (tmp_path / name).mkdir()
    fit(Make(str(tmp_path / "quiet")), tmp_path / "unbroken", name="quiet", loop=loop)
    draw = random.Random(1)
    step, rank = draw.randint(4, STEPS - 3), draw.randrange(2)

    def kill() -> None:
        while not (seen := [each for each in told(tmp_path / "broken", rank) if each["step"] >= step]):
            time.sleep(0.05)
        lost(cluster, next(node for node in cluster.worker_nodes if node.node_id == seen[0]["node"]))
        cluster.add_node(num_cpus=1, object_store_memory=STORE)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    fit(Make(str(tmp_path / "broken")), tmp_path / "model", name="broken", loop=loop)
    killer.join()
    made = [each["step"] for each in told(tmp_path / "broken", rank)]
    assert len({each["node"] for each in told(tmp_path / "broken", rank)}) > 1 or len(made) > STEPS, "no node was lost in time"
    for each in range(2):
        assert losses(tmp_path / "broken", each) == losses(tmp_path / "quiet", each)
        assert sorted(losses(tmp_path / "broken", each)) == list(range(1, STEPS + 1))
    assert (weights(tmp_path / "model") == weights(tmp_path / "unbroken")).all()
    print(f"node of rank {rank} lost at step {step} of {STEPS}: {len(made)} steps made, the losses of {STEPS} equal")


def test_what_a_node_does_not_see_is_found_before_training(cluster: Cluster, tmp_path: Path) -> None:
    assert nodes.unseen(tmp_path) == []
    assert len(nodes.unseen(tmp_path / "nowhere")) == len(alive()) + 1
    with pytest.raises(UserError, match=r"does not see .*; put --output on a disk that all nodes mount .* --loop\.storage too"):
        Mark(str(tmp_path), str(tmp_path / "nowhere")).here()
    with pytest.raises(UserError, match=r"2 workers with 2 CPU each do not fit|4 CPUs and the cluster has or could have 2"):
        enough(Loop(workers=2, cpus=2))
