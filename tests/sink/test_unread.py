"""What could not be read takes no place of the same bytes away."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.pipeline.frozen import Wanted
from tests.sink.nights import latitude_of, night, rows_of, tar_of
from tests.sink.test_held import archive, zip_of

__all__ = ["archive"]

BROKEN = Wanted(retry=frozenset({"broken"}))


def reasons(out: Path) -> dict[str, str | None]:
    return {name: row["reason"] for name, row in sorted(rows_of(out).items())}


@pytest.mark.parametrize("readable", [0, 1024, 2048])
def test_what_is_refused_when_it_is_read_again_takes_no_place_away(archive: Path, tmp_path: Path, readable: int) -> None:
    """Wholly, or behind the first member of a tar, or behind the second, whose rejection is a new one."""
    out = tmp_path / "out"
    night(archive, out)
    before = rows_of(out)
    done, _ = night(archive, out, BROKEN, refused={"t.tar": readable, "c.jpg": 0})
    assert done is not None and done["reasons"]["unreadable"] == 2
    assert reasons(out) == {
        "a.jpg": None, "b.jpg": None, "c.jpg": "unreadable", "t.tar": "unreadable",
        "t.tar#1.jpg": None, "t.tar#2.jpg": "broken", "t.tar#3.jpg": None,
    }  # fmt: skip
    for name, row in rows_of(out).items():
        assert row["latitude"] == (None if name == "t.tar" else before[name]["latitude"])
    assert night(archive, out) == (None, [])  # as of every other rejection, nobody asks again by himself
    assert night(archive, out, Wanted(retry=frozenset({"unreadable"})))[0] is not None
    assert reasons(out) == {name: row["reason"] for name, row in before.items()}


def test_a_tar_that_the_deadline_cut_waits_until_it_can_be_read(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out, shard_rows=1)
    (archive / "t.tar").write_bytes(tar_of({"1.jpg": b"one", "2.jpg": b"two", "4.jpg": b"four"}))
    done, _ = night(archive, out, stop_after=1, shard_rows=1)
    assert done is not None and done["ended"] and len(rows_of(out)) == 6
    for _ in range(2):
        done, seen = night(archive, out, refused={"t.tar": 0})
        assert done is not None and (done["read"], seen) == (1, [])
        assert reasons(out)["t.tar"] == "unreadable" and rows_of(out)["t.tar#3.jpg"]["latitude"] == latitude_of(b"3")
    night(archive, out)
    assert [name for name in reasons(out) if name.startswith("t")] == ["t.tar#1.jpg", "t.tar#2.jpg", "t.tar#4.jpg"]
    assert night(archive, out) == (None, [])


def test_members_of_a_zip_and_rows_of_a_parquet_file_that_are_refused_keep_their_places(tmp_path: Path) -> None:
    folder, out = tmp_path / "archive", tmp_path / "out"
    folder.mkdir()
    (folder / "z.zip").write_bytes(zip_of({"1.jpg": b"Z1", "2.jpg": b"bad Z2", "3.jpg": b"Z3"}))
    pq.write_table(pa.table({"image": [b"P0", b"bad P1", b"P2"]}), folder / "p.parquet")
    (folder / "a.jpg").write_bytes(b"A")
    night(folder, out)
    places = {name: row["latitude"] for name, row in rows_of(out).items()}
    done, _ = night(folder, out, BROKEN, refused={"z.zip": 0, "p.parquet": 0})
    assert done is not None and (done["read"], done["reasons"]) == (4, {"unreadable": 4})
    rows = rows_of(out)
    assert {name: row["latitude"] for name, row in rows.items()} == {**places, "p.parquet": None}
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == {
        "p.parquet": "unreadable", "p.parquet#row=1": "broken", "z.zip#2.jpg": "unreadable"
    }  # fmt: skip
    night(folder, out, Wanted(everything=True), refused={"a.jpg": 0})
    assert {name: row["latitude"] for name, row in rows_of(out).items()} == places
    (folder / "a.jpg").write_bytes(b"other bytes")
    night(folder, out, refused={"a.jpg": 0})  # of these nothing is known
    assert reasons(out)["a.jpg"] == "unreadable" and rows_of(out)["a.jpg"]["latitude"] is None
