"""Ray itself, under our settings: slices stay whole, dead actors are retried, a poisoned slice ends the pass."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray._common.usage import usage_lib

from geobatch.actors import SILENCE, Hands, Slice, run_river, start
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import MachineError, UserError
from geobatch.pipeline import causes
from geobatch.pipeline.causes import in_a_line, users_fault
from geobatch.pipeline.flow import Flow, flow
from geobatch.service import Service
from geobatch.store import Denied, StoreConfig
from tests.sink.rows import located


class Emit:
    """Three slices a task, of very different sizes."""

    takes_tasks = True

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        for shard in tasks["shard"].to_pylist():
            for number in range(3):
                rows = pa.table(
                    {"image_id": [f"{shard}/{number}/{n}" for n in range(5)], "payload": ["x" * 10 ** (2 * number)] * 5}
                )
                yield Slice(shard=shard, number=number, last=number == 2, end=0, skipped=0, rows=rows)


class Falter:
    """Dies on slices of shard 1 as often as its folder has not seen it die."""

    def __init__(self, folder: str, deaths: int) -> None:
        self.folder, self.deaths = Path(folder), deaths

    def __call__(self, table: pa.Table) -> pa.Table:
        if table["image_id"][0].as_py().startswith("1/1"):
            for death in range(self.deaths):
                if not (self.folder / str(death)).exists():
                    (self.folder / str(death)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return table


class Refuse:
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where
        if where == "init":
            raise UserError("the bucket is gone; name another")
        if where == "denied":
            raise Denied("the bucket is shut; open it")
        if where == "bug in init":
            self.nonsense = 1 / 0

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.where == "work":
            raise UserError("the bucket is gone; name another")
        if self.where == "denied at work":
            raise Denied("the bucket is shut; open it")
        return table.append_column("nonsense", pa.array([1 / 0] * len(table)))


TASKS = [pa.table({"shard": pa.array([shard], pa.int32())}) for shard in range(4)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    emit = Hands(stage=Emit)
    start([emit, emit, emit, emit])
    yield
    ray.shutdown()


@pytest.mark.timeout(180)
def test_slices_stay_whole_and_a_dead_actor_is_retried(cluster: None, tmp_path: Path) -> None:
    falter = Hands(stage=Falter, make={"folder": str(tmp_path), "deaths": 2}, workers=2)
    blocks = list(run_river(TASKS, [Hands(stage=Emit), falter]))
    pieces = [piece for block in blocks for piece in Slice.from_block(block)]
    assert sorted((piece.shard, piece.number) for piece in pieces) == [(s, n) for s in range(4) for n in range(3)]
    for piece in pieces:
        assert piece.rows["image_id"].to_pylist() == [f"{piece.shard}/{piece.number}/{n}" for n in range(5)]
        assert piece.last == (piece.number == 2)
        assert [stage for stage, _ in piece.seconds] == ["Falter"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.timeout(180)
def test_an_actor_that_always_dies_ends_the_pass_and_not_never(cluster: None, tmp_path: Path) -> None:
    falter = Hands(stage=Falter, make={"folder": str(tmp_path), "deaths": 1000})
    with pytest.raises(ray.exceptions.RayError):
        list(run_river(TASKS, [Hands(stage=Emit), falter]))
    assert 4 <= len(list(tmp_path.iterdir())) <= 8


class Tell:
    """Writes the worker's environment into the rows."""

    def __call__(self, table: pa.Table) -> pa.Table:
        said = json.dumps({name: os.environ.get(name) for name in SILENCE})
        return table.append_column("environment", pa.array([said] * len(table)))


@pytest.mark.timeout(180)
def test_nothing_calls_home(cluster: None) -> None:
    (block, *_) = run_river(TASKS[:1], [Hands(stage=Emit), Hands(stage=Tell)])
    piece = next(Slice.from_block(block))
    assert json.loads(piece.rows["environment"][0].as_py()) == SILENCE
    assert not usage_lib.usage_stats_enabled()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", ["work", "init", "denied", "denied at work"])
def test_what_the_user_must_put_right_comes_through(cluster: None, where: str) -> None:
    with pytest.raises(Exception) as raised:
        list(run_river(TASKS[:1], [Hands(stage=Emit), Hands(stage=Refuse, make={"where": where})]))
    wanted = "the bucket is shut; open it" if "denied" in where else "the bucket is gone; name another"
    assert str(users_fault(raised.value)) == wanted


@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", ["bug", "bug in init"])
def test_a_bug_is_named_in_a_line(cluster: None, where: str) -> None:
    with pytest.raises(Exception) as raised:
        list(run_river(TASKS[:1], [Hands(stage=Emit), Hands(stage=Refuse, make={"where": where})]))
    assert users_fault(raised.value) is None
    assert "ZeroDivisionError" in in_a_line(raised.value) or "division by zero" in in_a_line(raised.value)


class Place:
    """Places every image, after having died as often as its folder has not seen it die."""

    def __init__(self, folder: str, deaths: int) -> None:
        self.folder, self.deaths = Path(folder), deaths

    def __call__(self, table: pa.Table) -> pa.Table:
        for death in range(self.deaths):
            mark = self.folder / str(death)
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return located(table["image_id"].to_pylist(), table["uri"].to_pylist())


def job_of(folder: Path, deaths: int) -> Flow:
    for name in ("archive", "marks"):
        (folder / name).mkdir()
    for number in range(5):
        (folder / f"archive/{number}.jpg").write_bytes(b"bytes")
    place = Hands(stage=Place, make={"folder": str(folder / "marks"), "deaths": deaths})
    archive = ArchiveConfig(uri=str(folder / "archive"))
    return Flow(
        archive=archive, output=str(folder / "out"), store=StoreConfig(), method="geotoken", fingerprint="f", river=[place]
    )


@pytest.mark.timeout(240)
def test_a_pass_that_failed_is_followed_by_another(cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = flow(job_of(tmp_path, deaths=5))  # four attempts of the first pass die, the first of the second, then it goes
    assert (done["read"], done["placed"]) == (5, 5)
    assert "going on with what is left" in capsys.readouterr().out


@pytest.mark.timeout(240)
def test_passes_that_commit_nothing_end_in_one_line_and_keep_the_run(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images that all kill would be five rejections after four passes; of 128 six passes find a few."""
    monkeypatch.setattr(causes, "NARROWING_PASSES", 2)
    with pytest.raises(MachineError, match=r"2 passes in a row committed nothing") as raised:
        flow(job_of(tmp_path, deaths=10_000))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "out/runs/000001/plan.json").exists() and not (tmp_path / "out/runs/000001/done.json").exists()


class Keeps:
    """A member that remembers."""

    def __init__(self) -> None:
        self.told = 0

    def add(self) -> int:
        """One more."""
        self.told += 1
        return self.told


def test_a_service_that_is_started_again_by_its_owner_forgets_nothing(cluster: None) -> None:
    """It was ended by it: what Ray finds by a name keeps no actor alive. The second pass of a run knew of no deaths."""
    service = Service("keeps", Keeps, [{}])
    service.start()
    assert service.ask("add") == [1]
    for expected in (2, 3):
        service.start()
        time.sleep(1.0)  # an actor without a handle is ended some moments later
        assert service.ask("add") == [expected]
    service.stop()
