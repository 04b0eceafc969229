"""Addresses of tiles against their definition, and against values that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo.distance import haversine_km
from geobatch.geo.tiles import (
    MAX_LATITUDE,
    MAX_ZOOM,
    Tile,
    centres,
    corners,
    flipped,
    from_quadkey,
    holding,
    place_in_name,
    quadkey,
    side_km,
    tile_in_name,
)

ZOOMS = st.integers(0, MAX_ZOOM)
tiles = ZOOMS.flatmap(lambda zoom: st.builds(Tile, st.just(zoom), st.integers(0, 2**zoom - 1), st.integers(0, 2**zoom - 1)))


def slow_tile(latitude: float, longitude: float, zoom: int) -> tuple[int, int]:
    """As the OpenStreetMap wiki defines it, in other words: through the secant."""
    phi = math.radians(latitude)
    count = 2**zoom
    x = int((longitude + 180) / 360 * count)
    y = int((1 - math.log(math.tan(phi) + 1 / math.cos(phi)) / math.pi) / 2 * count)
    return min(x, count - 1), min(max(y, 0), count - 1)


@pytest.mark.parametrize(
    ("latitude", "longitude", "tile"),
    [
        # The OpenStreetMap wiki's example (Hachiko's statue), and mercantile's own.
        (35.6590699, 139.7006793, Tile(18, 232798, 103246)),
        (40.1222, 20.6852, Tile(9, 285, 193)),
        (53.2, -9.0, Tile(10, 486, 332)),
        (0.0, 0.0, Tile(1, 1, 1)),
        (85.06, -180.0, Tile(3, 0, 0)),
        (-89.0, 179.999, Tile(3, 7, 7)),
    ],
)
def test_known_tiles(latitude: float, longitude: float, tile: Tile) -> None:
    x, y = holding(latitude, longitude, tile.zoom)
    assert (int(x), int(y)) == (tile.x, tile.y)


def test_known_grounds() -> None:
    # Metres of 256 pixels at the equator on a sphere of 6371 km: its girth over 2^z.
    assert side_km(0, 0) == pytest.approx(40030.17, abs=0.01)
    assert side_km(17, 2**16) == pytest.approx(0.305406, abs=1e-6)
    assert [float(edge) for edge in corners(0, 0, 0)] == pytest.approx([-MAX_LATITUDE, -180, MAX_LATITUDE, 180])
    assert pytest.approx(85.0511287798) == MAX_LATITUDE
    south, west, north, east = (float(edge) for edge in corners(1, 1, 0))
    assert (south, west, north, east) == pytest.approx((0, 0, MAX_LATITUDE, 180), abs=1e-9)
    # mercantile's and Bing's examples.
    assert [float(edge) for edge in corners(10, 486, 332)] == pytest.approx(
        [53.12040528310657, -9.140625, 53.33087298301705, -8.7890625], abs=1e-9
    )
    assert quadkey(Tile(10, 486, 332)) == "0313102310" and quadkey(Tile(3, 3, 5)) == "213"
    assert float(centres(1, 1, 0)[0]) == pytest.approx(66.51326044311186)  # poleward of 42.5


@settings(max_examples=150, deadline=None)
@given(st.floats(-85, 85), st.floats(-180, 179.9999), st.integers(0, 24))
def test_the_tile_that_holds_a_point_holds_it(latitude: float, longitude: float, zoom: int) -> None:
    x, y = holding(latitude, longitude, zoom)
    south, west, north, east = corners(zoom, x, y)
    assert south - 1e-9 <= latitude <= north + 1e-9 and west - 1e-9 <= longitude <= east + 1e-9
    slow_x, slow_y = slow_tile(latitude, longitude, zoom)
    on_edge = min(abs(latitude - south), abs(latitude - north), abs(longitude - west), abs(longitude - east)) < 1e-9
    assert on_edge or (int(x), int(y)) == (slow_x, slow_y)


@settings(max_examples=150, deadline=None)
@given(tiles)
def test_a_tiles_middle_is_in_it_and_its_side_is_its_parallel(tile: Tile) -> None:
    latitude, longitude = centres(*tile)
    south, west, north, east = corners(*tile)
    assert south < latitude < north and west < longitude < east
    assert tuple(int(part) for part in holding(latitude, longitude, tile.zoom)) == (tile.x, tile.y)
    side = float(side_km(tile.zoom, tile.y))
    if tile.zoom >= 8:  # a chord of the parallel bends little, and a tile is as high as wide
        assert side == pytest.approx(float(haversine_km(latitude, west, latitude, east)), rel=2e-3)
        if tile.zoom >= 12 and tile.zoom <= 22:
            assert side == pytest.approx(float(haversine_km(south, longitude, north, longitude)), rel=1e-2)


@settings(max_examples=150, deadline=None)
@given(tiles)
def test_every_form_of_an_address_comes_back(tile: Tile) -> None:
    assert from_quadkey(quadkey(tile)) == tile and len(quadkey(tile)) == tile.zoom
    assert flipped(flipped(tile)) == tile
    assert float(corners(*flipped(tile))[0]) == pytest.approx(-float(corners(*tile)[2]), abs=1e-9)
    zoom, x, y = tile
    for name in (f"s3://b/{zoom}/{x}/{y}.png", f"{zoom}/{x}/{y}", f"t.tar#{zoom}/{x}/{y}@2x.webp"):
        assert tile_in_name(name) == tile_in_name(name, joined=False) == tile
        assert tile_in_name(name, "tms") == flipped(tile)
    assert tile_in_name(f"a/{zoom}_{x}_{y}.jpg") == tile_in_name(f"{zoom}-{x}-{y}") == tile
    assert tile_in_name(f"a/{zoom}_{x}_{y}.jpg", joined=False) is None
    if zoom:
        assert tile_in_name(f"tiles/a{quadkey(tile)}.jpeg", "quadkey") == tile_in_name(quadkey(tile), "quadkey") == tile


@pytest.mark.parametrize(
    "name",
    [
        "39/19/3845791320.jpg",  # MP16-Pro
        "39_19_3845791320.jpg",
        "2021/3/5.jpg",
        "3/8/1.png",
        "3/1/8.png",
        "31/0/0.png",
        "17/x/5.png",
        "17/5.png",
        "1/2/3/",
        "",
        "17_5-3.png",
        "3/1/1.png.old/x",
        "１/1/1.png",  # digits of other scripts are none
    ],
)
def test_names_that_are_no_address(name: str) -> None:
    assert tile_in_name(name) is None and tile_in_name(name, "tms") is None


@pytest.mark.parametrize("key", ["0124", "a", "0" * (MAX_ZOOM + 1), "0 1"])
def test_what_is_no_quadkey(key: str) -> None:
    assert tile_in_name(f"x/{key}.png", "quadkey") is None
    with pytest.raises(ValueError, match="is no quadkey"):
        from_quadkey(key)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-90, 90), st.floats(-180, 180), st.sampled_from([",", "_", ", "]), st.sampled_from(["", ".png", "_2020-05_x.jpg"])
)
def test_coordinates_in_names_come_back(latitude: float, longitude: float, gap: str, rest: str) -> None:
    lat, lon = f"{latitude:.7f}", f"{longitude:.7f}"
    for folder in ("", "s3://b/c/", "t.zip#", "1.5,2.5/"):
        assert place_in_name(f"{folder}{lat}{gap}{lon}{rest}") == (float(lat), float(lon))


@pytest.mark.parametrize(
    "name",
    [
        "48,2.png",
        "a48.5,2.5.png",
        "1.5.2,3.5.png",
        "1.5,2.5.3.png",
        "91.5,3.5.png",
        "9.5,183.5.png",
        "1.5,2.5/a.png",
        "1.5",
        "",
    ],
)
def test_names_without_coordinates(name: str) -> None:
    assert place_in_name(name) is None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_no_name_breaks_the_readers(name: str) -> None:
    for scheme in ("xyz", "tms", "quadkey"):
        tile = tile_in_name(name, scheme)  # type: ignore[arg-type]
        assert tile is None or 0 <= max(tile.x, tile.y) < 2**tile.zoom
    place = place_in_name(name)
    assert place is None or (abs(place[0]) <= 90 and abs(place[1]) <= 180)


def test_whole_columns_at_once() -> None:
    zoom = np.array([[3], [5]])
    x, y = holding(np.array([10.0, -20.0]), np.array([5.0, 6.0]), zoom)
    assert x.shape == (2, 2) and side_km(zoom, y).shape == (2, 2)
    assert centres(zoom, x, y)[0].shape == corners(zoom, x, y)[3].shape == (2, 2)
