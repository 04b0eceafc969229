"""The job that judges retrieval: every benchmark, the figures' files, comparisons, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.benchmark.metrics import Interval
from geobatch.engine import gallery as galleries
from geobatch.errors import UserError
from geobatch.pipeline import retrieval as module
from geobatch.pipeline.retrieval import EvaluateRetrieval, evaluate_retrieval
from geobatch.schema import GALLERY, empty_columns
from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.job import said

#: A queries' gallery asks in two dimensions; tiles are directions.
TILES = ["file:///t/0001/a.jpg", "file:///t/0001/b.jpg", "file:///t/0002/a.jpg", "file:///t/0003/c.jpg"]
ANGLES = [0, 10, 40, 90]
TEXTS = ["file:///x.json#0001/a.jpg@1", "file:///x.json#0001/a.jpg@2", "file:///x.json#0002/a.jpg", "file:///x.json#0009/q.jpg"]
ASKED = [1, 30, 55, 0]

CITY = [f"40.7{north}000,-74.0000000_2019-05_p_d1_z3.png" for north in ("000", "003", "100")]


def built(
    folder: Path, names: list[str], degrees: list[float], places: list[tuple[float, float]] | None = None, **record: str
) -> str:
    """A gallery of unit vectors at these angles."""
    angles = np.radians(np.array(degrees, np.float64))
    latitude, longitude = zip(*(places or [(np.nan, np.nan)] * len(names)), strict=True)
    columns = {
        **empty_columns(list(GALLERY), len(names)),
        "image_id": names,
        "uri": names,
        "latitude": pa.array(latitude, from_pandas=True),
        "longitude": pa.array(longitude, from_pandas=True),
        "vector": list(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)),
        "status": ["placed"] * len(names),
    }
    galleries.build(folder, [pa.table(columns).cast(GALLERY)], **record)
    return str(folder)


def judged(folder: Path, **settings: object) -> dict[str, dict[str, Interval]]:
    """R@k and L@m by direction and protocol, and all that the run wrote."""
    config = EvaluateRetrieval(
        **{"queries": str(folder / "texts"), "gallery": str(folder / "tiles"), "bootstrap": 100, "ks": (1, 2), **settings}  # type: ignore[arg-type]
    )
    return {
        f"{one.direction} {one.protocol}": {
            **{f"R{k}": round(each.value, 4) for k, each in one.recall.items()},
            **{f"L{m}": round(each.value, 4) for m, each in one.located.items()},
        }
        for one in evaluate_retrieval(config)
    }  # type: ignore[misc]


@pytest.fixture
def buildings(tmp_path: Path) -> Path:
    built(tmp_path / "tiles", TILES, list(map(float, ANGLES)), encoder="m1")
    built(tmp_path / "texts", TEXTS, list(map(float, ASKED)), encoder="m1")
    return tmp_path


@pytest.fixture
def city(tmp_path: Path) -> Path:
    built(tmp_path / "tiles", [f"file:///sat/{name}" for name in CITY], [0.0, 40.0, 90.0])
    built(tmp_path / "texts", [f"file:///test.json#{name}" for name in CITY], [0.0, 10.0, 50.0])
    return tmp_path


def test_buildings_by_hand(buildings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 1° ranks 0 10 40: 0001 first; 30° ranks 40 (0002), 10 (0001); 55° ranks 40 (0002) first; 0009 is not there
    # back: 0° finds the text at 0° (0009) and then the one at 1°; 10° finds 1° (0001); 40° finds 30° (0001, as 55° is farther)
    # and then 55° (0002); 0003 has no text
    found = judged(buildings, benchmark="geotext", output=str(buildings / "out"))
    assert found == {"t2i all": {"R1": 0.5, "R2": 0.75}, "i2t all": {"R1": 0.25, "R2": 0.75}}
    out = capsys.readouterr().out
    assert "t2i, 4 queries among all 4; 1 have nothing to find and count as wrong" in out and "L@" not in out
    document = json.loads((buildings / "out/retrieval.json").read_text())
    assert [(one["direction"], one["recall"]["1"]["value"]) for one in document["figures"]] == [("t2i", 0.5), ("i2t", 0.25)]
    rows = pq.read_table(buildings / "out" / module.TABLE).to_pylist()
    assert len(rows) == 8 and {row["metres"] for row in rows} == {None}
    ranks = {row["query"].rpartition("#")[2]: row["rank"] for row in rows if row["direction"] == "t2i"}
    assert ranks == {"0001/a.jpg@1": 1, "0001/a.jpg@2": 2, "0002/a.jpg": 1, "0009/q.jpg": 0}
    assert judged(buildings, benchmark="names") == found


def test_files_and_places_by_hand(city: Path) -> None:
    # the second text finds the first tile, 33 m away; the third the second, 1,079 m away
    found = judged(city, benchmark="cvgtext", nearest=2)
    everything = {"R1": 0.3333, "R2": 1.0, "L50": 0.6667, "L100": 0.6667, "L150": 0.6667}
    assert found["t2i all"] == everything
    # near the third place lie the third tile and the second: the same; near the others the first two
    assert found["t2i nearest"] == everything
    assert found["i2t all"]["R1"] == 0.6667  # 0° finds 0°, 40° finds 50° (third), 90° finds 50° (third)
    assert set(found) == {"t2i all", "t2i nearest", "i2t all", "i2t nearest"}
    assert set(judged(city, benchmark="cvgtext", nearest=0, both=False)) == {"t2i all"}


def test_a_table_of_texts_may_leave_extensions_out(tmp_path: Path) -> None:
    built(tmp_path / "tiles", ["file:///t/a.png", "file:///t/b.png"], [0.0, 90.0])
    built(tmp_path / "texts", ["x.csv#file:///t/b", "y.csv#t/a"], [80.0, 1.0])
    assert judged(tmp_path, benchmark="cvgtext")["t2i all"] == {"R1": 1.0, "R2": 1.0}
    built(tmp_path / "texts", ["x.csv#b", "x.csv#a.png"], [80.0, 89.0])
    built(tmp_path / "tiles", ["x.tar#a.png", "x.tar#b.png"], [0.0, 90.0])
    assert judged(tmp_path)["t2i all"] == {"R1": 0.5, "R2": 1.0}


def test_the_tile_nearest_to_a_place_is_right_and_a_truth_file_says_where(tmp_path: Path) -> None:
    built(tmp_path / "tiles", ["t/1/0/0.png", "t/1/1/0.png"], [0.0, 90.0], [(50.0, -90.0), (50.0, 90.0)])
    built(tmp_path / "texts", ["x.csv#a@1", "x.csv#a@2", "x.csv#b", "x.csv#c"], [1.0, 89.0, 80.0, 0.0])
    with pytest.raises(UserError, match="has a place; give --truth"):
        judged(tmp_path, benchmark="places")
    (tmp_path / "truth.csv").write_text("id,lat,lon\na,40,-80\nb,40,80\n")
    found = judged(tmp_path, benchmark="places", truth=str(tmp_path / "truth.csv"), metres=(2_000_000,), nearest=1)
    assert found == {
        "t2i all": {"R1": 0.5, "R2": 0.75, "L2000000": 0.6667},  # of c no place is known
        "t2i nearest": {"R1": 0.75, "R2": 0.75, "L2000000": 1},
    }


def test_a_truth_file_moves_the_queries_and_not_the_tiles_that_are_called_alike(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    built(tmp_path / "tiles", [f"file:///sat/{name}" for name in names], [0.0, 90.0], [(40.0006, 10.0), (41.0006, 10.0)])
    built(tmp_path / "texts", [f"x.json#{name}@1" for name in names], [0.0, 90.0])
    (tmp_path / "truth.csv").write_text("id,lat,lon\na.png,40,10\nb.png,41,10\n")
    found = judged(tmp_path, benchmark="cvgtext", truth=str(tmp_path / "truth.csv"), nearest=1)
    assert set(found) == {"t2i all", "t2i nearest", "i2t all", "i2t nearest"}  # each tile's centre is 67 m from its query
    assert all((one["R1"], one["L50"], one["L100"]) == (1.0, 0.0, 1.0) for one in found.values())


def test_runs_that_asked_something_else_are_not_compared(city: Path) -> None:
    before = str(city / "before")
    judged(city, benchmark="cvgtext", nearest=2, ks=(1,), output=before)
    others: list[tuple[dict[str, object], str]] = [
        ({"benchmark": "cvgtext", "nearest": 2}, "up to R@1, not R@2"),
        ({"benchmark": "cvgtext", "nearest": 3, "ks": (1,)}, "among the nearest 2, not 3"),
        ({"benchmark": "names", "nearest": 2, "ks": (1,)}, "by --benchmark cvgtext, not names"),
    ]
    for settings, words in others:
        with pytest.raises(UserError, match=words):
            judged(city, **settings, against=before)
    judged(city, benchmark="cvgtext", nearest=2, ks=(1,), against=before)
    (city / "before/retrieval.json").write_text("{}")
    with pytest.raises(UserError, match="does not say what was asked"):
        judged(city, benchmark="cvgtext", nearest=2, ks=(1,), against=before)


def test_another_run_over_the_same_queries_is_compared_in_pairs(buildings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged(buildings, benchmark="geotext", output=str(buildings / "before"))
    built(buildings / "texts", TEXTS, [0.0, 5.0, 55.0, 0.0], encoder="m1")
    judged(buildings, benchmark="geotext", against=str(buildings / "before"), output=str(buildings / "after"))
    assert "t2i, all, over" in capsys.readouterr().out
    document = json.loads((buildings / "after/retrieval.json").read_text())
    differences = document["differences"]
    assert document["wins"]["t2i all"]["rank"] == {"wins": 1, "losses": 0, "ties": 3, "sign_test": 1.0}
    assert differences["t2i all"]["1"]["value"] == 0.25 and differences["t2i all"]["2"]["value"] == 0.0
    built(buildings / "texts", TEXTS[:3], [0.0, 5.0, 55.0], encoder="m1")
    for against, words in (("before", "judged other queries"), ("nowhere", "is no output of this job")):
        with pytest.raises(UserError, match=words):
            judged(buildings, benchmark="geotext", against=str(buildings / against))


def test_distances_are_compared_too_and_outputs_may_lie_in_a_bucket(
    city: Path, s3: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(city)
    bucket = f"s3://{s3.bucket()}"
    judged(city, benchmark="cvgtext", nearest=2, output=f"{bucket}/before", store=s3.config())
    built(city / "texts", [f"file:///test.json#{name}" for name in CITY], [0.0, 50.0, 70.0])
    judged(city, benchmark="cvgtext", nearest=2, against=f"{bucket}/before", output=f"{bucket}/after", store=s3.config())
    # the second and the third text find their own tile now; the second was 33 m off, the third 1,079 m
    document = json.loads(Store(s3.config()).get(f"{bucket}/after/retrieval.json"))
    assert document["differences"]["t2i all"]["50m"]["value"] == pytest.approx(1 / 3)
    assert document["wins"]["t2i all"]["metres"] == {"wins": 2, "losses": 0, "ties": 1, "sign_test": 0.5}
    assert "the first lies nearer to the truth for 2 queries, farther for 0, alike for 1" in capsys.readouterr().out
    figures = {f"{one['direction']} {one['protocol']}": one for one in document["figures"]}
    assert figures["t2i all"]["median"]["low"] <= figures["t2i all"]["median_m"] == 0
    assert {path.name for path in city.iterdir()} == {"texts", "tiles"}
    with pytest.raises(UserError, match="no-such-bucket-here"):
        judged(city, queries="/nowhere", output="s3://no-such-bucket-here/out", store=s3.config())


def beside(folder: Path, rejected: dict[str, str]) -> None:
    """The table that a gallery of `folder` was made of: what was rejected, and a row that was not."""
    names = ["file:///x.json#placed", *rejected]
    columns = {
        **empty_columns(list(GALLERY), len(names)),
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "status": pa.array(["placed", *["rejected"] * len(rejected)]),
        "stage": pa.array([None, *["say"] * len(rejected)]),
        "reason": pa.array([None, *rejected.values()]),
    }
    (folder / "places").mkdir()
    (folder / "table").mkdir()
    pq.write_table(pa.table(columns).cast(GALLERY), part := folder / "places/0.parquet")
    parts = [{"path": "places/0.parquet", "rows": len(names), "bytes": part.stat().st_size}]
    (folder / "table/1.json").write_text(json.dumps({"parts": parts, "run": "r", "fingerprint": "f"}))


def test_queries_that_were_rejected_are_wrong_listed_and_counted(buildings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = {
        "file:///x.json#0001/a.jpg@3": "not_a_text",
        "file:///x.json#0003/c.jpg": "empty",
        "file:///x.json#0002/q": "no_place",
    }
    beside(buildings / "texts", lost)
    found = judged(buildings, benchmark="geotext", output=str(buildings / "out"))
    assert found["t2i all"] == {"R1": round(2 / 6, 4), "R2": 0.5}  # 2 and 3 of 4 without them
    assert found["i2t all"] == {"R1": 0.25, "R2": 0.75}  # no tile was rejected, and no tile finds them
    out = capsys.readouterr().out
    assert "2 were rejected, never asked, and count as wrong" in " ".join(out.split())
    assert (
        "texts: 1 rejected when it was built, not_a_text\n" in out and "1 rejected when it was built, no_place, left out" in out
    )
    assert f"{buildings / 'tiles'} is a gallery without its table" in out
    document = json.loads((buildings / "out/retrieval.json").read_text())
    assert document["figures"][0]["failed"] == 2 and document["figures"][0]["queries"] == 6
    assert document["rejected"]["queries"] == {
        "count": 2,
        "by_reason": {"not_a_text": 1, "empty": 1},
        "images": [{"image_id": name, "reason": why} for name, why in list(lost.items())[:2]],
    }
    rows = {
        row["query"]: row for row in pq.read_table(buildings / "out" / module.TABLE).to_pylist() if row["direction"] == "t2i"
    }
    assert len(rows) == 6
    assert all(
        (rows[name]["rank"], rows[name]["first"], rows[name]["rejected"]) == (0, None, lost[name]) for name in list(lost)[:2]
    )
    judged(
        buildings, benchmark="geotext", against=str(buildings / "out")
    )  # other runs over the same queries count them as well


def test_mistakes_end_in_one_line(buildings: Path) -> None:
    given = ("--queries", str(buildings / "texts"), "--gallery", str(buildings / "tiles"), "--bootstrap", "100")
    ended = said(*given, "--benchmark", "cvgtext", "--no-both", job="evaluate_retrieval")
    assert ended.status == 0 and "R@10" in ended.output  # a.jpg is in both
    built(buildings / "texts", ["x.json#7/z.jpg"], [1.0], encoder="m1")
    ended = said(*given, "--benchmark", "geotext", job="evaluate_retrieval")
    assert ended.status == 2 and "shows what a tile of" in ended.output and ended.output.count("\n") == 1
    built(buildings / "texts", TEXTS, list(map(float, ASKED)), encoder="m2")
    ended = said(*given, job="evaluate_retrieval")
    assert ended.status == 2 and "are of different models; build both with one" in ended.output
    ended = said("--queries", "/nowhere", "--gallery", str(buildings / "tiles"), job="evaluate_retrieval")
    assert ended.status == 2 and "there is no gallery folder /nowhere" in ended.output
    ended = said(*given, "--ks", "0", job="evaluate_retrieval")
    assert ended.status == 2 and "--ks are from 1" in ended.output
