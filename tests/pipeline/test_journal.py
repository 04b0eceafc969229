"""A line a slice, whole and readable, in a file that nights share or on standard error."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from geobatch.actors import Hands
from geobatch.errors import UserError
from geobatch.pipeline.journal import Journal
from geobatch.sink import Run, Stamp, Write
from geobatch.store import Store, StoreConfig
from tests.sink.rows import located, piece


def run_at(folder: Path) -> Run:
    return Run(store=Store(), output=str(folder), id="000007", record={}, resumed=False)


def row_of(folder: Path, shard: int) -> dict[str, object]:
    """What Write really says of a slice of three images, one rejected."""
    write = Write(str(folder), Stamp(run="000007", method="geotoken", model="m"), StoreConfig())
    told: pa.Table = write(piece(shard, located([f"{shard}/a", f"{shard}/b", f"{shard}/ü"], dead={1})))
    (row,) = told.to_pylist()
    return row


def test_one_line_a_slice(tmp_path: Path) -> None:
    file = tmp_path / "night.log"
    for night in range(2):  # nights share the file
        journal = Journal(str(file))
        journal.begin(run_at(tmp_path), {"shards": 2, "images": 6, "files": ["long"]})
        journal.river([Hands(stage=Write, workers=2, cpus=0.5)])
        for shard in range(2):
            journal.slice(row_of(tmp_path / str(night), shard))
        assert journal.enough() is None
        assert journal.end({"read": 6}) == {}
        journal.close()
        journal.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "pass", "slice", "slice", "end"] * 2
    begin, river, first, _, end = lines[:5]
    assert (begin["shards"], begin["images"], begin["run"]) == (2, 6, "000007") and "files" not in begin
    assert river["stages"] == [{"stage": "Write", "workers": 2, "cpus": 0.5, "gpus": 0.0}]
    assert {name: first[name] for name in ("shard", "slice", "last", "read", "placed", "rejected", "reasons")} == {
        "shard": 0, "slice": 0, "last": True, "read": 3, "placed": 2, "rejected": 1, "reasons": {"broken": 1}
    }  # fmt: skip
    assert list(first["seconds"]) == ["Read", "Write"] and first["seconds"]["Read"] == 1.0
    (part,) = (tmp_path / "0/places").glob("*-00000000-*.parquet")
    assert first["written"] == part.stat().st_size and first["bytes"] == 9
    assert end["account"] == {"read": 6}


def test_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal("-")
    journal.begin(run_at(tmp_path), {})
    journal.slice(row_of(tmp_path, 3))
    journal.close()
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["begin", "slice"]


def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--log .*none/log cannot be written \(No such file or directory\); name another file"):
        Journal(str(tmp_path / "none/log"))


def test_a_night_is_worth_more_than_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal("/dev/full")  # a disk on which nothing has room
    journal.begin(run_at(tmp_path), {"shards": 1})
    for _ in range(3):
        journal.slice(row_of(tmp_path, 0))
    assert journal.enough() is None and journal.end({"read": 6}) == {}
    journal.close()
    said = [line for line in capsys.readouterr().out.splitlines() if "--log" in line]
    (line,) = said
    assert line.endswith("--log /dev/full cannot be written any more (No space left on device); the run goes on without a log")


def test_what_a_full_disk_left_of_a_line_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"event": "end"}\n{"event": "sl')
    for _ in range(2):
        journal = Journal(str(file))
        journal.begin(run_at(tmp_path), {})
        journal.close()
    assert file.read_text().splitlines()[1] == '{"event": "sl'
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()[2:]] == ["begin", "begin"]
    Journal("/dev/null").close()
