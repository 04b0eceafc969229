"""What lies beside a table of pairs, without Ray: the stages run here, and what they give is laid down as a run does.

The published data sets go through in miniature, in their true forms (`tests.archives.published_texts`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.world import World
from geobatch.errors import UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.ngcg.annotate import Annotate, Pair
from geobatch.methods.ngcg.annotations import read
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.pipeline import pairs as job
from geobatch.pipeline.pairs import FILE, MISSING, RECORD, REJECTED, Prepared, Source, prepare
from geobatch.schema import IMAGE, empty_columns
from geobatch.sink import Snapshot, Stamp
from geobatch.sink.rows import as_written, parquet
from geobatch.store import Store
from tests.archives.published_texts import cvg_text, geotext

SIDE = 32


def images(folder: Path) -> pa.Table:
    """All files of a folder as IMAGE rows."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    columns = {
        **empty_columns(list(IMAGE), len(paths)),
        "image_id": [f"file://{path}" for path in paths],
        "uri": [f"file://{path}" for path in paths],
        "bytes": pa.array([path.read_bytes() for path in paths], pa.large_binary()),
    }
    return pa.table(columns).cast(IMAGE)


def laid_down(source: Source, output: Path, slices: int = 3) -> Snapshot:
    """The river in this process, in slices, and a table of its parts."""
    decode, stamp = Decode(source.decode), Stamp(run="000001", method="pairs", model="f")
    annotate, pair = Annotate(source.annotations, source.column, source.grouping), Pair()
    table, parts = images(Path(source.archive.uri)), []
    size = -(-len(table) // slices)
    try:
        for at in range(0, len(table), size):
            rows = as_written(pair(decode(annotate(table[at : at + size]))), stamp)
            path = f"places/{at}.parquet"
            (output / "places").mkdir(parents=True, exist_ok=True)
            (output / path).write_bytes(parquet(rows))
            parts.append({"path": path, "rows": len(rows)})
    finally:
        decode.close()
    return Snapshot(output=str(output), version=1, record={"parts": parts})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Runs without Ray; counts how often."""
    runs: list[int] = []

    def table(source: Source, output: Path, decides: str) -> Snapshot:
        runs.append(1)
        return laid_down(source, output)

    monkeypatch.setattr(job, "_table", table)
    yield runs


def prepared(archive: Path, annotations: Path, folder: Path) -> Prepared:
    source = Source(archive=ArchiveConfig(uri=str(archive)), annotations=str(annotations), decode=DecodeConfig(side=SIDE))
    return prepare(source, folder, read(Store(None), str(annotations)))


def listed(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_geotext_in_its_true_form(here: list[int], tmp_path: Path) -> None:
    train, test = geotext(tmp_path / "GeoText1652_Dataset", World(), 5, 3, views=2)
    made = prepared(train.tiles, train.annotations, tmp_path / "pairs")
    assert (made.written.pairs, made.written.texts, made.written.groups) == (15, 45, 5)
    assert (made.read, made.rejected, made.missing) == (15, {}, 0)
    found = Pairs(made.path)
    for at in range(len(found)):
        name = "/".join(found.name(at).split("/")[-2:])
        assert sorted(found.texts(at)) == sorted(train.texts[name])
        assert found.picture(at).shape == (SIDE, SIDE, 3)
    buildings = [found.name(at).split("/")[-2] for at in range(len(found))]
    assert {(one == other) for one, other in zip(buildings, found.groups, strict=True)} == {False}  # numbers, not names
    assert all((found.groups[a] == found.groups[b]) == (buildings[a] == buildings[b]) for a in range(15) for b in range(15))
    # The test split's lists of three, over two folders.
    assert prepared(test.tiles, test.annotations, tmp_path / "pairs").written.texts == 3 * test.images
    assert len(list((tmp_path / "pairs").iterdir())) == 2  # beside the other, not over it


def test_cvg_text_in_its_true_form(here: list[int], tmp_path: Path) -> None:
    train, _ = cvg_text(tmp_path / "CVG-Text", World(), 12, 2)
    gone = sorted(train.tiles.iterdir())[4]
    gone.unlink()
    made = prepared(train.tiles, train.annotations, tmp_path / "pairs")
    assert (made.written.pairs, made.written.groups, made.missing) == (11, 11, 1)
    assert listed(made.folder / MISSING) == [{"name": gone.name, "texts": "1"}]
    found = Pairs(made.path)
    assert [f"{value:.7f}" for value in found.latitude] == [Path(found.name(at)).name.split(",")[0] for at in range(11)]
    # Satellite tiles and maps have the same names: which of them a text is of nobody knows.
    with pytest.raises(UserError, match=r"fits both .*; write whole image ids there"):
        prepared(train.tiles.parent, train.annotations, tmp_path / "both")


def tile(folder: Path, name: str, broken: bool = False) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(out, "png")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(out.getvalue()[:200] if broken else out.getvalue())


def test_what_is_no_pair_is_listed(here: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, broken in (("1.png", False), ("22.png", True), ("333.png", False), ("4444.png", False)):
        tile(tmp_path / "tiles", name, broken)
    (tmp_path / "t.jsonl").write_text(
        '{"name": "1.png", "text": "a coast"}\n{"name": "22.png", "text": "a bay"}\n{"name": "333.png", "text": " "}\n'
        '{"text": "whose?"}\nno json\n{"name": "5.png", "text": "gone"}\n'
    )
    made = prepared(tmp_path / "tiles", tmp_path / "t.jsonl", tmp_path / "pairs")
    assert (made.written.pairs, made.read, made.missing) == (1, 4, 1)
    fates = {Path(row["image_id"]).name: (row["stage"], row["reason"]) for row in listed(made.folder / REJECTED)}
    assert fates == {"22.png": ("decode", "broken"), "333.png": ("annotate", "no_text"), "4444.png": ("annotate", "no_text")}
    assert listed(made.folder / MISSING) == [{"name": "5.png", "texts": "1"}]
    said = capsys.readouterr().out
    assert "1 pairs with 1 texts of 1 places, of 4 images" in said and "rejected, no_text: 2 (rejected.csv)" in said
    assert "in no archive: 1 of 4 names (missing.csv)" in said
    assert "texts that name no image: 2" in said and "texts that are blank: 1" in said


def test_what_is_there_is_not_written_again(here: list[int], tmp_path: Path) -> None:
    tile(tmp_path / "tiles", "1.png")
    (tmp_path / "t.csv").write_text("name,text\n1.png,a coast\n")
    first = prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")
    before = first.path.stat().st_mtime_ns
    again = prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")
    assert again == first and first.path.stat().st_mtime_ns == before and len(here) == 2
    record = json.loads((first.folder / RECORD).read_text())
    (first.folder / FILE).unlink()  # a driver that died before the record
    assert prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs") == first
    assert json.loads((first.folder / RECORD).read_text()) == record
    (tmp_path / "t.csv").write_text("name,text\n1.png,a bay\n")
    other = prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")
    assert other.folder != first.folder and other.written.digest != first.written.digest


def test_an_archive_of_other_images_ends_in_one_line(here: list[int], tmp_path: Path) -> None:
    tile(tmp_path / "tiles", "1.png", broken=True)
    (tmp_path / "t.csv").write_text("name,text\n7.png,a coast\n")
    with pytest.raises(UserError, match=r"not one of 1 names in .*t\.csv, such as '7\.png', ends an image's name in .*1\.png"):
        prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")
    (tmp_path / "t.csv").write_text("name,text\n1.png,a coast\n")
    with pytest.raises(UserError, match=r"not one image of .* is a pair \(broken 1\)"):
        prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")


def test_a_name_that_fits_images_of_different_slices_ends_in_one_line(here: list[int], tmp_path: Path) -> None:
    for folder in "abc":
        tile(tmp_path / "tiles", f"{folder}/1.png")
    (tmp_path / "t.csv").write_text("name,text\n1.png,a coast\n")
    with pytest.raises(UserError, match=r"'1\.png' in .* fits both '.*a/1\.png' and '.*b/1\.png'; write whole image ids"):
        prepared(tmp_path / "tiles", tmp_path / "t.csv", tmp_path / "pairs")
