"""Other systems' files as tables: published results give their own summary through the whole job."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.benchmark.predictions import is_file, load_predictions
from geobatch.benchmark.truth import read_truth
from geobatch.errors import UserError
from geobatch.pipeline.evaluate import Evaluate, evaluate_places
from geobatch.store import NotFound, Store
from tests.benchmark.test_metrics import RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_the_job_gives_published_results_their_own_summary(
    realdata: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = realdata / "benchmarks" / "GeoEstimation" / name
    with path.open(newline="") as lines:
        summary = [float(cell) for cell in [row for row in csv.reader(lines) if row][-1]]
    config = Evaluate(places=str(path), truth=str(path), benchmark="im2gps", analyses=(), bootstrap=100)
    chosen = evaluate_places(config).choices["chosen"]
    assert [share.value for share in chosen.shares] == pytest.approx(summary[:5], abs=1e-6)
    assert chosen.mean_km == pytest.approx(summary[5], abs=0.01) and chosen.images == 237
    assert "ends in another table of 2 lines" in capsys.readouterr().out


def test_a_predicted_place_goes_before_one_that_is_true(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,gt_lat,gt_long,predicted_lat,predicted_long\r\na,1,2,3,4\r\nb,1,2,,\r\nc,1,2,95,4\r\n")
    table, notes = load_predictions(Store(), str(path))
    assert table["image_id"].to_pylist() == ["a", "b", "c"]
    assert notes == (f"1 rows of {path} have coordinates that are not on Earth; they count as failed",)
    assert table["latitude"].to_pylist() == [3, None, None] and table["longitude"].to_pylist() == [4, None, None]
    assert table["status"].to_pylist() == ["placed", "rejected", "rejected"]
    assert table["reason"].to_pylist() == [None, "no_place", "no_place"]


@pytest.mark.parametrize(
    ("header", "predicted", "true"),
    [
        ("id,lat,lng,lat_pred,lng_pred", (3, 4), (1, 2)),
        ("id,lat,lon,lat_predicted,lon_predicted", (3, 4), (1, 2)),
        ("id,lat,lon,gt_lat,gt_lon", (1, 2), (3, 4)),
        ("id,latitude,longitude,true_latitude,true_longitude", (1, 2), (3, 4)),
        ("id,pred_lat,gt_lng,gt_lat,pred_long", (1, 4), (3, 2)),
        ("id,lat,relation_pred,b,lng", (1, 4), (1, 4)),
        ("id,lat,lng,latpred,lngpred", "'latpred' and no column that belongs to it; name two columns 'predicted_lat'", (1, 2)),
        ("id,lat,lng,predicted_lat,x", "'predicted_lat' and no column that belongs to it", (1, 2)),
        ("id,lat,y,predicted_lon,x", "'predicted_lon' and no column that belongs", "has no column for a longitude"),
        ("id,lat,x,gt_lat,gt_lon", "has no column for a predicted longitude", (3, 4)),
        ("id,lat,lon,gt_lat,x", (1, 2), "'gt_lat' and no column that belongs to it; name two columns 'latitude'"),
    ],
)
def test_both_axes_come_from_one_family_of_titles(
    tmp_path: Path, header: str, predicted: tuple[float, float] | str, true: tuple[float, float] | str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\na,1,2,3,4\n")

    def places() -> tuple[float, float]:
        table = load_predictions(Store(), str(path))[0]
        return table["latitude"][0].as_py(), table["longitude"][0].as_py()

    def truths() -> tuple[float, float]:
        found = read_truth(path)
        return float(found.latitude[0]), float(found.longitude[0])

    for read, expected in ((places, predicted), (truths, true)):
        if isinstance(expected, str):
            with pytest.raises(UserError, match=expected):
                read()
        else:
            assert read() == expected


def test_rows_without_a_name_are_left_out_and_names_are_taken_to_the_letter(tmp_path: Path) -> None:
    text, parquet = tmp_path / "p.csv", tmp_path / "p.parquet"
    text.write_text("id,lat,lon\n a ,1,2\n,3,4\nb,,\n")
    pq.write_table(pa.table({"id": [" a ", None, "b"], "lat": [1.0, 3.0, None], "lon": [2.0, 4.0, None]}), parquet)
    for path in (text, parquet):
        table, notes = load_predictions(Store(), str(path))
        assert table["image_id"].to_pylist() == [" a ", "b"] and table["latitude"].to_pylist() == [1, None]
        nameless = f"1 rows of {path} have no image id; they are left out"
        assert notes == (nameless,)
        known = read_truth(path)
        assert (known.image_id, known.without_place) == ((" a ",), 1)
        assert known.notes == (nameless, f"1 rows of {path} have no coordinates; they are left out")


def test_exchanged_columns_are_turned_and_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,LAT,LON\n" + "".join(f"i{n},{100 + n},{n}\n" for n in range(20)) + "lost,,\n")
    table, notes = load_predictions(Store(), str(path))
    assert table["latitude"].to_pylist() == [*range(20), None] and table["longitude"].to_pylist() == [*range(100, 120), None]
    said = f"{path} has its latitudes and longitudes exchanged (20 of 20 latitudes pass 90, no longitude does)"
    assert len(notes) == 1 and notes[0].startswith(said)
    path.write_text("id,lat,lon\na,95,10\nb,96,10\nc,97,100\nd,1,2\n")  # no exchange mends a longitude beyond 90
    table, notes = load_predictions(Store(), str(path))
    assert table["latitude"].to_pylist() == [None, None, None, 1] and "3 rows of" in notes[0]


def test_a_row_of_means_is_no_prediction(tmp_path: Path) -> None:
    text, parquet = tmp_path / "p.csv", tmp_path / "p.parquet"
    text.write_text("id,lat,lon\na,1,2\nb,3,4\nmean,2,3\n")
    pq.write_table(pa.table({"id": ["a", "b", "mean"], "lat": [1.0, 3.0, 2.0], "lon": [2.0, 4.0, 3.0]}), parquet)
    for path in (text, parquet):
        table, notes = load_predictions(Store(), str(path))
        assert table["image_id"].to_pylist() == ["a", "b"] and "is called 'mean', which no image is" in notes[0]


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (("mean", "std"), "the last 2 rows of"),
        (("mean", "median"), "the last 2 rows of"),
        (("count", "mean", "std", "min", "25%", "50%", "75%", "max"), "from 'count' on, are called as no image is"),
        (("min", "max"), None),
        (("Mean:", "b"), None),
    ],
)
def test_rows_of_a_summary_are_no_predictions_and_no_truths(tmp_path: Path, tail: tuple[str, ...], said: str | None) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,lat,lon\na,1,2\nmean,3,4\nc,5,6\n" + "".join(f"{name},1,1\n" for name in tail))
    kept = ["a", "mean", "c", *(tail if said is None else ())]
    table, notes = load_predictions(Store(), str(path))
    assert table["image_id"].to_pylist() == kept and list(read_truth(path).image_id) == kept
    assert read_truth(path).notes == notes and (notes == () if said is None else said in notes[0])


def test_a_model_that_writes_nonsense_does_not_exchange_its_good_places(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"

    def places(wild: int) -> list[float | None]:
        lines = [f"{n},{40 + n % 20},{n % 30}\n" if n >= wild else f"{n},{100 + n},{n % 30}\n" for n in range(100)]
        path.write_text("id,lat,lon\n" + "".join(lines))
        return load_predictions(Store(), str(path))[0]["latitude"].to_pylist()

    assert places(6) == [None] * 6 + [40 + n % 20 for n in range(6, 100)]
    assert "exchanged" in read_truth(path).notes[0]
    assert places(24)[24:] == [40 + n % 20 for n in range(24, 100)]
    assert places(25) == [n % 30 for n in range(100)]


def test_parquet_and_plain_titles(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"id": [7, 8], "lat": [1.5, np.nan], "lng": [2.5, 1.0]}), path)
    table, _ = load_predictions(Store(), str(path))
    assert table["image_id"].to_pylist() == ["7", "8"] and table["latitude"].to_pylist() == [1.5, None]


def test_files_are_told_from_outputs() -> None:
    assert is_file("s3://b/x.CSV") and is_file("x.parquet") and not is_file("s3://b/located") and not is_file("out/")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        load_predictions(Store(), str(tmp_path / "none.csv"))
    path = tmp_path / "p.csv"
    path.write_text("id,x,y\na,1,2\n")
    with pytest.raises(UserError, match="has no column for a predicted latitude; name one 'predicted_lat'"):
        load_predictions(Store(), str(path))
