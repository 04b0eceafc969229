"""A gallery follows its table: built, left alone, appended to, built again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from geobatch.engine.gallery import Gallery, Indexing
from geobatch.errors import UserError
from geobatch.pipeline.build_gallery import BuildGallery, indexed
from geobatch.sink import Snapshot
from geobatch.store import Store
from tests.engine.gallery.smooth import smooth, tables
from tests.river.conftest import make_encoder

SIZE = 16


class Grown:
    """A table in a folder, part by part, and the gallery made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts = folder, []  # type: tuple[Path, list[dict[str, object]]]
        (folder / "places").mkdir()
        make_encoder(folder / "encoder", SIZE)

    def add(self, rows: int) -> None:
        first = sum(int(str(part["rows"])) for part in self.parts)
        path = f"places/{len(self.parts)}.parquet"
        pq.write_table(pa.concat_tables(tables(*smooth(rows, SIZE, seed=first), first=first)), self.folder / path)
        self.parts.append({"path": path, "rows": rows})

    def gallery(self, **settings: object) -> Gallery:
        record = {"parts": self.parts, "empty_sources": []}
        config = BuildGallery(archive="", output=str(self.folder), encoder=str(self.folder / "encoder"), **settings)  # type: ignore[arg-type]
        return indexed(self.folder, Snapshot(output=str(self.folder), version=1, record=record), Store(), config)


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    made = Grown(tmp_path)
    made.add(60)
    made.add(40)
    return made


def test_new_parts_are_appended_and_old_ones_not_read(grown: Grown) -> None:
    built = grown.gallery()
    assert len(built) == 100 and len(built.record["segments"]) == 1 and built.views == {"image": SIZE}
    vectors = (grown.folder / "index.faiss").stat().st_mtime_ns
    assert grown.gallery().fingerprint == built.fingerprint
    grown.add(30)
    (grown.folder / "places/0.parquet").unlink()  # nobody asks for it
    more = grown.gallery()
    assert len(more) == 130 and len(more.record["segments"]) == 2
    assert (grown.folder / "index.faiss").stat().st_mtime_ns == vectors
    assert more.ids(np.arange(130)).to_pylist() == [f"i{row:06d}" for row in range(130)]


def test_replaced_images_other_settings_and_the_wish_build_anew(grown: Grown) -> None:
    grown.gallery()
    grown.add(30)
    grown.gallery()
    grown.parts[0]["removed"] = [3, 5]
    assert len(fewer := grown.gallery()) == 128 and len(fewer.record["segments"]) == 1
    assert "i000003" not in fewer.ids(np.arange(128)).to_pylist()
    halved = grown.gallery(indexing=Indexing(precision="float16"))
    assert halved.record["segments"][0]["vectors"] == "vectors.npy"
    grown.add(10)
    assert len(grown.gallery(indexing=Indexing(precision="float16")).record["segments"]) == 2
    anew = grown.gallery(indexing=Indexing(precision="float16"), rebuild=True)
    assert len(anew) == 138 and len(anew.record["segments"]) == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_groups_come_from_a_file(grown: Grown, kind: str) -> None:
    groups = pa.table({"group": ["7", "8"] * 40, "image_id": [f"i{row:06d}" for row in range(80)], "other": [0] * 80})
    path = grown.folder / f"groups.{kind}"
    (pq.write_table if kind == "parquet" else pyarrow.csv.write_csv)(groups, path)
    gallery = grown.gallery(groups=str(path))
    found = gallery.search(gallery.vectors(np.arange(2)), 100, exclude_groups=["7", "8"])[1]
    for query, rows in enumerate(found):
        assert sorted(rows[rows >= 0].tolist()) == [row for row in range(100) if row >= 80 or row % 2 != query]
    grown.add(5)
    assert len(grown.gallery(groups=str(path)).record["segments"]) == 2
    path.write_bytes(b"image_id,user\n1,2\n")
    with pytest.raises(UserError, match="image_id and group"):
        grown.gallery(groups=str(path))


def test_groups_are_text_and_none_where_empty(grown: Grown) -> None:
    path = grown.folder / "groups.csv"
    lines = [f"i{row:06d},{'00123' if row < 30 else '123' if row < 60 else ''},{row}" for row in range(90)]
    path.write_text("\n".join(["image_id,group,seen", *lines, "elsewhere,x,maybe"]) + "\n")
    gallery = grown.gallery(groups=str(path))
    queries = gallery.vectors(np.arange(3))
    for group, left in (("00123", {*range(30, 100)}), ("123", {*range(30), *range(60, 100)}), ("", {*range(100)})):
        rows = gallery.search(queries, 100, exclude_groups=[group] * 3)[1]
        assert all(set(found[found >= 0].tolist()) == left for found in rows)


def test_an_edited_file_of_groups_builds_anew(grown: Grown) -> None:
    path = grown.folder / "groups.csv"
    path.write_text("image_id,group\ni000000,a\ni000001,a\n")
    first = grown.gallery(groups=str(path))
    built = (grown.folder / "gallery.parquet").stat().st_mtime_ns
    grown.gallery(groups=str(path))
    assert (grown.folder / "gallery.parquet").stat().st_mtime_ns == built
    path.write_text("image_id,group\ni000000,a\ni000002,a\n")
    edited = grown.gallery(groups=str(path))
    own = edited.vectors(np.array([0]))
    assert set(range(100)) - set(edited.search(own, 100, exclude_groups=["a"])[1][0].tolist()) == {0, 2}
    assert set(range(100)) - set(first.search(own, 100, exclude_groups=["a"])[1][0].tolist()) == {0, 1}
    assert edited.fingerprint != first.fingerprint
    with pytest.raises(UserError, match="knows no groups"):
        grown.gallery().search(own, 3, exclude_groups=["a"])


def test_groups_of_other_images_are_refused_and_the_gallery_stays(grown: Grown) -> None:
    before = grown.gallery().fingerprint
    path = grown.folder / "groups.csv"
    path.write_text("image_id,group\ni000000.jpg,a\n")
    with pytest.raises(UserError, match=r"groups.csv has a group for none of the images; its image_id must be theirs"):
        grown.gallery(groups=str(path))
    assert grown.gallery().fingerprint == before
