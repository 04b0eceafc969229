"""Files of points in each form they may have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.errors import UserError
from geobatch.methods.ngcg.points import Points
from geobatch.store import Store

ROWS = {"IMG_ID": ["a/1.jpg", "a/2.jpg", "b"], "lat": [1.0, 2.0, 3.0], "lon": [4.0, 5.0, 6.0]}


def test_parquet_and_csv_of_either_delimiter_say_the_same(tmp_path: Path) -> None:
    more = {"Radius-km": [None, 2.5, None], "nearest": [None, None, 7]}
    pq.write_table(pa.table({**ROWS, **more}), tmp_path / "p.parquet")
    for name, mark in (("p.csv", ","), ("p.txt", ";")):
        columns = {**ROWS, **more}
        lines = [
            mark.join(columns),
            *(mark.join("" if cell is None else str(cell) for cell in row) for row in zip(*columns.values(), strict=True)),
        ]
        (tmp_path / name).write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    for name in ("p.parquet", "p.csv", "p.txt"):
        points = Points(Store(None), str(tmp_path / name), radius_km=9.0)
        latitude, longitude, radius, nearest = points.of(["s3://x/a/1.jpg", "b@2", "nobody", "a/2.jpg", "b@1"])
        assert np.array_equal(latitude, [1, 3, math.nan, 2, 3], equal_nan=True), name
        assert np.array_equal(longitude, [4, 6, math.nan, 5, 6], equal_nan=True)
        assert radius.tolist() == [9, 9, 9, 2.5, 9] and nearest.tolist() == [0, 7, 0, 0, 7]


def test_without_columns_of_its_own_the_settings_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "p.parquet")
    _, _, radius, nearest = Points(Store(None), str(tmp_path / "p.parquet"), nearest=100).of(["b", "a/1.jpg"])
    assert radius.tolist() == [0, 0] and nearest.tolist() == [100, 100]


@pytest.mark.parametrize("cell", ["-1", "0", "inf", "many"])
def test_a_bound_that_is_none_names_its_row(cell: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"image_id,latitude,longitude,nearest\nb,1,2,{cell}\n")
    with pytest.raises(UserError, match=f"nearest '{cell}' for b; give a number above 0"):
        Points(Store(None), str(tmp_path / "p.csv"))
