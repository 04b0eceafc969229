"""What is planned tonight, as far as it is decided between the table and the listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.pipeline.flow import _apart
from geobatch.pipeline.frozen import Wanted, expected, lies_inside
from geobatch.sink import begin, latest, open_run
from geobatch.store import Store
from tests.sink.nights import night, rows_of, tar_of
from tests.sink.test_held import zip_of

BOTH = ("*.jpg", "*.dat")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Tars and a zip whose members are images by more than one glob."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "t.tar").write_bytes(tar_of({"1.jpg": b"1", "2.dat": b"2", "bad.jpg": b"bad"}))
    (folder / "u.tar").write_bytes(tar_of({"3.dat": b"3"}))
    (folder / "z.zip").write_bytes(zip_of({"4.dat": b"4", "5.jpg": b"5"}))
    (folder / "b.dat").write_bytes(b"B")
    return folder


def names(seen: list[str]) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in seen)


JPGS, DATS = ["t.tar#1.jpg", "t.tar#bad.jpg", "z.zip#5.jpg"], ["b.dat", "t.tar#2.dat", "u.tar#3.dat", "z.zip#4.dat"]


def test_globs_that_take_more_are_asked_of_known_containers_too(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert names(night(archive, out)[1]) == JPGS
    assert night(archive, out) == (None, []) and "--include" not in capsys.readouterr().out
    table = latest(Store(), str(out))
    wide = ArchiveConfig(uri=str(archive), include=BOTH)
    *_, last = expected(wide, Store(), table, Wanted())
    assert last.known == 0
    done, seen = night(archive, out, include=BOTH)
    assert names(seen) == sorted([*DATS, "t.tar#bad.jpg"]) and done is not None and done["known"] == 0
    assert "other members than before below file://" in capsys.readouterr().out
    assert sorted(rows_of(out)) == sorted([*JPGS, *DATS])
    assert night(archive, out, include=BOTH) == (None, []) == night(archive, out, include=BOTH[::-1])
    assert night(archive / "t.tar", out, include=BOTH) == (None, [])


def test_globs_that_take_less_open_nothing_and_take_nothing_away(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out, include=BOTH)
    every = sorted([*JPGS, *DATS])
    for globs in ({"include": ("*.jpg",)}, {"include": BOTH, "exclude": ("1*",)}):
        assert night(archive, out, **globs) == (None, [])
    # A container that is read again for another reason is read by these globs; what they leave out stays.
    retry = Wanted(retry=frozenset({"broken"}))
    done, _ = night(archive, out, retry, include=("bad*",))
    assert done is not None and done["read"] == 1 and sorted(rows_of(out)) == every
    done, _ = night(archive, out, Wanted(everything=True), include=("*.dat",))
    assert done is not None and done["read"] == 4 and sorted(rows_of(out)) == every
    # It is not known for the wider ones any more.
    done, seen = night(archive, out, include=BOTH)
    assert done is not None and done["read"] == 6 and names(seen) == ["t.tar#bad.jpg"] and sorted(rows_of(out)) == every
    (archive / "t.tar").write_bytes(tar_of({"1.jpg": b"other", "2.dat": b"bytes"}))
    night(archive, out, include=("*.dat",))
    assert sorted(rows_of(out)) == [name for name in every if not (name.startswith("t.tar") and name.endswith("jpg"))]


def test_what_a_deadline_leaves_of_it_is_done_the_next_night(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    met: list[str] = []
    for stop_after in (1, 1, 1, None):
        done, seen = night(archive, out, stop_after=stop_after, include=BOTH, shard_rows=2)
        assert done is not None
        met += seen
    assert set(DATS) <= set(names(met)) and sorted(rows_of(out)) == sorted([*JPGS, *DATS])
    assert night(archive, out, include=BOTH) == (None, [])


def test_a_table_of_before_the_globs_were_kept_is_known_as_ever(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    path = out / "table/1.json"
    path.write_text(path.read_text().replace('"globs"', '"former"'))
    assert names(night(archive, out, include=BOTH)[1]) == ["b.dat"]
    assert night(archive, out, include=BOTH) == (None, [])


def test_what_other_globs_chose_stays_on_every_later_night(archive: Path, tmp_path: Path) -> None:
    """Also once they are the globs of the table, whatever reads a container again."""
    out, every = tmp_path / "out", sorted([*JPGS, *DATS])
    night(archive, out, include=BOTH)
    (archive / "new.jpg").write_bytes(b"new")
    night(archive, out, include=("*.jpg",))
    for wanted in (Wanted(retry=frozenset({"broken"})), Wanted(everything=True)):
        done, _ = night(archive, out, wanted, include=("*.jpg",))
        assert done is not None and sorted(rows_of(out)) == sorted([*every, "new.jpg"])
    night(archive, out, Wanted(retry=frozenset({"broken"})), include=("*.dat",), refused={"t.tar": 0})
    done, _ = night(archive, out, Wanted(retry=frozenset({"unreadable"})), include=("*.dat",))
    assert sorted(rows_of(out)) == sorted([*every, "new.jpg"])


def test_a_deadline_among_other_globs_costs_no_place(tmp_path: Path) -> None:
    folder, out = tmp_path / "archive", tmp_path / "out"
    folder.mkdir()
    for name in "tuv":
        (folder / f"{name}.tar").write_bytes(tar_of({"1.jpg": f"{name}1".encode(), "2.dat": f"{name}2".encode()}))
    night(folder, out)
    night(folder, out, stop_after=1, include=("*.dat",))
    night(folder, out, include=("*.dat",))
    assert sorted(rows_of(out)) == [f"{name}.tar#{member}" for name in "tuv" for member in ("1.jpg", "2.dat")]


def test_globs_that_choose_none_of_a_containers_members_take_nothing_away(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    night(archive, out)
    (archive / "new.png").write_bytes(b"new")
    done, _ = night(archive, out, include=("*.png",))
    assert done is not None and done["read"] == 1 and sorted(rows_of(out)) == sorted([*JPGS, "new.png"])


def test_a_listing_that_ended_early_binds_nobody(archive: Path, tmp_path: Path) -> None:
    """Its run has decided nothing: what is asked for next may be something else, and is dated by its own night."""
    out, of = str(tmp_path / "out"), {"method": "geotoken", "archive": {"uri": "here"}}
    first, _ = open_run(Store(), out, fingerprint="f1", **of)
    begin(first)
    for fingerprint in ("f1", "f2"):
        again, table = open_run(Store(), out, fingerprint=fingerprint, **of)
        assert not again.resumed and again.id > first.id and table is None
    begin(again)
    assert night(archive, out)[0] is not None and sorted(rows_of(out)) == JPGS


def test_archives_within_each_other(archive: Path, tmp_path: Path) -> None:
    out, inner = tmp_path / "out", archive / "inner"
    inner.mkdir()
    (inner / "v.tar").write_bytes(tar_of({"6.jpg": b"6", "7.dat": b"7"}))
    night(archive, out)
    assert names(night(inner, out, include=BOTH)[1]) == ["v.tar#7.dat"]
    assert night(inner, out, include=BOTH) == (None, [])
    assert night(archive, out) == (None, []) or sorted(rows_of(out)) == sorted([*JPGS, "v.tar#6.jpg", "v.tar#7.dat"])
    night(archive, out, include=BOTH)
    assert sorted(rows_of(out)) == sorted([*JPGS, *DATS, "v.tar#6.jpg", "v.tar#7.dat"])
    assert night(inner, out, include=BOTH) == (None, [])


def test_an_output_inside_an_archive_is_one_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for archive in ("photos", "./photos/", f"{tmp_path}/photos", f"file://{tmp_path}/photos", "link", "."):
        for output in (
            "photos/out",
            "./photos//out",
            f"file://{tmp_path}/photos/out",
            "link/out",
            "other/../photos/out",
            "photos",
        ):
            assert lies_inside(output, archive), (output, archive)
        for output in ("../out", "photos-out", "s3://photos/out", "located"):
            assert archive == "." or not lies_inside(output, archive), (output, archive)
    assert lies_inside("anything", "/")
    for archive in ("s3://b", "s3://b/", "s3://b/p", "s3://b/p/"):
        assert lies_inside("s3://b/p/out", archive) and not lies_inside("s3://c/p/out", archive)
    assert not lies_inside("s3://b/photos", "s3://b/p") and not lies_inside("s3://b", "s3://b/p")
    with pytest.raises(UserError, match=r"--output \./photos/out lies inside --archive photos.*choose another place"):
        _apart("photos", "./photos/out")
