"""Nodes that are not where the driver is: other disks, a head without work; and neighbours in a bucket that nobody can read.

What another machine's disk is, `/proc/self/cwd` is here: a path that means another folder in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.pipeline import flow as flowing
from geobatch.pipeline import folder, reach
from geobatch.pipeline.flow import Flow, flow
from geobatch.service import Service
from geobatch.sink import latest, read
from geobatch.stage import rejected
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop
from geobatch.train.ready import ready
from tests.conftest import S3Server
from tests.river.cloud import nodes_of
from tests.sink.rows import located
from tests.store.proxy import FaultyProxy

pytestmark = pytest.mark.timeout(300)

HERE = "/proc/self/cwd"


class Place:
    """Places what was read."""

    def __init__(self, model: str = "") -> None:
        self.model = model

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = located(table["image_id"].to_pylist(), table["uri"].to_pylist())
        reasons = table["reason"].to_pylist()
        return rejected(rows, "read", {row: Rejection(reason) for row, reason in enumerate(reasons) if reason})


class Where:
    """A member that says which node it lives on."""

    def node(self) -> str:
        """Its id."""
        node: str = ray.get_runtime_context().get_node_id()
        return node


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[Cluster]:
    """A head without CPUs, which is the driver's, and a node."""
    with nodes_of(1, 4) as made:
        yield made


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that only this process finds at `/proc/self/cwd`, with an archive in it."""
    (tmp_path / "archive").mkdir()
    for number in range(4):
        (tmp_path / f"archive/{number}.jpg").write_bytes(b"bytes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(archive: str, output: str, **more: Any) -> Flow:
    return Flow(
        **{
            "archive": ArchiveConfig(uri=archive, shard_rows=2),
            "output": output,
            "store": StoreConfig(),
            "method": "geotoken",
            "fingerprint": "f",
            "river": [Hands(stage=Place)],
            "address": "auto",
            **more,
        }
    )


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "later"])
@pytest.mark.parametrize("what", ["archive", "out", "model"])
def test_a_disk_that_a_node_does_not_see_is_one_line(
    here: Path, alive: bool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the nodes alive before the listing; one that comes later says so itself."""
    if not alive:
        for module in (reach, folder):
            monkeypatch.setattr(module, "seen_by_all", lambda _: None)
    (here / "model").mkdir()
    places = {name: f"{HERE if name == what else here}/{name}" for name in ("archive", "out", "model")}
    with pytest.raises(UserError) as raised:
        flow(job(places["archive"], places["out"], river=[Hands(stage=Place, make={"model": places["model"]})]))
    said = str(raised.value)
    assert (
        f"not see {HERE}/{what}; put it into a bucket (s3://…), or on a disk that all nodes mount" in said and "\n" not in said
    )
    assert latest(Store(), str(here / "out")) is None
    assert not list((here / "out").glob("runs/*/commits/*"))


def test_a_disk_that_all_nodes_see_is_good_and_paths_may_be_relative(here: Path) -> None:
    done = flow(job("archive", "out"))
    assert (done["read"], done["placed"]) == (4, 4)


def test_passes_without_commits_end_even_if_nothing_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node writes where the driver does not look would be done again for ever."""
    monkeypatch.setattr(flowing, "seen", lambda *_: None)
    monkeypatch.setattr(flowing, "run_river", lambda *_, **__: iter(()))
    with pytest.raises(MachineError, match="2 passes in a row committed nothing, and nothing failed; see that all nodes reach"):
        flow(job(str(here / "archive"), str(here / "out")))


def test_training_wants_a_disk_for_what_it_learns_from_even_if_checkpoints_lie_in_a_bucket(here: Path) -> None:
    with pytest.raises(UserError, match=rf"does not see {HERE}, where training keeps its files; put --output on a disk"):
        ready(Loop(workers=1, storage="s3://bucket/checkpoints"), _Literal(f"{HERE}/model"), "auto")
    ready(Loop(workers=1, storage="s3://bucket/checkpoints"), here / "model", "auto")


class _Literal(type(Path())):  # type: ignore[misc]
    """A path that stays what it is called."""

    def resolve(self, strict: bool = False) -> Path:
        return self


def test_heavy_members_live_where_work_is(cluster: Cluster) -> None:
    """Of two that ask for no CPU one lives on the head."""
    members = Service("where", Where, [{}] * 2, 0.5)
    members.start()
    try:
        assert ray.get_runtime_context().get_node_id() not in members.ask("node")
    finally:
        members.stop()


def apart(s3: S3Server, proxy: FaultyProxy, output: Path) -> Flow:
    """Eight images that are read through the proxy."""
    base = f"s3://{s3.bucket()}/archive"
    for number in range(8):
        Store(s3.config()).put(f"{base}/{number}.jpg", b"x")
    return job(base, str(output), archive_store=s3.config(endpoint=proxy.endpoint, attempts=2))


def test_neighbours_that_can_never_be_read_hold_nobody_up(
    cluster: Cluster, s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """A shard of two, of four: rows in the end."""
    asked = apart(s3, proxy, tmp_path)
    proxy.spoiled = {"^GET .*/[23].jpg": "500"}
    done = flow(asked)
    assert (done["read"], done["placed"], done["reasons"]) == (8, 6, {"unreadable": 2})
    lost = sorted(row["image_id"] for row in read(asked.output).to_pylist() if row["reason"])
    assert lost == [f"{asked.archive.uri}/2.jpg", f"{asked.archive.uri}/3.jpg"]


@pytest.mark.torture
def test_a_store_that_falls_silent_makes_no_row_of_anything(
    cluster: Cluster, s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    asked = apart(s3, proxy, tmp_path)
    proxy.check = lambda request: (
        None if "list-type" in request.path or request.headers.get("Range") else (500, "InternalError")
    )
    with pytest.raises(MachineError, match=r"2 passes in a row committed nothing, the last error was: .* failed 2 times"):
        flow(asked)
    assert not list(tmp_path.glob("runs/*/commits/*"))
    proxy.check = lambda _: None
    done = flow(asked)
    assert (done["resumed"], done["read"], done["placed"]) == (True, 8, 8)
