"""Labels come from the truth file or the EXIF, and an image with neither is a row that says so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from geobatch.benchmark.label import Label
from geobatch.errors import GeobatchError
from geobatch.schema import PICTURE, empty_columns


def pictures(names: list[str], exif: list[tuple[float, float] | None]) -> pa.Table:
    latitude = [each and each[0] for each in exif]
    longitude = [each and each[1] for each in exif]
    columns = {**empty_columns(list(PICTURE), len(names)), "image_id": names, "uri": names}
    columns |= {"exif_latitude": pa.array(latitude, pa.float64()), "exif_longitude": pa.array(longitude, pa.float64())}
    return pa.table(columns).cast(PICTURE)


def test_from_a_truth_file(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("image_id,latitude,longitude\na.jpg,1.5,2.5\nt.tar#b.jpg,-3,4\n")
    out = Label(str(truth))(pictures(["s3://x/a.jpg", "s3://x/t.tar#b.jpg", "s3://x/c.jpg"], [(9, 9), None, (8, 8)]))
    assert out["latitude"].to_pylist() == [1.5, -3.0, None]
    assert out["longitude"].to_pylist() == [2.5, 4.0, None]
    assert out["reason"].to_pylist() == [None, None, "no_place"]


def test_from_exif() -> None:
    out = Label()(pictures(["a", "b"], [(1.0, 2.0), None]))
    assert out["latitude"].to_pylist() == [1.0, None] and out["longitude"].to_pylist() == [2.0, None]
    assert out["stage"].to_pylist() == [None, "label"]


def test_a_missing_truth_file_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GeobatchError) as error:
        Label(str(tmp_path / "none.csv"))
    assert "none.csv" in str(error.value)
