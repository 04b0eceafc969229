"""Small parts become few, and whoever reads meanwhile sees each row once."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import geopandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.errors import MachineError, UserError
from geobatch.pipeline.compact import Compact, compact_table
from geobatch.schema import PLACE
from geobatch.sink import begin, latest, read
from geobatch.sink import compact as compacting
from geobatch.sink import table as tables
from geobatch.sink.compact import clear, compact
from geobatch.sink.lease import Lease
from geobatch.store import Store
from tests.sink.nights import night
from tests.sink.rows import located, manifest, piece, spatial
from tests.sink.test_run import opened, whole_run, write

TARGET, DAY = 60_000, timedelta(hours=24)


def nights(output: Path, count: int = 3, shards: int = 6) -> None:
    """A table of many small parts, of which some rows are superseded."""
    for number in range(count):
        whole_run(output, [("object", [f"{number}-{n}-{m}" for m in range(3)]) for n in range(shards)], etag="e1")
    whole_run(output, [("object", ["0-0-1", "1-2-0", "1-2-1", "1-2-2"])], etag="e2")


def contents(output: Path) -> list[dict[str, Any]]:
    """The rows by name, without the version that they were written with."""
    rows = read(str(output)).sort_by("image_id").to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return rows


def parts(output: Path) -> set[str]:
    return {path.name for path in (output / "places").iterdir()}


def test_few_parts_hold_the_same_rows(tmp_path: Path) -> None:
    nights(tmp_path)
    before, old = contents(tmp_path), latest(Store(), str(tmp_path))
    assert old is not None
    made = compact(Store(), str(tmp_path), TARGET)
    table = latest(Store(), str(tmp_path))
    assert made is not None and table is not None
    assert made == {"table": old.version + 1, "before": len(old.parts), "after": len(table.parts), "dropped": 1}
    assert len(table.parts) < len(old.parts) / 4 and all("removed" not in part for part in table.parts)
    assert contents(tmp_path) == before and table.record["rows"] == len(before)
    assert {name: old.record[name] for name in ("run", "fingerprint", "method", "empty_sources")} == {
        name: table.record[name] for name in ("run", "fingerprint", "method", "empty_sources")
    }
    assert compact(Store(), str(tmp_path), TARGET) is None  # nothing is left to gain
    assert sorted(row["image_id"] for each in old.tables(Store()) for row in each.to_pylist()) == [
        row["image_id"] for row in before
    ]  # whoever had opened the old table goes on with it
    whole_run(tmp_path, [("object", ["0-0-0", "new"])], etag="e3")
    assert len(contents(tmp_path)) == len(before) + 1


def test_a_part_is_geoparquet_with_the_bounds_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(tmp_path)
    monkeypatch.setattr(compacting, "GROUP_ROWS", 10)
    compact(Store(), str(tmp_path), 1 << 30)
    table = latest(Store(), str(tmp_path))
    assert table is not None and len(table.parts) == 1
    data = (tmp_path / table.parts[0]["path"]).read_bytes()
    frame = geopandas.read_parquet(io.BytesIO(data))
    assert frame.crs.to_string() == "OGC:CRS84" and len(frame) == table.record["rows"]
    meta = json.loads(pq.read_metadata(io.BytesIO(data)).metadata[b"geo"])
    assert meta["columns"]["geometry"]["bbox"] == pytest.approx(list(frame.total_bounds))
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.metadata.num_row_groups > 4 and file.schema_arrow.remove_metadata().equals(PLACE)
    assert "run" not in table.parts[0] and table.of_run("000002").parts == table.parts
    query = "SELECT count(*), count(geometry), max(abs(ST_X(geometry) - longitude)), max(abs(ST_Y(geometry) - latitude)) FROM "
    told = spatial().execute(f"{query}'{tmp_path / table.parts[0]['path']}'").fetchone()
    assert told == (len(frame), int(frame.geometry.notna().sum()), 0.0, 0.0)


def test_large_parts_are_read_by_row_groups_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(tmp_path)
    monkeypatch.setattr(compacting, "GROUP_ROWS", 10)
    compact(Store(), str(tmp_path), 1 << 30)
    whole_run(tmp_path, [("object", ["0-0-0", "2-5-2"])], etag="e3")
    whole = contents(tmp_path)
    monkeypatch.setattr(tables, "LARGE", 1000)
    assert contents(tmp_path) == whole
    table = latest(Store(), str(tmp_path))
    assert table is not None
    for part in table.pieces(Store(), ["image_id"], {0}):
        stored = pq.read_table(tmp_path / table.parts[part.part]["path"], columns=["image_id"])["image_id"]
        assert stored.take(part.positions).to_pylist() == part.rows["image_id"].to_pylist()


def test_a_part_of_an_older_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    nights(tmp_path, 1)
    table = latest(Store(), str(tmp_path))
    assert table is not None
    path = tmp_path / table.parts[0]["path"]
    pq.write_table(pq.read_table(path).drop_columns(["reused_from", "text"]), path)
    assert read(str(tmp_path), ["image_id", "text"])["text"].null_count == table.record["rows"]
    with pytest.raises(UserError, match="no column colour"):
        read(str(tmp_path), ["colour"])
    compact(Store(), str(tmp_path), TARGET)
    assert read(str(tmp_path)).schema.remove_metadata().equals(PLACE)
    newer = latest(Store(), str(tmp_path))
    assert newer is not None
    path = tmp_path / newer.parts[0]["path"]
    pq.write_table(pq.read_table(path).append_column("colour", pa.nulls(newer.parts[0]["rows"], pa.string())), path)
    whole_run(tmp_path, [("object", ["x"])])
    with pytest.raises(UserError, match="newer geobatch, as colour"):
        compact(Store(), str(tmp_path), 1 << 30)


def test_many_superseded_rows_are_a_bitmap(tmp_path: Path) -> None:
    part = {"path": "p", "rows": 300_000}
    for positions in ([], [0], list(range(0, 300_000, 7)), list(range(300_000)), [299_999]):
        said = json.loads(json.dumps(tables.with_removed(part, positions)))
        assert tables.removed(said) == positions and tables.live_rows(said) == 300_000 - len(positions)
        assert len(json.dumps(said)) < 60_000
    assert tables.live_rows({"path": "p", "rows": 9, "removed": [1, 2]}) == 7  # as older versions wrote it


def test_what_nobody_reads_any_more_is_deleted_a_day_later(tmp_path: Path) -> None:
    nights(tmp_path)
    before = contents(tmp_path)
    compact(Store(), str(tmp_path), TARGET)
    assert clear(Store(), str(tmp_path), DAY) == compacting.Cleared(parts=0, lists=0, tables=0)
    for path in sorted((tmp_path / "table").iterdir()):  # as if all this had been the day before yesterday
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "written": record["written"].replace("20", "19", 1)}))
    whole_run(tmp_path, [("object", ["0-0-0"])], etag="e3")  # tonight: replaces the compacted table, which is kept for a day
    count = len(parts(tmp_path))
    gone = clear(Store(), str(tmp_path), DAY)
    assert gone.parts == 19 and gone.tables == 4 and len(parts(tmp_path)) == count - 19
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["5.json", "6.json"]
    assert len(contents(tmp_path)) == len(before)
    clear(Store(), str(tmp_path), timedelta(0))
    table = latest(Store(), str(tmp_path))
    assert table is not None and parts(tmp_path) == {part["path"].rsplit("/", 1)[-1] for part in table.parts}


def test_a_run_that_may_be_taken_up_keeps_what_it_wrote(tmp_path: Path) -> None:
    nights(tmp_path, 1)
    run = begin(opened(tmp_path))
    plan = run.freeze([manifest([("object", ["x"]), ("object", ["y"])])], {})
    write(run)(piece(0, located(["x"])))
    (tmp_path / "places/notes.txt").write_text("not ours")
    compact(Store(), str(tmp_path), TARGET)
    clear(Store(), str(tmp_path), timedelta(0))
    write(run)(piece(1, located(["y"])))
    assert run.finish(plan)["read"] == 2 and len(contents(tmp_path)) == 23
    assert "notes.txt" in parts(tmp_path)


class Dying(Store):
    """A store whose caller dies before, or just after, the n-th thing that it writes or deletes."""

    def __init__(self, steps: int, after: bool) -> None:
        super().__init__()
        self._steps, self._after = steps, after
        self.look: Callable[[], None] = lambda: None

    def _step(self, what: Callable[[], Any]) -> Any:
        self._steps -= 1
        if self._steps < 0 and not self._after:
            raise KeyboardInterrupt
        done = what()
        self.look()
        if self._steps < 0:
            raise KeyboardInterrupt
        return done

    def put(self, uri: str, data: bytes) -> None:
        self._step(lambda: super(Dying, self).put(uri, data))

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        return bool(self._step(lambda: super(Dying, self).put_if_absent(uri, data)))

    def delete(self, uris: Iterator[str]) -> None:
        for uri in list(uris):
            self._step(lambda uri=uri: super(Dying, self).delete([uri]))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_step_a_reader_sees_each_row_once(tmp_path: Path, after: bool) -> None:
    """Also a reader that opened the table before, as long as it reads within the day."""
    template = tmp_path / "template"
    nights(template, 2, 3)
    expected = contents(template)
    for steps in range(200):
        output = tmp_path / f"{steps}"
        shutil.copytree(template, output)
        opened_before = latest(Store(), str(output))
        assert opened_before is not None
        dying = Dying(steps, after)
        dying.look = lambda output=output: [] if contents(output) == expected else pytest.fail("rows differ")  # type: ignore[misc]
        survived = True
        try:
            compact(dying, str(output), TARGET)
            assert sum(map(len, opened_before.tables(Store(), ["image_id"]))) == len(expected)
            clear(dying, str(output), timedelta(0))
        except KeyboardInterrupt:
            survived = False
        assert contents(output) == expected
        compact(Store(), str(output), TARGET)
        clear(Store(), str(output), timedelta(0))
        assert contents(output) == expected
        table = latest(Store(), str(output))
        assert table is not None and parts(output) == {part["path"].rsplit("/", 1)[-1] for part in table.parts}
        shutil.rmtree(output)
        if survived:
            break
    assert 5 < steps < 199


def test_who_publishes_meanwhile_wins(tmp_path: Path) -> None:
    nights(tmp_path)
    version = latest(Store(), str(tmp_path)).version + 1  # type: ignore[union-attr]

    def meanwhile() -> None:
        (tmp_path / f"table/{version}.json").write_bytes((tmp_path / f"table/{version - 1}.json").read_bytes())

    with pytest.raises(MachineError, match="meanwhile"):
        compact(Store(), str(tmp_path), TARGET, check=meanwhile)
    assert len(contents(tmp_path)) == 54


def test_the_job_takes_the_lease_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no finished table"):
        compact_table(Compact(output=str(tmp_path)))
    (tmp_path / "archive").mkdir()
    for number in range(5):
        (tmp_path / f"archive/{number}.jpg").write_bytes(b"%d" % number)
    night(tmp_path / "archive", tmp_path / "out", shard_rows=1)
    with Lease(Store(), str(tmp_path / "out"), "a run", 0.2, 2.0), pytest.raises(UserError, match="being worked on"):
        compact_table(Compact(output=str(tmp_path / "out")))
    done = compact_table(Compact(output=str(tmp_path / "out"), keep_hours=0))
    assert done["compacted"]["before"] == 5 and done["compacted"]["after"] == 1 and done["cleared"]["parts"] == 5
    said = capsys.readouterr().out
    assert "5 parts became 1, 0 superseded rows" in said and "deleted 5 parts, 0 lists and 1 tables" in said
    for wrong in ({"target_mb": 0}, {"keep_hours": -1.0}):
        with pytest.raises(UserError, match="--"):
            Compact(output="x", **wrong)  # type: ignore[arg-type]
