"""Nodes that vanish: SIGKILL to a node and all its processes at seeded moments, and every image stands once all the same.

The quiet run says what must come out; each other one loses a node while it works, one of two, and a new one comes in its place.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ray.cluster_utils import Cluster

from geobatch import nodes
from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.pipeline.flow import Flow, flow
from geobatch.sink import latest
from geobatch.starving import Starving
from geobatch.store import Store, StoreConfig
from tests.conftest import S3Server
from tests.river.cloud import STORE, alive, lost, nodes_of
from tests.river.conftest import Tiny, arguments
from tests.river.job import run_job
from tests.river.test_geolocate import places
from tests.river.test_kills import at_commits, rows
from tests.sink.rows import located

IMAGES, SLICE, CPUS = 160, 4, 4
TRIALS_IN_TORTURE = 20


class Doze:
    """Places every image after a wait that only its name decides."""

    def __call__(self, table: pa.Table) -> pa.Table:
        names = table["image_id"].to_pylist()
        time.sleep(random.Random(names[0]).uniform(0.02, 0.2))
        return located(names, table["uri"].to_pylist())


class Look:
    """Nothing but a stage."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class Wait(Look):
    """Another one."""


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[Cluster]:
    """A head without CPUs and two nodes, which have the credentials of the S3 server from the environment that starts them."""
    with nodes_of(2, CPUS) as made:
        yield made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that nobody decodes."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(IMAGES):
        (folder / f"{number}.jpg").write_bytes(b"bytes")
    return folder


def run(archive: Path, output: Path, *river: Hands) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The account of a run and its rows by image, but for the run's own marks."""
    done = flow(
        Flow(
            archive=ArchiveConfig(uri=str(archive), shard_rows=SLICE),
            output=str(output),
            store=StoreConfig(),
            method="geotoken",
            fingerprint="f",
            river=list(river) or [Hands(stage=Doze, workers=4)],
        )
    )
    table = latest(Store(), str(output))
    assert table is not None
    return done, rows(pa.concat_tables(table.tables(Store())))


@pytest.fixture(scope="module")
def quiet(cluster: Cluster, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Rows of a run that nothing happens to."""
    done, found = run(archive, tmp_path_factory.mktemp("quiet") / "out")
    assert done["placed"] == len(found) == IMAGES
    return found


def test_large_actors_have_their_room_before_small_ones(cluster: Cluster, archive: Path, tmp_path: Path) -> None:
    """In the river's order a reader and the first stage would take what the second of 3 CPUs needs, and it wait for ever."""
    done, found = run(
        archive, tmp_path / "out", Hands(stage=Look, cpus=1), Hands(stage=Wait, cpus=3), Hands(stage=Doze, cpus=3)
    )
    assert done["placed"] == len(found) == IMAGES


def trial(
    seed: int, cluster: Cluster, archive: Path, output: Path, expected: dict[str, dict[str, Any]], again: bool = True
) -> int:
    """A run that loses a node when so many slices are committed as the seed draws; returns how many were.

    Args:
        again: whether a new node comes in its place.
    """
    draw = random.Random(seed)
    wanted, which, pause = draw.randrange(IMAGES // SLICE * 3 // 4), draw.randrange(2), draw.uniform(0, 0.2)
    commits, over, killed = output / "runs/000001/commits", threading.Event(), list[int]()

    def kill() -> None:
        while not over.is_set():
            count = sum(1 for _ in commits.iterdir()) if commits.is_dir() else 0
            if count >= wanted and (output / "runs/000001/plan.json").exists():
                time.sleep(pause)
                lost(cluster, sorted(cluster.worker_nodes, key=lambda node: node.node_id)[which])
                killed.append(count)
                if again:
                    cluster.add_node(num_cpus=CPUS, object_store_memory=STORE)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        done, found = run(archive, output)
    finally:
        over.set()
        killer.join()
    assert found == expected
    assert done["read"] == done["placed"] == IMAGES
    assert killed, "it was over before its node was lost"
    return killed[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_node_vanishes_and_every_image_stands_once(
    seed: int, cluster: Cluster, archive: Path, tmp_path: Path, quiet: dict[str, dict[str, Any]]
) -> None:
    began = time.monotonic()
    at = trial(seed, cluster, archive, tmp_path / "out", quiet)
    print(f"seed {seed}: a node lost after {at} of {IMAGES // SLICE} slices, {time.monotonic() - began:.1f} s")


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_nodes_vanish_many_times(cluster: Cluster, archive: Path, tmp_path: Path, quiet: dict[str, dict[str, Any]]) -> None:
    for seed in range(100, 100 + TRIALS_IN_TORTURE):
        at = trial(seed, cluster, archive, tmp_path / f"out-{seed}", quiet)
        print(
            f"{seed - 99} nodes lost in as many runs, this one after {at} of {IMAGES // SLICE} slices, every image once",
            flush=True,
        )


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_driver_dies_on_a_cluster_and_the_next_goes_on(cluster: Cluster, bucket: str, tiny: Tiny, s3: S3Server) -> None:
    flags = [*arguments(bucket, "on-a-cluster", tiny, s3), "--address", cluster.address]
    killed = run_job(
        *flags, kill_when=at_commits(Store(s3.config()), f"s3://{bucket}/on-a-cluster", random.Random(1)), limit=600
    )
    assert killed.status is None, killed.output
    ended = run_job(*flags, limit=600)
    assert ended.status == 0, ended.output
    assert "taking up run" in ended.output
    assert set(rows(places(bucket, "on-a-cluster", s3))) == {f"s3://{bucket}/archive/{name}" for name in tiny.names}


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_node_lost_for_good_leaves_the_work_to_the_others(
    cluster: Cluster, archive: Path, tmp_path: Path, quiet: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the file: the cluster has one node less after it."""
    monkeypatch.setattr(Starving.__init__, "__defaults__", (nodes.seen, 2.0, 20.0))
    trial(7, cluster, archive, tmp_path / "out", quiet, again=False)
    assert len(alive()) == 1
