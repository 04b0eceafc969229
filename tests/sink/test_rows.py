"""What is written opens elsewhere, means what it says, and never more than it should."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.geo.distance import haversine_km
from geobatch.schema import PLACE, SAID
from geobatch.sink.keys import Keys
from geobatch.sink.rows import Stamp, as_written, parquet
from tests.sink.rows import located, spatial

STAMP = Stamp(run="000001", method="geotoken", model="f1")


def test_rows_have_the_schema_and_bytes_are_a_function_of_them() -> None:
    rows = as_written(located(["a", "b", "c"], dead={1}), STAMP)
    assert rows.schema.equals(PLACE)
    assert rows["s2_token"].to_pylist()[1] is None and len(rows["s2_token"].to_pylist()[0]) == 11
    assert parquet(rows) == parquet(as_written(located(["a", "b", "c"], dead={1}), STAMP))


def test_what_a_method_says_of_texts_and_tiles_is_kept_and_null_where_none_does() -> None:
    rows = located(["a", "b"])
    silent = as_written(rows, STAMP)
    assert all(silent[field.name].null_count == 2 for field in SAID)
    assert silent.schema.names.index("text") == silent.schema.names.index("fallback") + 1
    for field, values in zip(SAID, (["by the river", None], [0.5, None]), strict=True):
        rows = rows.append_column(field, pa.array(values, field.type))
    said = as_written(rows, STAMP)
    assert said.schema.equals(PLACE) and said["schema_version"].to_pylist() == [4, 4]
    assert said["text"].to_pylist() == ["by the river", None] and said["footprint_km"].to_pylist() == [0.5, None]


@pytest.mark.skipif(not os.environ.get("GEOBATCH_REALDATA"), reason="GEOBATCH_REALDATA is unset: no GeoParquet schema")
def test_metadata_validates_against_the_published_json_schema() -> None:
    import jsonschema

    folder = Path(os.environ["GEOBATCH_REALDATA"]) / "geoparquet/1.1.0"
    schema = json.loads((folder / "format-specs__schema.json").read_text())
    for dead in (set(), {0, 1}):
        data = parquet(as_written(located(["a", "b"], dead=dead), STAMP))
        geo = json.loads(pq.read_schema(io.BytesIO(data)).metadata[b"geo"])
        jsonschema.validate(geo, schema)


def test_geopandas_and_duckdb_spatial_open_a_part(tmp_path: Path) -> None:
    import geopandas

    names = [f"image {n}" for n in range(20)]
    rows = as_written(located(names, dead={3}), STAMP)
    path = tmp_path / "part.parquet"
    path.write_bytes(parquet(rows))
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_string() == "OGC:CRS84" and frame.geometry.isna().sum() == 1
    there = frame[frame.status == "placed"]
    assert np.allclose(there.geometry.y, there.latitude) and np.allclose(there.geometry.x, there.longitude)
    base = spatial()
    kinds = base.execute(f"DESCRIBE SELECT geometry FROM '{path}'").fetchall()
    assert kinds[0][1].startswith("GEOMETRY")
    worst = base.execute(f"SELECT max(abs(ST_Y(geometry) - latitude)), count(geometry) FROM '{path}'").fetchone()
    assert worst == (0.0, 19)


@pytest.mark.parametrize("km", [1.0, 25.0, 300.0])
def test_coarsened_rows_hold_no_finer_coordinate_anywhere(km: float) -> None:
    fine = as_written(located([f"i{n}" for n in range(30)], dead={4}), STAMP)
    coarse = as_written(
        located([f"i{n}" for n in range(30)], dead={4}), Stamp(run="000001", method="geotoken", model="f1", coarsen_km=km)
    )
    assert coarse.schema.equals(PLACE) and coarse["latitude"].null_count == 1
    for prefix in ("", "exif_"):
        moved = haversine_km(*(t[f"{prefix}{c}"].to_numpy() for t in (fine, coarse) for c in ("latitude", "longitude")))
        assert np.nanmax(moved) <= km
    again = as_written(_back(coarse), Stamp(run="000001", method="geotoken", model="f1", coarsen_km=km))
    for column in ("latitude", "longitude", "exif_latitude", "candidates", "neighbours", "geometry", "s2_token"):
        assert again[column].to_pylist() == coarse[column].to_pylist()  # already on the grid: nothing finer was left
        assert column == "neighbours" or coarse[column].to_pylist() != fine[column].to_pylist()


def _back(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(["status", "geometry", "s2_token", "method", "model", "run", "schema_version"])


text = st.text(st.characters(codec="utf-8"), max_size=6)


@given(st.lists(st.tuples(text, st.none() | text)), st.lists(st.tuples(text, st.none() | text)))
def test_keys_are_a_set(inside: list[tuple[str, str | None]], asked: list[tuple[str, str | None]]) -> None:
    keys = Keys(inside)
    assert keys.holds(asked + inside).tolist() == [each in set(inside) for each in asked] + [True] * len(inside)
