"""Bytes that have a place already keep it."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from geobatch.pipeline.frozen import Wanted
from geobatch.schema import PLACE
from geobatch.sink import compact as compacting
from geobatch.sink import latest, read
from geobatch.sink import table as tables
from geobatch.sink.compact import clear, compact
from geobatch.store import Store
from tests.sink.nights import latitude_of, night, rows_of, tar_of


def archive_of(folder: Path, images: dict[str, bytes]) -> Path:
    """Loose images."""
    folder.mkdir(exist_ok=True)
    for name, content in images.items():
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def test_copies_have_their_originals_place_and_their_own_name(tmp_path: Path) -> None:
    archive, out = archive_of(tmp_path / "archive", {"a": b"A", "b": b"B", "c": b"bad C"}), tmp_path / "out"
    night(archive, out)
    archive_of(archive, {"copy": b"A", "new": b"N", "bad": b"bad C", "twin1": b"T", "twin2": b"T"})
    (archive / "t.tar").write_bytes(tar_of({"in.jpg": b"B"}))
    done, seen = night(archive, out)
    assert done is not None and (done["read"], done["placed"], done["rejected"], done["reused"]) == (6, 5, 1, 2)
    # A rejected row is tried again, and of twins within one run both are computed.
    assert sorted(name.rpartition("/")[2] for name in seen) == ["bad.jpg", "new.jpg", "twin1.jpg", "twin2.jpg"]
    rows = rows_of(out)
    for name, of in (("copy.jpg", "a.jpg"), ("t.tar#in.jpg", "b.jpg")):
        same = [field for field in PLACE.names if field not in ("image_id", "uri", "etag", "run", "reused_from")]
        assert {field: rows[name][field] for field in same} == {field: rows[of][field] for field in same}
        assert rows[name]["reused_from"] == rows[of]["image_id"] and rows[name]["run"] == "000002"
    assert {name for name, row in rows.items() if row["reused_from"]} == {"copy.jpg", "t.tar#in.jpg"}
    assert read(str(out)).schema.remove_metadata().equals(PLACE)
    archive_of(archive, {"copy of the copy": b"A"})
    (archive / "a.jpg").unlink()
    night(archive, out)
    again = rows_of(out)["copy of the copy.jpg"]
    assert str(again["reused_from"]).endswith("/a.jpg")  # whose prediction it is, gone or not
    assert again["latitude"] == latitude_of(b"A")


def test_what_was_located_itself_is_nobody_elses_when_it_is_read_again(tmp_path: Path) -> None:
    archive, out = archive_of(tmp_path / "archive", {"a": b"A"}), tmp_path / "out"
    members = {"copy.jpg": b"A", "1.jpg": b"1", "bad.jpg": b"bad"}
    night(archive, out)
    (archive / "t.tar").write_bytes(tar_of(members))
    night(archive, out)
    done, seen = night(archive, out, Wanted(retry=frozenset({"broken"})))
    assert done is not None and (done["read"], done["reused"], len(seen)) == (3, 2, 1)
    rows = rows_of(out)
    assert rows["t.tar#1.jpg"]["reused_from"] is None and rows["t.tar#1.jpg"]["run"] == "000003"
    assert rows["t.tar#copy.jpg"]["reused_from"] == rows["a.jpg"]["image_id"]


def test_a_slice_of_copies_alone_and_the_order_of_rows(tmp_path: Path) -> None:
    images = {f"{n:02}": b"%d" % n for n in range(12)}
    archive, out = archive_of(tmp_path / "archive", images), tmp_path / "out"
    night(archive, out, shard_rows=5)
    archive_of(archive, {f"x{n:02}": b"%d" % (11 - n) for n in range(12)} | {"x05b": b"between"})
    done, seen = night(archive, out, shard_rows=4)
    assert done is not None and done["reused"] == 12 and len(seen) == 1
    table = latest(Store(), str(out))
    assert table is not None
    fresh = [row for part in table.of_run("000002").tables(Store()) for row in part.to_pylist()]
    assert [row["image_id"][-8:] for row in fresh] == [f"/x{n:02}.jpg" for n in range(6)] + ["x05b.jpg"] + [
        f"/x{n:02}.jpg" for n in range(6, 12)
    ]


def test_rows_are_found_in_compacted_parts_and_past_superseded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, out = archive_of(tmp_path / "archive", {f"{n:02}": b"%d" % n for n in range(20)}), tmp_path / "out"
    night(archive, out, shard_rows=7)
    monkeypatch.setattr(compacting, "GROUP_ROWS", 6)
    compact(Store(), str(out), 1 << 30)
    archive_of(archive, {"03": b"changed"})
    night(archive, out)
    monkeypatch.setattr(tables, "LARGE", 100)  # from here on every part is read by row groups
    monkeypatch.setattr("geobatch.sink.reuse.LARGE", 100)
    archive_of(archive, {"y": b"19", "z": b"4", "was": b"3", "is": b"changed"})
    done, seen = night(archive, out)
    assert done is not None and done["reused"] == 3
    assert [name.rpartition("/")[2] for name in seen] == ["was.jpg"]  # its row is superseded: it is no row any more
    assert rows_of(out)["z.jpg"]["latitude"] == latitude_of(b"4")


@pytest.mark.parametrize("lost", ["parts", "table"])
def test_a_run_taken_up_after_its_table_was_cleared_away_computes(
    tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out = archive_of(tmp_path / "archive", {"a": b"A", "b": b"B"}), tmp_path / "out"
    night(archive, out, shard_rows=1)
    archive_of(archive, {"copy": b"A"})

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("geobatch.sink.record.Run.remaining", dies)
        night(archive, out)
    compact(Store(), str(out), 1 << 30)
    if lost == "table":
        clear(Store(), str(out), timedelta(0))
    else:
        for path in (out / "places").glob("000001-*"):
            path.unlink()
    done, seen = night(archive, out)
    assert done is not None and (done["run"], done["reused"], len(seen)) == ("000002", 0, 1)
    assert rows_of(out)["copy.jpg"]["latitude"] == latitude_of(b"A")


def test_off_where_everything_is_done_again_or_nothing_is_standing(tmp_path: Path) -> None:
    archive, out = archive_of(tmp_path / "archive", {"a": b"A"}), tmp_path / "out"
    night(archive, out)
    archive_of(archive, {"copy": b"A"})
    done, seen = night(archive, out, Wanted(everything=True))
    assert done is not None and done["reused"] == 0 and len(seen) == 2
    assert not (out / "runs/000002/reuse").exists()
    shutil.rmtree(out)
    done, _ = night(archive, out)
    assert done is not None and done["reused"] == 0
