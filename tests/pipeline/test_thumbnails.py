"""Images read again for a page: how long, how many bytes, and why some are missing."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from geobatch.pipeline import thumbnails as module
from geobatch.pipeline.thumbnails import Wanted, thumbnails
from geobatch.sink import read
from geobatch.store import Store
from tests.pipeline.finished import archive, finished, photograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive of every kind of container and its table."""
    archive(tmp_path / "images")
    finished(tmp_path / "out", tmp_path / "images")
    return tmp_path


def sample(output: Path, part: str = "") -> pa.Table:
    table = read(str(output)).select(["image_id", "uri", "etag", "size", "run", "status"])
    return table.filter(pc.and_(pc.equal(table["status"], "placed"), pc.match_substring(table["image_id"], part)))


def made(folder: Path, rows: pa.Table, **more: Any) -> tuple[set[str], str]:
    """Names of the images that have a picture, and the note."""
    wanted = Wanted(sample=rows, **{"seconds": 60.0, "most_bytes": 1 << 20, **more})
    pictures, note = thumbnails(Store(), str(folder / "out"), wanted)
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures.values())
    return set(pictures), note


def test_all_kinds_are_found_again(folder: Path) -> None:
    rows = sample(folder / "out")
    assert made(folder, rows) == (set(rows["image_id"].to_pylist()), "") and len(rows) == 25


def test_the_time_ends_within_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tar whose one wanted image is its last is not read to its end when the time is over."""
    (tmp_path / "images").mkdir()
    with tarfile.open(tmp_path / "images/a.tar", "w") as tar:
        for number in range(200):
            data = photograph(f"{number}")
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    finished(tmp_path / "out", tmp_path / "images")
    rows = sample(tmp_path / "out", "199")
    assert made(tmp_path, rows) == (set(rows["image_id"].to_pylist()), "")
    clock, pieces = [0.0], []

    def slowly(*arguments: Any) -> Iterator[Any]:
        for piece in read_shard(*arguments):
            clock[0] += 10
            pieces.append(len(piece.table))
            yield piece

    read_shard = module.read_shard
    monkeypatch.setattr(module, "read_shard", slowly)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert made(tmp_path, rows, seconds=15) == (set(), "pictures were looked for no longer than 15 s")
    assert pieces == [5, 5]


@pytest.mark.parametrize(("name", "kind"), [("a.tar", "tar"), ("b.zip", "zip"), ("c.parquet", "parquet")])
def test_a_container_that_is_gone_is_the_reason(folder: Path, name: str, kind: str) -> None:
    rows = sample(folder / "out")
    (folder / "images" / name).rename(folder / "elsewhere")
    found, note = made(folder, rows)
    assert note == "without a picture by now: 6 missing" and len(found) == 19
    assert not any(kind in image_id for image_id in found)
    # Another in its place is not read for it.
    shutil.copy(folder / "elsewhere", folder / "images" / name)
    with (folder / "images" / name).open("ab") as file:
        file.write(b"\0")
    assert made(folder, rows)[1] == "without a picture by now: 6 changed"


def test_a_member_that_is_not_there_is_said(folder: Path) -> None:
    rows = sample(folder / "out", "a.tar#")
    astray = pa.array([f"{rows['uri'][0].as_py()}#in/nowhere.jpg", *rows["image_id"].to_pylist()[1:]])
    found, note = made(folder, rows.set_column(0, "image_id", astray))
    assert len(found) == 5 and note == "without a picture by now: 1 not found again"


def test_pictures_end_at_their_bytes(folder: Path) -> None:
    rows = sample(folder / "out")
    found, note = made(folder, rows, most_bytes=3000)
    assert 0 < len(found) < 25 and note == "pictures end at 0 MB"


@pytest.mark.parametrize("member", ["zip-0", "zip-5", "tar-0", "parquet#row=0"])
def test_one_member_is_enough(folder: Path, member: str) -> None:
    """The shards of its object that come after it are passed over."""
    rows = sample(folder / "out", member)
    assert made(folder, rows) == (set(rows["image_id"].to_pylist()), "") and len(rows) == 1
