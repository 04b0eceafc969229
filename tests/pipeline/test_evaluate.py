"""The evaluation job: one call gives every analysis on a finished table, and its document is as it is described."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark import evaluation, published
from geobatch.benchmark.analyses import ALL
from geobatch.engine.gallery import collect
from geobatch.errors import UserError
from geobatch.pipeline.evaluate import Evaluate, evaluate_places
from geobatch.schema import GALLERY, empty_columns
from tests.pipeline.test_calibrate import written


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
    assert published.size_note("im2gps3k", 2997) is None and published.size_note("geotext", 5) is None


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished table; run"):
        evaluate_places(Evaluate(places=str(tmp_path / "none"), truth="t.csv"))
    path = tmp_path / "p.csv"
    path.write_text("id,lat,lon\na,1,2\n")
    with pytest.raises(UserError, match="there is no gallery folder"):
        evaluate_places(Evaluate(places=str(path), truth=str(path), gallery=str(tmp_path / "none")))
    with pytest.raises(UserError, match="EXIF holds no place"):
        evaluate_places(Evaluate(places=str(path)))
