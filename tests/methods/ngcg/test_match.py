"""The stage against a plain product of matrices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark.exact import Held
from geobatch.benchmark.retrieval import Side, retrieval
from geobatch.engine import gallery as galleries
from geobatch.engine.gallery import RECORD, Gallery
from geobatch.errors import UserError
from geobatch.methods.ngcg.area import Area
from geobatch.methods.ngcg.match import Match
from geobatch.schema import FATE, LOCATED, RADII_KM, empty_columns, probability_column
from tests.methods.ngcg import tiles


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gallery, np.ndarray]:
    folder = tmp_path_factory.mktemp("gallery")
    return folder, *tiles.build(folder)


def test_the_best_tile_is_the_place_and_the_candidates_are_the_most_similar(made: tuple[Path, Gallery, np.ndarray]) -> None:
    folder, gallery, vectors = made
    queries = tiles.unit(9, seed=4)
    done = Match(str(folder), k=5)(tiles.asking(queries))
    assert "vector" not in done.column_names and done["stage"].null_count == len(done)
    cosines = queries @ vectors.T
    for query, row in enumerate(done.to_pylist()):
        best = np.argsort(-cosines[query])[:5]
        assert [each["image_id"] for each in row["neighbours"]] == [f"t{tile:03d}" for tile in best]
        assert [each["score"] for each in row["candidates"]] == pytest.approx(cosines[query][best], abs=1e-5)
        assert {(each["origin"], each["count"]) for each in row["candidates"]} == {("tile", None)}
        first = row["candidates"][0]
        assert (row["latitude"], row["longitude"]) == (first["latitude"], first["longitude"])
        assert (row["latitude"], row["longitude"]) == (gallery.latitude[best[0]], gallery.longitude[best[0]])
        assert row["score"] == first["score"] == first["similarity"]
        assert row["footprint_km"] == pytest.approx(np.linspace(0.1, 9.0, 200)[best[0]], abs=1e-5)
        assert all(row[probability_column(km)] is None for km in RADII_KM)


def test_the_columns_are_those_of_the_table(made: tuple[Path, Gallery, np.ndarray]) -> None:
    done = Match(str(made[0]))(tiles.asking(tiles.unit(2, seed=1)))
    assert [done.schema.field(field.name).type for field in LOCATED] == [field.type for field in LOCATED]
    none = Match(str(made[0]))(tiles.asking(tiles.unit(2, seed=1)).slice(0, 0))
    assert none.schema.equals(done.schema)


def test_an_area_narrows_the_search_and_one_without_tiles_is_one_rejection(
    made: tuple[Path, Gallery, np.ndarray], tmp_path: Path
) -> None:
    folder, gallery, vectors = made
    (tmp_path / "p.csv").write_text("image_id,latitude,longitude\nq0,5,5\nq2,-30,100\n")
    queries = tiles.unit(3, seed=7)
    done = Match(str(folder), k=4, area=Area(file=str(tmp_path / "p.csv"), nearest=3))(tiles.asking(queries)).to_pylist()
    for query, point in ((0, (5, 5)), (2, (-30, 100))):
        near = gallery.near(*point, 3)[1][0]
        order = near[np.argsort(-(vectors[near] @ queries[query]))]
        assert [each["image_id"] for each in done[query]["neighbours"]] == [f"t{tile:03d}" for tile in order]
        assert len(done[query]["candidates"]) == 3
    assert (done[1]["stage"], done[1]["reason"]) == ("match", "no_tile")
    assert done[1]["latitude"] is None and done[1]["candidates"] is None and done[1]["footprint_km"] is None
    box = Match(str(folder), k=200, area=Area(box="0,-180,90,180"))(tiles.asking(queries)).to_pylist()
    north = int(np.sum(gallery.latitude >= 0))
    assert all(len(row["candidates"]) == north and all(each["latitude"] >= 0 for each in row["candidates"]) for row in box)


def test_a_gallery_in_parts_answers_as_the_whole(made: tuple[Path, Gallery, np.ndarray]) -> None:
    folder, gallery, _ = made
    queries = tiles.asking(tiles.unit(6, seed=5))
    assert not Match.services(str(folder)) and len(Match.services(str(folder), shards=3)[0].make) == 3
    for area in (Area(), Area(box="0,-180,90,180")):
        whole = Match(str(folder), k=8, area=area)(queries)
        parts = Match(str(folder), k=8, area=area, shards=3, fingerprint=gallery.fingerprint)
        try:
            assert parts(queries).equals(whole)
        finally:
            parts.parts.stop()


def test_the_nearest_are_the_published_protocols(
    made: tuple[Path, Gallery, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVG-Text's, as `geobatch.benchmark.retrieval` ranks them: the job's best tile is that protocol's first."""
    folder, gallery, _ = made
    queries, (latitude, longitude) = tiles.unit(40, seed=8), tiles.scattered(40, seed=8)
    latitude[:20], longitude[:20] = gallery.latitude[:20], gallery.longitude[:20]  # as the true tile's centre is
    lines = [
        f"q{row},{lat!r},{lon!r}" for row, (lat, lon) in enumerate(zip(latitude.tolist(), longitude.tolist(), strict=True))
    ]
    (tmp_path / "truth.csv").write_text("\n".join(["image_id,latitude,longitude", *lines]))
    asked, held = Side(Held(queries), None, latitude, longitude), Side(gallery, None, gallery.latitude, gallery.longitude)
    judged = retrieval(asked, held, protocol="nearest", nearest=15)
    done = Match(str(folder), k=3, area=Area(file=str(tmp_path / "truth.csv"), nearest=15))(tiles.asking(queries)).to_pylist()
    assert [row["neighbours"][0]["image_id"] for row in done] == [f"t{tile:03d}" for tile in judged.first]
    assert [row["score"] for row in done] == pytest.approx(judged.similarity, abs=1e-5)
    monkeypatch.setattr("geobatch.methods.ngcg.area._TILES", 15 * 7)  # in parts of seven rows it is the same
    again = Match(str(folder), k=3, area=Area(file=str(tmp_path / "truth.csv"), nearest=15))(tiles.asking(queries))
    assert again.to_pylist() == done
    wide = retrieval(asked, held, protocol="all")
    assert (wide.first != judged.first).any(), "the area narrowed nothing"


