"""One night after the other over an archive that changes: what is new, known, tried again, gone and back."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.errors import REASONS, UserError
from geobatch.pipeline.frozen import Wanted
from geobatch.sink import begin, latest, open_run, read
from geobatch.store import Store, Unreadable
from tests.conftest import S3Server
from tests.sink.nights import latitude_of, night, rows_of, tar_of
from tests.store.proxy import FaultyProxy


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three loose images, one of them bad, and a tar of three, one of them bad."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for name, content in {"a": b"A", "b": b"B", "c": b"bad C"}.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "t.tar").write_bytes(tar_of({"1.jpg": b"1", "2.jpg": b"bad 2", "3.jpg": b"3"}))
    return folder


def test_an_unchanged_archive_needs_nothing(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, seen = night(archive, out)
    assert done is not None and (done["read"], done["rejected"], len(seen)) == (6, 2, 6)
    assert night(archive, out) == (None, [])
    assert not (out / "runs/000002").exists() and not (out / "deleted").exists()
    assert {row["deleted"] for row in rows_of(out).values()} == {None}


def test_what_is_gone_is_marked_and_what_returns_is_not(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    (archive / "a.jpg").unlink()
    tar = (archive / "t.tar").read_bytes()
    stat = (archive / "t.tar").stat()
    (archive / "t.tar").unlink()
    done, seen = night(archive, out)
    assert done is not None and (done["vanished"], done["returned"], done["read"], seen) == (2, 0, 0, [])
    first = rows_of(out)
    assert {name for name, row in first.items() if row["deleted"]} == {"a.jpg", "t.tar#1.jpg", "t.tar#2.jpg", "t.tar#3.jpg"}
    left = read(str(out), ["image_id"], deleted="leave out")
    assert sorted(name.rpartition("/")[2] for name in left["image_id"].to_pylist()) == ["b.jpg", "c.jpg"]
    assert len(read(str(out))) == 6 and "deleted" not in read(str(out)).column_names
    assert night(archive, out) == (None, [])  # marked already: nothing new, and the time stays
    (archive / "t.tar").write_bytes(tar)

    os.utime(archive / "t.tar", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (archive / "b.jpg").unlink()
    done, seen = night(archive, out)
    assert done is not None and (done["vanished"], done["returned"], seen) == (1, 1, [])  # its bytes are known
    second = rows_of(out)
    assert {name for name, row in second.items() if row["deleted"]} == {"a.jpg", "b.jpg"}
    assert second["a.jpg"]["deleted"] == first["a.jpg"]["deleted"]
    (archive / "a.jpg").write_bytes(b"another A")
    done, seen = night(archive, out)
    assert done is not None and done["returned"] == 1 and len(seen) == 1
    assert rows_of(out)["a.jpg"]["latitude"] == latitude_of(b"another A") and rows_of(out)["a.jpg"]["deleted"] is None


def test_an_archive_that_lost_everything_is_asked_about(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    for path in archive.iterdir():
        path.unlink()
    for other in (None, "new.jpg", "notes.txt"):  # nothing there, or nothing that the table knows
        if other:
            (archive / other).write_bytes(b"N")
        with pytest.raises(UserError, match=r"of the 4 objects .* not one is there .*--archive-emptied.*") as error:
            night(archive, out)
        assert "\n" not in str(error.value)
        (archive / (other or "new.jpg")).unlink(missing_ok=True)
    assert latest(Store(), str(out)).version == 1  # type: ignore[union-attr]
    done, _ = night(archive, out, Wanted(emptied=True))
    assert done is not None and done["vanished"] == 4
    assert all(row["deleted"] for row in rows_of(out).values())
    assert night(archive, out) == (None, [])  # the next night needs no flag


def test_a_listing_that_fails_half_way_marks_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    night(archive, out)
    (archive / "a.jpg").unlink()
    real = Store.objects

    def fails(self: Store, prefix: str):  # type: ignore[no-untyped-def]
        for page in real(self, prefix):
            yield page
            if prefix.rstrip("/").endswith(str(archive)):
                raise Unreadable("the listing broke off")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "objects", fails)
        with pytest.raises(Unreadable):
            night(archive, out)
    assert not (out / "deleted").exists() and not any(row["deleted"] for row in rows_of(out).values())


def test_rows_of_another_archive_are_not_judged_nor_what_globs_leave_out(archive: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "archive2"
    other.mkdir()
    (other / "z.jpg").write_bytes(b"Z")
    night(archive, out)
    done, _ = night(other, out)
    assert done is not None and (done["read"], done["vanished"]) == (1, 0)
    assert night(archive, out, exclude=("*.tar", "a*")) == (None, [])
    (archive / "a.jpg").unlink()
    night(archive, out)
    (other / "y.jpg").write_bytes(b"Y")
    night(other, out)  # what is marked of the first archive stays so
    assert {name for name, row in rows_of(out).items() if row["deleted"]} == {"a.jpg"}


def test_a_manifest_marks_what_it_names_and_the_store_lacks(archive: Path, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", tmp_path / "listed.csv"
    listed.write_text(f"uri\n{archive}/a.jpg\n{archive}/b.jpg\n{archive}/none.jpg\n")
    done, _ = night(listed, out)
    assert done is not None and done["reasons"] == {"missing": 1}
    done, _ = night(listed, out)
    assert done is not None and (done["vanished"], done["read"]) == (1, 0)  # nobody asks for it every night
    (archive / "a.jpg").unlink()
    listed.write_text(f"uri\n{archive}/a.jpg\n{archive}/none.jpg\n")
    done, seen = night(listed, out, Wanted(emptied=True, retry=frozenset(REASONS)))
    assert done is not None and (done["vanished"], done["read"], seen) == (1, 0, [])
    rows = rows_of(out)
    assert rows["a.jpg"]["latitude"] == latitude_of(b"A") and rows["a.jpg"]["deleted"]  # gone, and not forgotten
    assert not rows["b.jpg"]["deleted"]  # named no more says nothing about it


def test_what_a_manifest_names_and_the_store_denies_tonight_is_not_gone(
    s3: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    reach, out, base = s3.config(endpoint=proxy.endpoint, attempts=2, backoff=0.001), tmp_path / "out", f"s3://{s3.bucket()}"
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        Store(reach).put(f"{base}/{name}", name.encode())
    Store(reach).put(f"{base}/m.csv", b"uri\na.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    proxy.spoiled = {r"c\.jpg": "403"}
    done, seen = night(f"{base}/m.csv", out, store=reach)
    assert done is not None and done["reasons"] == {"unreadable": 1} and len(seen) == 3
    for fault in ("403", "500"):
        proxy.spoiled = {r"[abc]\.jpg": fault}
        for wanted in (Wanted(), Wanted(retry=frozenset({"unreadable"}))):
            assert night(f"{base}/m.csv", out, wanted, store=reach) == (None, [])
        assert night(f"{base}/m.csv", out, Wanted(everything=True), store=reach)[1] == [f"{base}/d.jpg"]
    assert not any(row["deleted"] for row in rows_of(out).values())
    Store(reach).delete([f"{base}/a.jpg"])
    proxy.spoiled = {r"b\.jpg": "403"}
    done, seen = night(f"{base}/m.csv", out, store=reach)
    assert done is not None and (done["vanished"], seen) == (1, [f"{base}/c.jpg"])  # which is given tonight
    assert {name for name, row in rows_of(out).items() if row["deleted"]} == {"a.jpg"}


def test_rejections_are_tried_again_for_the_reasons_named(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    assert night(archive, out, Wanted(retry=frozenset({"timeout"}))) == (None, [])
    (archive / "new.jpg").write_bytes(b"bad too")
    done, seen = night(archive, out, Wanted(retry=frozenset({"broken", "timeout"})))
    names = [name.rpartition("/")[2] for name in seen]
    # The tar is read again; its good members are known by their bytes.
    assert done is not None and (done["read"], done["reused"], done["known"]) == (5, 2, 2)
    assert sorted(names) == ["c.jpg", "new.jpg", "t.tar#2.jpg"]
    rows = rows_of(out)
    assert len(rows) == 7 and {row["reused_from"] for row in rows.values()} == {None}  # each was located itself
    assert {name for name, row in rows.items() if row["reason"]} == {"c.jpg", "new.jpg", "t.tar#2.jpg"}
    assert {row["run"] for name, row in rows.items() if name in ("c.jpg", "t.tar#2.jpg")} == {"000002"}  # a new failure, too
    assert rows["a.jpg"]["run"] == "000001"


def test_everything_again_replaces_every_row_in_one_step(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    (archive / "b.jpg").unlink()
    done, seen = night(archive, out, Wanted(everything=True))
    assert done is not None and (done["read"], done["reused"], done["vanished"], len(seen)) == (5, 0, 1, 5)
    rows = rows_of(out)
    assert len(rows) == 6 and rows["b.jpg"]["deleted"]
    assert {name for name, row in rows.items() if row["run"] == "000001"} == {"b.jpg"}
    done, seen = night(archive, out, Wanted(everything=True), stop_after=1, shard_rows=2)
    assert done is not None and done["ended"] == "told to" and len(rows_of(out)) == 6


def test_a_run_that_died_while_listing_and_has_nothing_left_to_do_is_over(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    run, _ = open_run(Store(), str(out), method="geotoken", fingerprint="f1", archive={"uri": str(archive)})
    begin(run)  # a new object was met, and is gone again when the next night lists
    assert night(archive, out) == (None, [])
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(b"X")
    done, _ = night(other, out)  # not kept off by a run that would be unfinished for ever
    assert done is not None and (done["run"], done["read"]) == ("000003", 1)


def test_a_run_that_is_refused_while_listing_stands_in_nobody_s_way(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    for path in archive.iterdir():
        path.unlink()
    (archive / "new.jpg").write_bytes(b"N")
    with pytest.raises(UserError, match="--archive-emptied"):
        night(archive, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(b"X")
    done, _ = night(other, out)
    assert done is not None and done["read"] == 1
    done, seen = night(archive, out, Wanted(emptied=True))
    assert done is not None and done["read"] == len(seen) == 1 and done["vanished"] == 4


def test_containers_without_images_are_opened_once(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    night(archive, out)
    opened: list[str] = []
    seekable = Store.seekable
    monkeypatch.setattr(Store, "seekable", lambda self, uri, *rest, **named: (
        opened.append(uri.rpartition("/")[2]), seekable(self, uri, *rest, **named))[1])  # fmt: skip
    pq.write_table(pa.table({"name": ["a.jpg"], "latitude": [1.0]}), archive / "labels.parquet")
    (archive / "z.zip").write_bytes(zip_of({"notes.txt": b"n"}))
    done, seen = night(archive, out)
    assert done is not None and (done["run"], done["read"], seen) == ("000002", 0, [])
    assert {*opened} >= {"labels.parquet", "z.zip"}
    opened.clear()
    assert night(archive, out) == (None, []) and not {*opened} & {"labels.parquet", "z.zip"}
    (archive / "z.zip").write_bytes(zip_of({"notes.txt": b"n", "1.jpg": b"Z"}))
    done, seen = night(archive, out)
    assert done is not None and done["read"] == len(seen) == 1 and "z.zip#1.jpg" in rows_of(out)
    assert empties(out) == ["labels.parquet"]
    (archive / "z.zip").write_bytes(zip_of({"other.txt": b"its image is gone"}))
    done, _ = night(archive, out)
    assert done is not None and done["read"] == 0 and "z.zip#1.jpg" not in rows_of(out)
    assert empties(out) == ["labels.parquet", "z.zip"] and len(rows_of(out)) == 6
    assert night(archive, out, Wanted(everything=True))[0] is not None and empties(out) == ["labels.parquet", "z.zip"]
    assert night(archive, out) == (None, [])


def empties(out: Path) -> list[str]:
    """Names of the containers that the table knows to hold no image."""
    table = latest(Store(), str(out))
    assert table is not None
    return sorted(uri.rpartition("/")[2] for uri, _ in table.record["empty_sources"])


def zip_of(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return data.getvalue()
