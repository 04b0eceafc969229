"""The health of a finished run: read from its own parts, once, and also after a driver that died before it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from geobatch.archive.plan import plan
from geobatch.pipeline import geolocate as main_job
from geobatch.pipeline.flow import Flow
from geobatch.pipeline.geolocate import JUDGED, GeolocateBucket, diagnose, geolocate
from geobatch.sink import Run, Stamp, Write, begin, latest, open_run
from geobatch.store import Store, StoreConfig
from tests.sink.rows import located, manifest, piece


class Counting(Store):
    """Remembers what was read in bulk."""

    def __init__(self) -> None:
        super().__init__(StoreConfig())
        self.got: list[str] = []

    def get_many(self, wanted: Iterable[str | tuple[str, str | None]]) -> Iterator[Any]:
        names = list(wanted)
        self.got += [str(name).rsplit("/", 1)[-1][:6] for name in names]
        return super().get_many(names)


def night(output: Path, names: list[str], fingerprint: str = "f", where: dict[str, Any] | None = None, **rows: Any) -> Run:
    """One finished run over some new images, each a shard; `where` says what stands in columns of all."""
    run, _ = open_run(Store(), str(output), method="geolocsft", fingerprint=fingerprint, archive={}, relocate=False)
    run = begin(run)
    plan = run.freeze([manifest([("object", [name]) for name in names])], {"listed": 9, "skipped": 0, "known": 0})
    write = Write(run.output, Stamp(run=run.id, method="geolocsft", model="f"), StoreConfig())
    for shard, name in enumerate(names):
        there = located([name], **rows)
        for axis, value in (where or {}).items():
            there = there.drop_columns([axis] if axis in there.column_names else []).append_column(axis, pa.array([value]))
        write(piece(shard, there))
    run.finish(plan)
    return run


def test_a_night_reads_its_own_parts_and_no_others(tmp_path: Path) -> None:
    night(tmp_path, ["a", "b", "c"])
    second = night(tmp_path, ["d", "e"], dead={0})
    store = Counting()
    found = diagnose(store, str(tmp_path), second.id)
    assert found is not None and found["rows"] == 2 and store.got == ["000002"] * 2
    assert json.loads((tmp_path / "runs/000002/health.json").read_text()) == found
    assert diagnose(store, str(tmp_path), second.id) is None and len(store.got) == 2, "it was looked for again"


def test_parts_of_records_that_name_no_run_are_told_by_their_rows(tmp_path: Path) -> None:
    night(tmp_path, ["a", "b", "c"])
    second = night(tmp_path, ["d", "e"])
    table = latest(Store(), str(tmp_path))
    assert table is not None and [part["run"] for part in table.parts] == ["000001"] * 3 + ["000002"] * 2
    for part in table.parts:
        del part["run"]
    (tmp_path / "table/2.json").write_text(json.dumps(table.record))
    store = Counting()
    found = diagnose(store, str(tmp_path), second.id)
    assert found is not None and found["rows"] == 2 and len(store.got) == 5


def test_a_call_that_finds_nothing_new_looks_after_a_run_whose_driver_died_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/scripted.json").write_text('{"replies": {}}')
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/a.jpg").write_bytes(b"read by nobody here")
    archive, output, model = (str(tmp_path / name) for name in ("archive", "out", "model"))
    config = GeolocateBucket(archive=archive, output=output, model=model, method="geolocsft")
    jobs: list[Flow] = []
    with monkeypatch.context() as patch:
        patch.setattr(main_job, "flow", lambda job: jobs.append(job) or {"new": False, "run": "none"})
        patch.setattr(main_job, "diagnose", lambda *_: None)
        geolocate(config)
    (planned,) = [each.table for each in plan(Store(), jobs[0].archive)]
    uri, etag = planned["uri"][0].as_py(), planned["etag"][0].as_py()
    night(tmp_path / "out", [uri], jobs[0].fingerprint, etag=etag)
    account = geolocate(config)
    assert account["new"] is False and account["health"]["rows"] == 1
    assert (tmp_path / "out/runs/000001/health.json").exists()
    assert "health" not in geolocate(config)


def test_a_run_that_looks_ill_says_so_and_keeps_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = night(tmp_path, [f"i{number}" for number in range(120)], where={"latitude": 48.8584, "longitude": 2.2945})
    diagnose(Store(), str(tmp_path), run.id)
    said = capsys.readouterr().out
    assert "warning: mode collapse: 120 different images" in said
    assert "drew 100.0 % of 120 different images" in said
    record = json.loads((tmp_path / f"runs/{run.id}/health.json").read_text())
    assert record["effective_places"] == 1 and len(record["ills"]) == 2


def test_what_a_judge_did_is_counted_from_its_run_alone(tmp_path: Path) -> None:
    night(tmp_path, ["a", "b"], where={"chosen_by": "judge"})
    second = night(tmp_path, ["c", "d", "e"], where={"chosen_by": "judge", "score": None})
    third = night(tmp_path, ["f"], where={"chosen_by": "expected_share", "fallback": "judge: refused"})
    found = diagnose(Store(), str(tmp_path), second.id, "judge", JUDGED)
    assert found == json.loads((tmp_path / "runs/000002/judge.json").read_text())
    assert found is not None and (found["placed"], found["asked"], found["changed"], found["agreed"]) == (3, 3, 3, 0)
    other = diagnose(Store(), str(tmp_path), third.id, "judge", JUDGED)
    assert other is not None and other["fell_back"] == {"refused": 1} and other["answered"] == 0
    assert diagnose(Store(), str(tmp_path), third.id, "judge", JUDGED) is None