def test_a_row_that_fails_elsewhere_passes_by(made: tuple[Path, Gallery, np.ndarray]) -> None:
    table = tiles.asking(tiles.unit(3, seed=2))
    broken = table["vector"].to_pylist()
    broken[1] = [float("nan")] * tiles.SIZE
    table = table.set_column(1, "vector", pa.array(broken, pa.list_(pa.float32())))
    dead = {"stage": [None, None, "embed"], "reason": [None, None, "failed"], "detail": [None, None, "x"]}
    for name, values in dead.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    done = Match(str(made[0]))(table).to_pylist()
    assert [row["stage"] for row in done] == [None, "match", "embed"]
    assert done[0]["latitude"] is not None and done[1]["reason"] == "failed"


def test_galleries_that_do_not_suit_are_refused(made: tuple[Path, Gallery, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use the encoder that built the gallery"):
        Match(str(made[0]))(tiles.asking(tiles.unit(2, seed=1, size=8)))
    with pytest.raises(UserError, match="changed while the run was going on"):
        Match(str(made[0]), fingerprint="another")
    nowhere = np.full(4, np.nan)
    galleries.build(tmp_path / "none", [tiles.table(tiles.unit(4, 0), nowhere, nowhere)])
    with pytest.raises(UserError, match=r"4 of the 4 tiles of .* have no place"):
        Match(str(tmp_path / "none"))


def test_a_gallery_that_knows_no_footprints_says_none(tmp_path: Path) -> None:
    tiles.build(tmp_path / "g", rows=20, footprint=False)
    assert "footprint" not in json.loads((tmp_path / "g" / RECORD).read_text())
    done = Match(str(tmp_path / "g"), k=50)(tiles.asking(tiles.unit(2, seed=3)))
    assert done["footprint_km"].null_count == 2 and len(done["candidates"][0]) == 20
    assert set(empty_columns(FATE, 1)) <= set(done.column_names)
