"""The embedded world against a loop that follows one ray at a time, and against what a picture of the Earth must show."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.benchmark.world import Camera, Disturbance, World, compress, disturb
from geobatch.geo.distance import haversine_km


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def ray(world: World, latitude: float, longitude: float, turn: float, row: int, column: int) -> np.ndarray:
    """One pixel, in scalar float64: along the tangent plane, down to the sphere, bilinear in the map."""
    middle = (world.camera.pixels - 1) / 2
    right, up = ((value * world.camera.pixel_km / 6371.0088) for value in (column - middle, middle - row))
    angle = math.radians(turn)
    east, north = right * math.cos(angle) + up * math.sin(angle), up * math.cos(angle) - right * math.sin(angle)
    phi, lam = math.radians(latitude), math.radians(longitude)
    x = math.cos(phi) * math.cos(lam) - east * math.sin(lam) - north * math.sin(phi) * math.cos(lam)
    y = math.cos(phi) * math.sin(lam) + east * math.cos(lam) - north * math.sin(phi) * math.sin(lam)
    z = math.sin(phi) + north * math.cos(phi)
    lat, lon = math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
    chart = world._map[0].numpy()[:, :, 1:-1]
    height, width = chart.shape[1:]
    down, across = (90 - lat) / 180 * height - 0.5, (lon + 180) / 360 * width - 0.5
    top, left = math.floor(down), math.floor(across)
    value = np.zeros(3)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (1 - abs(down - top - i)) * (1 - abs(across - left - j))
        value += share * chart[:, top + i, (left + j) % width]
    return value


@settings(max_examples=40, deadline=None)
@given(st.floats(-58, 75), st.floats(-180, 180), st.floats(-180, 180), st.integers(0, 47), st.integers(0, 47))
def test_each_pixel_is_where_its_ray_meets_the_ground(
    world: World, latitude: float, longitude: float, turn: float, row: int, column: int
) -> None:
    seen = world.cut(np.array([latitude]), np.array([longitude]), np.array([turn]))[0, row, column]
    # A thousandth of a pixel of the map, times the steepest coast, and the rounding to whole levels.
    assert np.abs(seen - ray(world, latitude, longitude, turn, row, column)).max() <= 1.0


def test_the_antimeridian_is_a_place_like_any_other(world: World) -> None:
    lat = np.array([-17.0, -17.0, 66.0, 66.0])
    pictures = world.cut(lat, np.array([180.0, -180.0, 179.9999, -180.0001]))
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert np.abs(pictures[2].astype(int) - pictures[3]).max() <= 1
    assert pictures[0].std() > 10  # Fiji, not a seam or a blank


def test_a_turn_of_the_camera_turns_the_picture(world: World) -> None:
    lat, lon = np.array([40.0]), np.array([15.0])
    upright, turned = (world.cut(lat, lon, np.array([turn]))[0] for turn in (0.0, 90.0))
    # A camera turned clockwise sees the ground turned counter-clockwise.
    assert np.abs(np.rot90(upright).astype(int) - turned).max() <= 1


def test_a_crop_shows_as_many_km_at_any_latitude(world: World) -> None:
    """The crop 10 pixels east shows the same ground 10 pixels further left."""
    for latitude, longitude in ((0.0, 30.0), (45.0, 20.0), (70.0, 25.0)):
        lat, lon = np.array([latitude]), np.array([longitude])
        step = math.degrees(10 * world.camera.pixel_km / 6371 / math.cos(math.radians(latitude)))
        here, east = world.cut(lat, lon)[0].astype(float), world.cut(lat, lon + step)[0].astype(float)
        rows = slice(23, 25)  # meridians converge; along the middle rows the two agree
        gap = {shift: np.abs(here[rows, 14:34] - east[rows, 14 - shift : 34 - shift]).mean() for shift in range(6, 15)}
        assert min(gap, key=gap.__getitem__) == 10, gap
        assert gap[10] < gap[9] / 3


def test_places_are_uniform_on_land_and_coast(world: World) -> None:
    lat, lon = world.scatter(4000, seed=3)
    assert lat.min() >= -58 and lat.max() <= 75
    assert (world.land_share(lat, lon) >= world.camera.land).all()
    inside = world.land_share(np.array([48.0, -24.0, 0.0]), np.array([25.0, 134.0, -140.0]))
    assert inside[0] > 0.9 and inside[1] > 0.9 and inside[2] == 0.0
    # Uniform on the sphere: Africa between 15 N and 15 S has as many per km² as Russia between 55 N and 70 N.
    africa = ((np.abs(lat) < 10) & (lon > 18) & (lon < 28)).sum() / (np.sin(np.radians(10)) * 2 * 10)
    russia = ((lat > 57) & (lat < 67) & (lon > 60) & (lon < 110)).sum()
    russia /= (np.sin(np.radians(67)) - np.sin(np.radians(57))) * 50
    assert 0.7 < africa / russia < 1.4


def test_seeds_decide_everything(world: World) -> None:
    lat, lon = world.scatter(200, seed=1)
    again, other = world.scatter(200, seed=1), world.scatter(200, seed=2)
    assert (lat == again[0]).all() and (lon == again[1]).all()
    assert haversine_km(lat[:, None], lon[:, None], other[0], other[1]).min() > 0
    files = world.photograph(lat[:20], lon[:20], seed=5)
    assert files == world.photograph(lat[:20], lon[:20], seed=5)
    assert files != world.photograph(lat[:20], lon[:20], seed=6)
    with Image.open(io.BytesIO(files[0])) as image:
        assert (image.format, image.size) == ("JPEG", (48, 48))


def test_disturbing_changes_a_picture_but_not_its_place(world: World) -> None:
    lat, lon = world.scatter(64, seed=9)
    plain = world.cut(lat, lon)
    changed = disturb(plain, seed=1)
    assert (disturb(plain, seed=1) == changed).all()
    assert np.abs(changed.astype(int) - plain).mean() > 3

    def signature(pictures: np.ndarray) -> np.ndarray:
        flat = pictures.reshape(len(pictures), -1).astype(float)
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    nearest = (signature(changed) @ signature(plain).T).argmax(axis=1)
    assert (nearest == np.arange(64)).mean() > 0.9
    still = Disturbance(turn=0, exposure=0, contrast=0, tint=0, noise=0, blur=0)
    assert np.abs(disturb(plain, 1, still).astype(int) - plain).max() <= 1


def test_another_camera(world: World) -> None:
    picture = World(Camera(pixels=16, pixel_km=30.0)).cut(np.array([42.0]), np.array([12.5]))
    assert picture.shape == (1, 16, 16, 3)
    wide = world.cut(np.array([42.0]), np.array([12.5]))[0].astype(float)
    # The same ground at 30 km a pixel: the mean colours agree.
    assert np.abs(picture[0, 1:-1, 1:-1].mean(axis=(0, 1)) - wide[7:-7, 7:-7].mean(axis=(0, 1))).max() < 6


def test_quality_is_the_jpegs() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    low, high = compress(picture, np.array([10, 95]))
    assert len(low) < len(high) / 3


def test_another_rendering_shows_the_same_coasts_in_other_colours(world: World) -> None:
    relief = World(map="relief")
    lat, lon = world.scatter(300, seed=6)
    coast = np.flatnonzero(np.abs(world.land_share(lat, lon) - 0.5) < 0.25)
    marble, pale = (each.cut(lat[coast], lon[coast]).astype(float) for each in (world, relief))
    assert np.abs(marble - pale).mean() > 40

    def water(pictures: np.ndarray) -> np.ndarray:
        blue = (pictures[..., 2] - pictures[..., 0]).reshape(len(pictures), -1)
        blue -= blue.mean(axis=1, keepdims=True)
        return blue / np.linalg.norm(blue, axis=1, keepdims=True)

    # Where one is bluer the other is: 0.76 at one place (median), 0 at two; of 88 crops 70 % are found by their blue alone.
    likeness = water(marble) @ water(pale).T
    own = np.eye(len(coast), dtype=bool)
    assert np.median(likeness[own]) > 0.6 and abs(np.median(likeness[~own])) < 0.2
    assert len(coast) > 20 and (likeness.argmax(axis=1) == np.arange(len(coast))).mean() > 0.5
