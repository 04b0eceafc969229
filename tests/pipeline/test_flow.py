"""What a run does between its passes and around one, as far as it needs no cluster."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.gate import Gate
from geobatch.errors import UserError
from geobatch.pipeline import flow as flowing
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.frozen import Wanted
from geobatch.pipeline.journal import Journal
from geobatch.pipeline.watch import Onlooker, Watching
from geobatch.progress import Progress
from geobatch.service import Service
from geobatch.sink import Run, Stamp, Write, read
from geobatch.sink.lease import Lease
from geobatch.stage import Stage
from geobatch.store import Store, StoreConfig
from tests.conftest import S3Server
from tests.sink.rows import located, piece
from tests.store.proxy import FaultyProxy


class Raises(Onlooker):
    def enough(self) -> str | None:
        raise UserError("the price of a machine is not known; name it")


def test_what_a_watch_raised_is_what_ends_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is broken off by force, and all that Ray says is that actors died."""
    broken_off = threading.Event()

    def river(
        tasks: list[pa.Table], hands: list[Hands], cut: Callable[[Callable[[bool], None]], None], **_: Any
    ) -> Iterator[pa.Table]:
        cut(lambda force: broken_off.set())
        assert broken_off.wait(20)
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(flowing, "run_river", river)
    hands = [Hands(stage=Stage, make={"gate": Service("gate", Gate, [{}])})]
    with (
        Lease(Store(), str(tmp_path)) as lease,
        Progress("located") as progress,
        pytest.raises(UserError, match="price of a machine"),
    ):
        flowing._pass([], hands, [], lease, Watching([Raises()]), progress)


def test_the_journals_last_line_tells_what_the_canary_found(tmp_path: Path) -> None:
    class Found(Onlooker):
        def end(self, account: dict[str, Any]) -> dict[str, Any]:
            return {"canary": {"worse": False}}

    journal = Journal(str(tmp_path / "log"))
    canary: Any = Found()
    job = Flow(
        archive=ArchiveConfig(uri="a"), output="o", store=StoreConfig(), method="geotoken", fingerprint="f", river=[],
        watches=(journal,), canary=canary,
    )  # fmt: skip
    watching = Watching(job.looking_on)
    watching.begin(Run(store=Store(), output=str(tmp_path), id="000001", record={}, resumed=False), {})
    watching.end({"read": 0})
    watching.close()
    *_, last = (tmp_path / "log").read_text().splitlines()
    assert json.loads(last)["account"] == {"read": 0, "canary": {"worse": False}}


class Nights:
    """A folder of six shards and its output; Write is real, and what is between the plan and it is `located`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "archive").mkdir()
        for number in range(6):
            (folder / f"archive/{number}.jpg").write_bytes(b"%d" % number)

    def night(self, shards: int, ended: str | None = None, fingerprint: str = "f", **more: Any) -> dict[str, Any]:
        """Commits so many shards, and ends for this reason."""

        def work(run: Run, frozen: dict[str, Any], job: Flow, *_: Any) -> str | None:
            write = Write(run.output, Stamp(run=run.id, method="geotoken", model=fingerprint), StoreConfig())
            for task in list(run.remaining(frozen))[:shards]:
                row = task.to_pylist()[0]
                plan = pq.ParquetFile(row["plan"]).read_row_group(row["group"])
                rows = located(plan["image_id"].to_pylist(), plan["uri"].to_pylist())
                rows = rows.set_column(rows.column_names.index("etag"), rows.schema.field("etag"), plan["etag"])
                write(piece(row["shard"], rows))
            return ended

        self.monkeypatch.setattr(flowing, "_work", work)
        output = str(self.folder / "out")
        job = Flow(
            archive=ArchiveConfig(uri=str(self.folder / "archive"), shard_rows=1), output=output, store=StoreConfig(),
            method="geotoken", fingerprint=fingerprint, river=[], wanted=Wanted(everything=more.pop("all", False)), **more,
        )  # fmt: skip
        with Lease(Store(), output) as lease:
            return flowing._held(job, Store(), lease)

    def made_by(self) -> list[str]:
        """Which model made the table's rows."""
        return sorted(read(str(self.folder / "out"))["model"].to_pylist())


def test_a_run_over_everything_goes_on_night_by_night_and_replaces_the_table_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nights = Nights(tmp_path, monkeypatch)
    assert nights.night(6)["table"] == 1
    for again in ({"all": True}, {"relocate": True, "fingerprint": "g"}):
        before, model = nights.made_by(), again.get("fingerprint", "f")
        first = nights.night(2, "deadline: 06:30 has come", **again)
        assert (first["left"], first["read"], first["unfinished"], first["ended"]) == ("open", 2, 4, "deadline: 06:30 has come")
        second = nights.night(3, "cost: 3 USD", **again)
        assert (second["run"], second["resumed"], second["read"], second["left"]) == (first["run"], True, 5, "open")
        assert nights.made_by() == before
        if again.get("all"):
            assert nights.night(3, "price: nobody knows", **again)["left"] == "open"
        third = nights.night(6, **again)
        assert (third["run"], third["read"], third["ended"]) == (first["run"], 6, None) and "left" not in third
        assert third["table"] == first["table"] + 1 and nights.made_by() == [model] * 6
    # Given once more, --relocate begins nothing anew: the table is the model's already.
    capsys.readouterr()
    assert nights.night(6, relocate=True, fingerprint="g")["new"] is False
    assert "what it holds is kept; --all does everything again" in capsys.readouterr().out
    # And a night over what is new is finished early, as ever.
    for number in range(6, 9):
        (tmp_path / f"archive/{number}.jpg").write_bytes(b"%d" % number)
    new = nights.night(2, "deadline: x", relocate=True, fingerprint="g")
    assert "left" not in new and new["read"] == 2 and len(nights.made_by()) == 8
    assert nights.night(6, relocate=True, fingerprint="g")["read"] == 1 and len(nights.made_by()) == 9


def test_what_something_is_wrong_with_takes_no_tables_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path, monkeypatch)
    nights.night(6)
    bad = nights.night(3, "canary: it is worse", fingerprint="g", relocate=True)
    assert (bad["left"], bad["table"]) == ("abandoned", 1) and nights.made_by() == ["f"] * 6
    good = nights.night(6, fingerprint="g", relocate=True)
    assert good["run"] > bad["run"] and not good["resumed"] and good["read"] == 6 and nights.made_by() == ["g"] * 6


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (501, "NotImplemented")])
def test_a_store_without_conditional_writes_is_refused_before_the_lease(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path, status: int, code: str
) -> None:
    """The lease is such a write: of a store that says 412 to all of them it was asked for ever, 501 was a machine's fault."""
    (tmp_path / "1.jpg").write_bytes(b"1")
    proxy.check = lambda request: (status, code) if request.headers.get("If-None-Match") else None
    job = Flow(
        archive=ArchiveConfig(uri=str(tmp_path)), output=f"s3://{s3.bucket()}/out", store=s3.config(endpoint=proxy.endpoint),
        method="geotoken", fingerprint="f", river=[],
    )  # fmt: skip
    with pytest.raises(UserError, match=r"does not honour conditional writes; .*: use another store"):
        flow(job)
