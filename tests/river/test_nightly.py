"""A week of nights over one standing output, in one start of Ray; and the main job's own ends, by its exit status.

Stages are made for the purpose (`Work` takes a known time, and some images kill or stall it); all else is real.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from geobatch.actors import Hands, start
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.pipeline.canary import Cage, Canary
from geobatch.pipeline.deadline import Deadline
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.frozen import Wanted
from geobatch.pipeline.limits import Rejections
from geobatch.pipeline.watch import Onlooker
from geobatch.schema import FATE, IMAGE
from geobatch.sink import Run, read
from geobatch.stage import Stage
from geobatch.store import Store, StoreConfig
from tests.river.conftest import Tiny
from tests.river.job import run_job, said
from tests.sink.rows import located

ROWS = 4


class Work(Stage):
    """Places every image after a known time; dies of some, stalls on others."""

    drops = ("bytes",)
    adds = tuple(field for field in located(["x"]).schema if field.name not in {*IMAGE.names, *(each.name for each in FATE)})

    def __init__(self, seconds: float = 0.0, north: float = 0.0) -> None:
        self.seconds, self.north = seconds, north

    def work(self, table: pa.Table) -> pa.Table:
        names = [Path(uri).stem for uri in table["uri"].to_pylist()]
        if any(name.startswith("kill") for name in names):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(name.startswith("stall") for name in names):
            time.sleep(600)
        time.sleep(self.seconds)
        made = located(names)
        for field in self.adds:
            values = made[field.name]
            if field.name in ("latitude", "longitude"):  # canaries are named by their places
                values = pa.array(
                    [self._at(name, field.name, old) for name, old in zip(names, values.to_pylist(), strict=True)]
                )
            table = table.append_column(field, values.cast(field.type))
        return table

    def _at(self, name: str, axis: str, old: float) -> float:
        if not name.startswith("canary"):
            return old
        return int(name[6:]) + (self.north if axis == "latitude" else 0.0)


class Stop(Onlooker):
    """Has enough when it is told, or once so many slices are there; keeps the moments."""

    def __init__(self, slices: int | None = None) -> None:
        self.slices, self.seen, self.told = slices, 0, threading.Event()
        self.began, self.asked, self.closed = threading.Event(), 0.0, 0.0
        self.late: list[float] = []
        self.ledgers: list[Any] = []

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        self.run = run.id

    def river(self, hands: list[Hands]) -> None:
        """The driver owns the ledger of deaths before any actor could ask for it."""
        self.ledgers.append(ray.get_actor(f"ledger-{self.run}-0"))

    def slice(self, row: dict[str, Any]) -> None:
        self.seen += 1
        self.began.set()
        if self.asked:
            self.late.append(time.monotonic() - self.asked)

    def enough(self) -> str | None:
        if not self.told.is_set() and (self.slices is None or self.seen < self.slices):
            return None
        self.asked = self.asked or time.monotonic()
        return "deadline: told"

    def close(self) -> None:
        self.closed = time.monotonic()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start([Hands(stage=Work, workers=2)] * 3)
    yield
    ray.shutdown()


class Week:
    """A folder of images that grows, and its standing output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "archive").mkdir()

    def add(self, *names: str) -> None:
        for name in names:
            (self.folder / f"archive/{name}.jpg").write_bytes(name.encode())

    def night(self, *watches: Onlooker, seconds: float = 0.0, deadline: float = 600.0, **more: Any) -> dict[str, Any]:
        north = more.pop("north", 0.0)
        work = Hands(stage=Work, make={"seconds": seconds, "north": north}, workers=2, deadline=deadline)
        archive = ArchiveConfig(uri=str(self.folder / "archive"), shard_rows=ROWS)
        return flow(
            Flow(
                archive=archive,
                output=str(self.folder / "out"),
                store=StoreConfig(),
                method="geotoken",
                fingerprint="f",
                river=[work],
                watches=watches,
                wanted=Wanted(),
                **more,
            )
        )

    def rows(self) -> dict[str, dict[str, Any]]:
        rows = read(str(self.folder / "out")).to_pylist()
        found = {Path(row["uri"]).stem: row for row in rows}
        assert len(found) == len(rows)
        return found


def _thursday(week: Week) -> None:
    """One image kills its stage's process, one stalls it; each becomes one rejection, however many passes that takes."""
    week.add("a0", "a1", "kill", "z0", "b0", "stall", "z1", "z2")
    done = week.night(deadline=6.0)
    rows = week.rows()
    assert (done["read"], done["placed"], done["reasons"]) == (8, 6, {"crashed": 1, "timeout": 1})
    assert (rows["kill"]["stage"], rows["kill"]["reason"]) == ("work", "crashed") and "on it alone" in rows["kill"]["detail"]
    assert rows["stall"]["reason"] == "timeout" and "6 s for a slice" in rows["stall"]["detail"]


