"""Autoscaling for real, from a head alone: a run's demand brings nodes, they do its work, they go when nobody needs them.

Of the nodes with GPUs one type is preferred and sold out, so the other has to come.

up      seconds until the first node of each type was there
done    seconds until the run's proof was written
down    seconds from then until the head was alone again
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from geobatch import nodes
from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.pipeline.flow import Flow, flow
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig
from tests.river.cloud import alive, autoscaled
from tests.sink.rows import located

IDLE_S = 4.0
IMAGES = 24

GPU = {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1}, "labels": {"market": "spot"}, "max_workers": 1}
TYPES: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"CPU": 2}, "max_workers": 1},
    "gpu": GPU,
    "best": {**GPU, "priority": 10, "node_config": {"sold_out": True}},
}


class Note:
    """Writes down which node it works on."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, table: pa.Table) -> pa.Table:
        (self.folder / f"{type(self).__name__}-{ray.get_runtime_context().get_node_id()}").touch()
        return table


class Look(Note):
    """On CPUs."""


class Ponder(Note):
    """On a pretended GPU."""

    def __call__(self, table: pa.Table) -> pa.Table:
        super().__call__(table)
        return located(table["image_id"].to_pylist(), table["uri"].to_pylist())


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    """A head alone."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        with autoscaled(Path(folder), TYPES, workers=2, idle_s=IDLE_S) as address:
            yield address


def job(folder: Path, *stages: str) -> Flow:
    for name in ("archive", "notes"):
        (folder / name).mkdir()
    for number in range(IMAGES):
        (folder / f"archive/{number}.jpg").write_bytes(b"bytes")
    notes = {"folder": str(folder / "notes")}
    return Flow(
        archive=ArchiveConfig(uri=str(folder / "archive"), shard_rows=4),
        output=str(folder / "out"),
        store=StoreConfig(),
        method="geotoken",
        fingerprint="f",
        river=[
            Hands(stage=Look, make=notes, workers=64, cpus=0.5),
            Hands(stage=Ponder, make=notes, gpus=1, accelerator="L4", labels={"market": "spot"}),
        ],
        stages=stages,
    )


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_what_no_node_type_could_ever_hold_is_refused_before_a_node_is_brought(cloud: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        flow(job(tmp_path, "Ponder:gpus=8"))
    assert str(raised.value).startswith("Ponder asks for 8 GPU for each actor, and no node has or could have more than 1;")
    assert "up to 1 gpu (CPU 1, GPU 1, accelerator_type:L4 1, market=spot)" in str(raised.value)
    assert not (tmp_path / "out").exists() or latest(Store(), str(tmp_path / "out")) is None
    assert not alive()
    assert nodes.seen().total("GPU") == 2 and nodes.seen().total("CPU") == 3


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_run_brings_its_nodes_and_they_go_when_it_is_done(
    cloud: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not alive()
    started, came, over = time.monotonic(), dict[str, float](), threading.Event()
    seen: dict[str, dict[str, float]] = {}

    def watch() -> None:
        while not over.wait(0.2):
            for node, has in alive().items():
                seen.setdefault(node, has)
                came.setdefault("gpu" if has.get("GPU") else "cpu", time.monotonic() - started)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    done = flow(job(tmp_path))
    spent = time.monotonic() - started
    over.set()
    watcher.join()
    assert (done["read"], done["placed"]) == (IMAGES, IMAGES)
    assert "the cluster has room for" in capsys.readouterr().out  # 64 hands are more than one node of two CPUs holds
    worked = {
        stage: {path.name.split("-")[1] for path in (tmp_path / "notes").glob(f"{stage}-*")} for stage in ("Look", "Ponder")
    }
    assert worked["Ponder"] == {node for node, has in seen.items() if has.get("GPU")}
    assert worked["Look"] and worked["Look"] <= set(seen), "the head did no work"
    ended = time.monotonic()
    while alive() and time.monotonic() - ended < 240:
        time.sleep(0.2)
    down = time.monotonic() - ended
    assert not alive()
    with capsys.disabled():
        up = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in sorted(came.items()))
        print(f"\nautoscaling from a head alone: up {up}; done {spent:.1f} s; down {down:.1f} s (idle {IDLE_S:.0f} s)")
