"""GeoJSON and CSV of a table: what is read is what was written, whatever the names; a file is whole or not there."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import duckdb
import geopandas
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.report.features import COLUMNS, CSV, GeoJSON

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


def table(rows: list[tuple[str, float | None, float | None]]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([name for name, _, _ in rows], pa.string()),
            "uri": pa.array([name for name, _, _ in rows], pa.string()),
            "status": pa.array(["rejected" if latitude is None else "placed" for _, latitude, _ in rows], pa.string()),
            "latitude": pa.array([latitude for _, latitude, _ in rows], pa.float64()),
            "longitude": pa.array([longitude for _, _, longitude in rows], pa.float64()),
            "error_km": pa.array([math.nan] * len(rows), pa.float64()),
            "candidates": [None] * len(rows),
        }
    )


ROWS = st.lists(st.tuples(TEXT, st.floats(-90, 90), st.floats(-180, 180)) | st.tuples(TEXT, st.none(), st.none()), max_size=6)


@settings(deadline=None, max_examples=20)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[str, float, float]]]) -> None:
    folder = tmp_path_factory.mktemp("features")
    with GeoJSON(folder / "a.geojson") as features, CSV(folder / "a.csv") as lines:
        for part in parts:
            features.add(table(part))
            lines.add(table(part))
    whole = [row for part in parts for row in part]
    found = json.loads((folder / "a.geojson").read_text("utf-8"))
    assert found["type"] == "FeatureCollection" and "crs" not in found
    with (folder / "a.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(found["features"]) == len(read) == len(whole)
    for feature, line, (name, latitude, longitude) in zip(found["features"], read, whole, strict=True):
        assert feature["type"] == "Feature" and feature["id"] == name == line["image_id"] == feature["properties"]["image_id"]
        assert "error_km" not in feature["properties"] and line["error_km"] == ""
        if latitude is None:
            assert feature["geometry"] is None and line["latitude"] == ""
        else:
            assert feature["geometry"]["type"] == "Point"
            assert feature["geometry"]["coordinates"] == pytest.approx([longitude, latitude], abs=1e-7)
            assert float(line["latitude"]) == pytest.approx(latitude, abs=1e-7)


def test_a_file_that_was_broken_off_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("before")
    for kind, name in ((GeoJSON, "a.geojson"), (CSV, "a.csv")):
        with pytest.raises(RuntimeError), kind(tmp_path / name) as file:
            file.add(table([("a", 1.0, 2.0)]))
            raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"] and (tmp_path / "a.csv").read_text() == "before"


def test_other_programs_take_them(tmp_path: Path) -> None:
    rows = [('s3://b/a,"b"\n.jpg', 10.5, -170.25), ("=1+1", None, None), ("ü.jpg", -89.9, 180.0)]
    with GeoJSON(tmp_path / "a.geojson") as features, CSV(tmp_path / "a.csv") as lines:
        features.add(table(rows))
        lines.add(table(rows))
    frame = geopandas.read_file(tmp_path / "a.geojson")
    assert frame.crs.to_epsg() == 4326 and frame["image_id"].tolist() == [name for name, _, _ in rows]
    assert frame.geometry[0].coords[0] == (-170.25, 10.5) and frame.geometry[1] is None
    read = duckdb.sql(f"select image_id, latitude, status from read_csv('{tmp_path / 'a.csv'}', header=true)").fetchall()
    assert read == [(name, latitude, "rejected" if latitude is None else "placed") for name, latitude, _ in rows]
    assert set(frame.columns) - {"geometry", "id"} <= set(COLUMNS)