@pytest.mark.timeout(600)
def test_images_that_kill_or_stall_become_rejections(cluster: None, tmp_path: Path) -> None:
    _thursday(Week(tmp_path))


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_week(cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    week = Week(tmp_path)
    everything = [f"i{number:03d}" for number in range(40 * ROWS)]
    week.add(*everything)

    # Monday: a second run comes while the first works, is told who does, and then the first is told to end.
    monday, refused = Stop(), []
    second = threading.Thread(target=lambda: refused.append(_refused(week, monday)))
    second.start()
    done = week.night(monday, seconds=1.0)
    second.join()
    assert f"being worked on by process {os.getpid()}" in refused[0], refused
    assert len(monday.ledgers) == 1
    assert done["ended"] == "deadline: told" and done["unfinished"] > 0 and done["read"] == len(week.rows()) >= ROWS
    # Slices under way, at most two that wait for an actor each, took their second; what was only read was dropped.
    assert len(monday.late) <= 6 and max(monday.late, default=0.0) < 15.0, monday.late
    print(
        f"after its end was asked for: {len(monday.late)} slices of 1 s, the last after {max(monday.late, default=0.0):.1f} s"
    )

    # Tuesday: the deadline is past while the archive is listed; nothing is begun, the table stands as it was.
    before = week.rows()
    done = week.night(Deadline(datetime.now(UTC) - timedelta(seconds=1)))
    assert str(done["ended"]).startswith("deadline") and "read" not in done and week.rows() == before

    # Wednesday: what was left is found new, what was done is known.
    done = week.night()
    assert done["ended"] is None and done["known"] == len(before)
    assert sorted(week.rows()) == everything and all(week.rows()[name] == row for name, row in before.items())
    assert week.night()["new"] is False

    _thursday(week)
    _friday(week, capsys)


def _refused(week: Week, first: Stop) -> str:
    """What a run is told that comes while another works; the other is ended after."""
    assert first.began.wait(240)
    try:
        week.night()
    except UserError as error:
        return str(error)
    finally:
        first.told.set()
    return "it was let in"


def _friday(week: Week, capsys: pytest.CaptureFixture[str]) -> None:
    """Canaries fly: the first night makes the record, on the next the model is off by five degrees, and the run is stopped."""
    folder = week.folder / "canary"
    folder.mkdir()
    for number in range(8):
        (folder / f"canary{number}.jpg").write_bytes(b"canary%d" % number)
    truth = "".join(f"canary{number}.jpg,{number},{number}\n" for number in range(8))
    (week.folder / "truth.csv").write_text("image_id,latitude,longitude\n" + truth)
    archive = ArchiveConfig(uri=str(folder), shard_rows=ROWS)
    cage = Cage(archive=archive, truth=str(week.folder / "truth.csv"), model=None, fingerprint="f", stop=True)
    week.add(*(f"friday{number}" for number in range(8)))
    done = week.night(canary=Canary(cage, Store(), Store(), Store()), north=0.01)
    assert done["read"] == 8 and done["canary"]["worse"] is False and done["ended"] is None
    assert not any(name.startswith("canary") for name in week.rows())
    # Saturday.
    saturday = [f"saturday{number:03d}" for number in range(25 * ROWS)]
    week.add(*saturday)
    done = week.night(canary=Canary(cage, Store(), Store(), Store()), north=5.0, seconds=0.5)
    assert done["canary"]["worse"] and str(done["ended"]).startswith("canary: 8 images") and done["unfinished"] > 5
    assert "warning: the canary is worse" in capsys.readouterr().out
    # Sunday: all that was left, with a share of rejections that stays within what is allowed.
    done = week.night(Rejections(0.5))
    assert done["ended"] is None and {*saturday} <= week.rows().keys()


@pytest.mark.timeout(400)
def test_the_job_says_how_the_night_ended(tiny: Tiny, tmp_path: Path) -> None:
    """Broken images beyond --max-rejected, a canary beside them, and a budget that is spent before it begins."""
    archive = tmp_path / "archive"
    archive.mkdir()
    loose = sorted((tiny.archive / "loose").glob("*.jpg"))[:20]
    for path in loose[:8]:
        (archive / path.name).write_bytes(path.read_bytes())
    (archive / "broken.jpg").write_bytes(b"no image")
    canary = tmp_path / "canary"
    canary.mkdir()
    for path in loose[8:]:
        (canary / path.name).write_bytes(path.read_bytes())
    places = "".join(f"{path.name},{number},{number}\n" for number, path in enumerate(loose[8:]))
    (tmp_path / "truth.csv").write_text("image_id,latitude,longitude\n" + places)
    (tmp_path / "prices.json").write_text(json.dumps({"hours": {"this machine": 3600.0}}))
    output = tmp_path / "out"
    given = ["--archive", str(archive), "--output", str(output), "--model", str(tiny.model)]
    for wrong, why in (
        (["--deadline", "2020-01-01T00:00"], "is past"),
        (["--canary", str(canary)], "give both"),
        (["--max-cost", "1"], "--prices"),
        (["--retry-rejected", "brokn"], "there are missing"),
    ):
        ended = said(*given, *wrong)
        assert ended.status == 2 and why in ended.output and ended.output.count("error:") == 1, ended.output
    ended = said(*given, "--prices", str(tmp_path / "prices.json"), "--max-cost", "1e-9")
    assert ended.status == 4 and "0 images are done, 1 of 1 shards are left; the same command" in ended.output, ended.output
    flags = ["--canary", str(canary), "--canary-truth", str(tmp_path / "truth.csv"), "--max-rejected", "0.1"]
    job = run_job(*given, *flags)
    assert job.status == 3 and "11.1% of 9 images were rejected, more than --max-rejected 0.1 (not_an_image 1)" in job.output
    assert "Traceback" not in job.output, job.output
    table = read(str(output))
    assert len(table) == 9 and not any("/canary/" in uri for uri in table["uri"].to_pylist())
    found = json.loads((output / "runs/000002/canary.json").read_text())
    assert len(found["images"]) == 12 and found["ratio"] is None and (output / "canary").is_dir()
    assert json.loads((output / "runs/000002/done.json").read_text())["canary"]["compared"] == 0
    assert Run(store=Store(), output=str(output), id="000001", record={}, resumed=False).committed() == []
