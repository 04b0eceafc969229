"""Tiles and where they lie: by a file, their names, their addresses, their tags."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Proj

from geobatch.benchmark.geotiff import Ground, ground, is_tiff
from geobatch.benchmark.survey import Survey
from geobatch.errors import UserError
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.geo.tiles import centres, side_km
from geobatch.schema import IMAGE, empty_columns
from geobatch.store import NotFound
from tests.benchmark.geotiffs import geotiff, keys

#: An image that every source knows, each elsewhere.
UTM = geotiff(60, 40, keys(32633, True), (10.0, 10.0, 0.0), (0, 0, 0, 500_000.0, 5_000_000.0, 0))


def images(names: Sequence[str], data: Sequence[bytes | None] | None = None) -> pa.Table:
    columns = empty_columns(list(IMAGE), len(names))
    columns |= {"image_id": pa.array(names), "uri": pa.array(names)}
    columns["bytes"] = pa.array(data or [b"picture"] * len(names), pa.large_binary())
    return pa.table(columns, schema=IMAGE)


def surveyed(table: pa.Table, **settings: object) -> list[tuple[float | None, float | None, float | None, str | None]]:
    rows = Survey(**settings)(table).to_pylist()  # type: ignore[arg-type]
    assert all(row["reason"] in (None, "no_place") and row["stage"] in (None, "survey") for row in rows)
    return [(row["latitude"], row["longitude"], row["footprint_km"], row["detail"]) for row in rows]


class TestGeoTiff:
    def test_degrees(self) -> None:
        found = ground(geotiff(64, 32, keys(4326, False), (0.001, 0.002, 0), (0, 0, 0, 10.0, 50.0, 0)))
        assert isinstance(found, Ground)
        assert (found.latitude, found.longitude) == pytest.approx((50 - 0.032, 10 + 0.032), abs=1e-12)
        km = math.radians(0.064) * EARTH_RADIUS_KM  # high, and by the cosine as wide
        assert found.side_km == pytest.approx(km * math.sqrt(math.cos(math.radians(49.968))), rel=1e-6)

    def test_a_web_mercator_tile_is_its_xyz_tile(self) -> None:
        zoom, x, y = 16, 33190, 22540
        half = math.pi * 6378137.0
        pixel = 2 * half / 2**zoom / 256
        tie = (0, 0, 0, x * 256 * pixel - half, half - y * 256 * pixel, 0)
        found = ground(geotiff(256, 256, keys(3857, True), (pixel, pixel, 0), tie))
        assert isinstance(found, Ground)
        assert (found.latitude, found.longitude) == pytest.approx(tuple(map(float, centres(zoom, x, y))), abs=1e-9)
        assert found.side_km == pytest.approx(float(side_km(zoom, y)), rel=1e-4)

    def test_utm(self) -> None:
        found = ground(UTM)
        assert isinstance(found, Ground)
        zone = Proj(proj="utm", zone=33, ellps="WGS84")
        longitude, latitude = zone(500_000 + 300, 5_000_000 - 200, inverse=True)
        assert (found.latitude, found.longitude) == pytest.approx((latitude, longitude), abs=1e-9)
        sides = [
            Geod(ellps="WGS84").inv(*zone(*one, inverse=True), *zone(*other, inverse=True))[2] / 1e3
            for one, other in (
                ((500_000, 4_999_800), (500_600, 4_999_800)),
                ((500_300, 5_000_000), (500_300, 4_999_600)),
            )
        ]
        assert found.side_km == pytest.approx(math.sqrt(sides[0] * sides[1]), rel=5e-3)  # a sphere here, an ellipsoid there

    @settings(max_examples=20, deadline=None)
    @given(st.floats(-3, 3), st.floats(0.2, 30), st.floats(0.2, 30), st.integers(1, 40), st.integers(1, 40), st.booleans())
    def test_turned_and_point_rasters(
        self, angle: float, right: float, down: float, width: int, height: int, point: bool
    ) -> None:
        a, b = right * math.cos(angle), down * math.sin(angle)
        d, e = right * math.sin(angle), -down * math.cos(angle)
        affine = np.array([[a, b, 400_000.0], [d, e, 4_649_000.0]])
        whole = [*affine[0, :2], 0, affine[0, 2], *affine[1, :2], 0, affine[1, 2], 0, 0, 0, 0, 0, 0, 0, 1]
        found = ground(geotiff(width, height, keys(32633, True, point), transformation=whole))
        assert isinstance(found, Ground)
        # A point raster's (0, 0) is the middle of its first pixel.
        middle = affine @ [(width - point) / 2, (height - point) / 2, 1]
        longitude, latitude = Proj(proj="utm", zone=33, ellps="WGS84")(*middle, inverse=True)
        assert float(haversine_km(found.latitude, found.longitude, latitude, longitude)) < 1e-6
        assert found.side_km == pytest.approx(math.sqrt(right * width * down * height) / 1e3, rel=1e-2)

    def test_across_the_antimeridian(self) -> None:
        found = ground(geotiff(20, 20, keys(4326, False), (0.1, 0.1, 0), (0, 0, 0, 179.5, 1.0, 0)))
        assert isinstance(found, Ground)
        assert found.longitude == pytest.approx(-179.5) and found.side_km == pytest.approx(222.4, abs=0.1)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "is no TIFF"),
            (b"\x89PNG", "is no TIFF"),
            (b"II*\0", "damaged"),
            (b"MM\0+" + bytes(12), "damaged"),
            (geotiff(4, 4, None), "no GeoKeys"),
            (geotiff(4, 4, keys(4326, False)), "no ModelTransformation"),
            (geotiff(4, 4, keys(4326, False), (1.0, 1.0, 0)), "no ModelTransformation"),
            (geotiff(4, 4, keys(32767, True), (1.0, 1.0, 0), (0,) * 6), "no EPSG code"),
            (geotiff(4, 4, keys(1, True), (1.0, 1.0, 0), (0,) * 6), "do not convert"),
            (geotiff(4, 4, keys(5773, True), (1.0, 1.0, 0), (0,) * 6), "no map of the ground"),
            (geotiff(4, 4, keys(4978, False), (1.0, 1.0, 0), (0,) * 6), "no map of the ground"),
            (geotiff(4, 4, keys(4326, False), (1.0, 1.0, 0), (0, 0, 0, 5.0, 170.0, 0)), "not on Earth"),
            (geotiff(4, 4, keys(32633, True), (1.0, 1.0, 0), (0, 0, 0, 1e30, 1e30, 0)), "convert|on Earth"),
            (geotiff(4, 4, keys(32633, True), (0.0, 1.0, 0), (0, 0, 0, 4e5, 4e6, 0)), "no size"),
            (geotiff(4, 4, keys(32633, True), (math.nan, 1.0, 0), (0, 0, 0, 4e5, 4e6, 0)), "no ModelTransformation"),
            (geotiff(4, 4, (1, 1, 0, 900, 3072), (1.0, 1.0, 0), (0,) * 6), "no EPSG code"),
        ],
    )
    def test_what_has_no_place(self, data: bytes, why: str) -> None:
        found = ground(data)
        assert isinstance(found, str)
        assert re.search(why, found), found

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_damaged_tags_never_raise(self, data: st.DataObject) -> None:
        """Bytes of the directory and of what it points to are changed, or the file is cut off; pixels are left."""
        broken = bytearray(UTM)
        tags = len(UTM) - 60 * 40 * 3
        assert UTM[4:8] == (8).to_bytes(4, "little") and 100 < tags < 400  # the directory comes first, the pixels last
        for _ in range(data.draw(st.integers(1, 6))):
            broken[data.draw(st.integers(0, tags - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del broken[data.draw(st.integers(0, len(broken) - 1)) :]
        found = ground(bytes(broken))
        if isinstance(found, Ground):
            assert abs(found.latitude) <= 90 and abs(found.longitude) <= 180 and 0 < found.side_km < 4.1e4
        else:
            assert found

    def test_broken_and_odd_tiffs_of_other_projects(self, realdata: Path) -> None:
        """None of them states a place, and none raises."""
        data = [path.read_bytes() for name in ("hostile", "odd_valid") for path in sorted((realdata / name).rglob("*"))
                if path.is_file()]  # fmt: skip
        found = [ground(each) for each in data if is_tiff(each)]
        assert len(found) > 50 and all(isinstance(each, str) for each in found)

    def test_the_undamaged_is_read(self) -> None:
        assert isinstance(ground(memoryview(UTM)), Ground) and is_tiff(memoryview(UTM)) and not is_tiff(b"II")


class TestSurvey:
    def test_addresses(self) -> None:
        table = images(["s3://b/17/70406/42987.png", "b/t.tar#17_70406_42987.jpg~2", "b/a.png"])
        latitude, longitude = (float(each) for each in centres(17, 70406, 42987))
        first, second, third = surveyed(table, places="xyz")
        assert first[:2] == second[:2] == (latitude, longitude)
        assert first[2] == pytest.approx(float(side_km(17, 42987)), rel=1e-6)
        assert third == (None, None, None, "its name ends in no xyz address of a tile")
        flipped = surveyed(table, places="tms")[0]
        assert flipped[0] == pytest.approx(-latitude) and flipped[1] == longitude
        assert surveyed(images(["x/213.png"]), places="quadkey")[0][:2] == pytest.approx(tuple(map(float, centres(3, 3, 5))))

    def test_names(self) -> None:
        table = images(
            ["b/40.7,-74.01_2019-05_abc_d193_z3.png", "b/t.json#40.7,-74.01_2019-05_abc_d193_z3.png@2", "b/40_7.png"]
        )
        found = surveyed(table, places="names", footprint_km=0.2)
        assert found[0] == found[1] == (40.7, -74.01, pytest.approx(0.2), None)
        assert found[2] == (None, None, pytest.approx(0.2), "its name does not begin with coordinates")

    @pytest.mark.parametrize(
        ("column", "factor"), [("footprint_km", 1.0), ("size_m", 1e-3), ("Size M", 1e-3), (None, math.nan)]
    )
    @pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet"])
    def test_a_file_of_truth_and_sides(self, tmp_path: Path, kind: str, column: str | None, factor: float) -> None:
        path = tmp_path / "truth"
        side = column or "other"
        rows = {"lon": [2.5, 3.5, 4.5], side: [250.0, None, -3.0], "Image-ID": ["a/1.png", "2.png", "3.png"], "lat": [1, 2, 3]}
        if kind == "parquet":
            pq.write_table(pa.table(rows), path)
        else:
            lines = [rows.keys(), *zip(*rows.values(), strict=True)]
            comma = ";" if kind == "semicolons" else ","
            text = "\n".join(comma.join("" if cell is None else str(cell) for cell in line) for line in lines)
            path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = surveyed(
            images(["s3://b/a/1.png", "s3://b/2.png", "s3://b/3.png", "s3://b/4.png"]), places="truth", truth=str(path)
        )
        wide = None if column is None else pytest.approx(250 * factor)
        assert found[0] == (1.0, 2.5, wide, None) and found[1] == (2.0, 3.5, None, None) and found[2] == (3.0, 4.5, None, None)
        assert found[3] == (None, None, None, f"{path} holds no coordinates of it")

    def test_sides_that_are_no_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("id,lat,lon,footprint_km\na,1,2,wide\n")
        with pytest.raises(UserError, match=r"t\.csv has sides of tiles that are no numbers"):
            Survey("truth", str(tmp_path / "t.csv"))
        with pytest.raises(NotFound):
            Survey("truth", str(tmp_path / "none.csv"))
        with pytest.raises(UserError, match="give --truth"):
            Survey("truth")

    def test_the_texts_of_a_row_share_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("image_id,latitude,longitude,size_m\n0839/image-43.jpeg,1,2,500\n")
        names = [f"s3://b/test.json#0839/image-43.jpeg{mark}" for mark in ("@1", "@2", "~2")]
        found = surveyed(images([*names, "s3://b/test.json#0840/a.jpeg@1"]), truth=str(tmp_path / "t.csv"))
        assert [place[:3] for place in found] == [(1.0, 2.0, 0.5)] * 3 + [(None, None, None)]

    def test_tags(self) -> None:
        found = surveyed(images(["a.tif", "b.tif", "c.png"], [UTM, b"II*\0broken", None]), places="geotiff")
        assert found[0][0] == pytest.approx(45.15, abs=0.05) and found[0][2] == pytest.approx(0.49, abs=0.01)
        assert "damaged" in str(found[1][3])
        assert found[2][3] == "it is no TIFF"

    def test_auto_asks_in_turn(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("id,lat,lon,footprint_km\na.tif,7,8,9\n")
        plain = geotiff(4, 4, None)
        table = images(
            ["a.tif", "b/17/1/2.tif", "1.5,2.5/17/1/2.tif", "17/1/2.png", "9.5,8.5.tif", "17_1_2.png", "z.tif"],
            [UTM, UTM, UTM, b"x", plain, b"x", plain],
        )
        found = surveyed(table, truth=str(tmp_path / "t.csv"))
        assert found[0] == (7.0, 8.0, 9.0, None)
        assert found[1] == found[2] == surveyed(table, places="geotiff")[1]
        assert found[3][:2] == tuple(map(float, centres(17, 1, 2))) and found[4][:2] == (9.5, 8.5)
        assert found[5][:2] == (None, None) and "give --truth or --places" in str(found[5][3])
        assert "it has no GeoKeys" in str(found[6][3]) or "no ModelTransformation" in str(found[6][3])
        assert surveyed(table)[0] == found[1]  # without the file, its tags

    def test_exif_after_decoding(self) -> None:
        table = images(["a", "b"])
        for axis, values in (("latitude", [1.5, None]), ("longitude", [2.5, None])):
            table = table.append_column(f"exif_{axis}", pa.array(values, pa.float64()))
        assert surveyed(table, places="exif") == [
            (1.5, 2.5, None, None),
            (None, None, None, "its EXIF holds no coordinates of it"),
        ]

    def test_none_is_a_number_for_the_sink(self) -> None:
        out = Survey("none", footprint_km=2.0)(images(["17/1/2.png", "b"]))
        assert out["latitude"].null_count == out["longitude"].null_count == out["reason"].null_count - 2 == 0
        assert np.isnan(out["latitude"].to_numpy()).all() and out["footprint_km"].to_pylist() == [2.0, 2.0]

    def test_rejected_rows_pass_by(self) -> None:
        table = images(["17/1/2.png", "17/1/3.png"])
        for name in ("stage", "reason"):
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(["missing", None]))
        out = Survey("xyz")(table).to_pylist()
        assert out[0]["latitude"] is None and out[0]["reason"] == "missing" and out[1]["latitude"] is not None
