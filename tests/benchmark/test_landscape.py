"""What maps say of places: known places, a loop over single samples, and the nearest town by search through all."""

from __future__ import annotations

import math
from copy import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark import chart
from geobatch.benchmark.landscape import COVERS, HEIGHTS, RELIEFS, RIVERS, SAMPLES, WATERS, Facts, Landscape, bearing, islands
from geobatch.benchmark.world import Camera, World
from geobatch.engine.geocode import Geocoder, Town
from geobatch.geo.distance import haversine_km

KNOWN = {
    "Sahara": (23.0, 10.0), "Amazon": (-5.0, -63.0), "Congo": (0.5, 23.0), "taiga": (61.0, 75.0), "Greenland": (72.0, -40.0),
    "Tibet": (33.0, 88.0), "Ukraine": (49.5, 31.0), "outback": (-25.0, 130.0), "Himalaya": (28.5, 84.0),
    "Kansas": (38.0, -99.0), "Arabia": (20.0, 50.0), "Andes": (-10.0, -76.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape()


@pytest.fixture(scope="module")
def known(landscape: Landscape) -> dict[str, dict[str, float]]:
    """Shares of land of every class at the known places."""
    lat, lon = (np.array([place[axis] for place in KNOWN.values()]) for axis in (0, 1))
    total = {name: share.mean(axis=(1, 2)) for name, share in landscape.facts(lat, lon).shares.items()}
    return {name: {each: float(total[each][row] / total["land"][row]) for each in total} for row, name in enumerate(KNOWN)}


def first(shares: dict[str, float], names: tuple[str, ...]) -> str:
    return max(names, key=lambda name: shares[name])


def test_known_places_are_what_they_are_known_for(known: dict[str, dict[str, float]]) -> None:
    covers = {name: first(shares, COVERS) for name, shares in known.items()}
    assert {name for name, what in covers.items() if what == "forest"} >= {"Amazon", "Congo", "taiga"}
    assert {covers[name] for name in ("Sahara", "Arabia")} == {"desert"}
    assert covers["Greenland"] == "snow" and covers["outback"] == "red earth"
    assert covers["Ukraine"] in ("fields", "forest") and covers["Kansas"] in ("dry grass", "steppe", "fields")
    heights = {name: first(shares, HEIGHTS) for name, shares in known.items()}
    assert {heights[name] for name in ("Amazon", "taiga", "Ukraine")} == {"low"}
    assert {heights[name] for name in ("Tibet", "Himalaya", "Greenland")} == {"very high"}
    assert heights["Kansas"] == "upland"
    reliefs = {name: first(shares, RELIEFS) for name, shares in known.items()}
    assert {reliefs[name] for name in ("Himalaya", "Andes")} == {"mountainous"}
    assert {reliefs[name] for name in ("Greenland", "Kansas", "Congo")} == {"flat"}
    assert known["Amazon"]["great river"] > 0.02 and known["Sahara"]["dry"] > 0.95


def test_every_sample_of_land_has_one_of_each_class(landscape: Landscape) -> None:
    lat, lon = World().scatter(200, seed=4)
    shares = landscape.facts(lat, lon).shares
    assert np.allclose(sum(shares[name] for name in WATERS), 1)
    for names in (COVERS, HEIGHTS, RELIEFS, RIVERS):
        assert np.allclose(sum(shares[name] for name in names), shares["land"], atol=1e-6)


def test_no_place_asked_for_none_known(landscape: Landscape) -> None:
    facts = landscape.facts(np.empty(0), np.empty(0))
    assert len(facts) == 0 and facts.shares["sea"].shape == (0, 3, 3) and len(facts.town) == 0


def slow_sea(latitude: float, longitude: float, step_km: float) -> np.ndarray:
    """(SAMPLES, SAMPLES): whether each sample is sea, one ray at a time."""
    mask = chart.surfaces()
    phi, lam = math.radians(latitude), math.radians(longitude)
    sea = np.zeros((SAMPLES, SAMPLES), bool)
    for row in range(SAMPLES):
        for column in range(SAMPLES):
            east, north = ((v - (SAMPLES - 1) / 2) * step_km / 6371.0088 for v in (column, SAMPLES - 1 - row))
            x = math.cos(phi) * math.cos(lam) - east * math.sin(lam) - north * math.sin(phi) * math.cos(lam)
            y = math.cos(phi) * math.sin(lam) + east * math.cos(lam) - north * math.sin(phi) * math.sin(lam)
            z = math.sin(phi) + north * math.cos(phi)
            lat, lon = math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
            sea[row, column] = mask[math.floor((90 - lat) * 12), math.floor((lon + 180) * 12) % 4320] == 0
    return sea


@settings(max_examples=25, deadline=None)
@given(latitude=st.floats(-58, 75), longitude=st.floats(-180, 180))
def test_the_sea_is_where_its_rays_meet_it(landscape: Landscape, latitude: float, longitude: float) -> None:
    scene = landscape.scene(np.array([latitude]), np.array([longitude]))
    slow = slow_sea(latitude, longitude, 24.0)
    # float32 moves a ray by a few metres: of 576 samples, those on the border of a cell.
    assert ((scene.waters[0] == WATERS.index("sea")) != slow).sum() <= 3
    north_west = float(landscape.facts(np.array([latitude]), np.array([longitude])).shares["sea"][0, 0, 0])
    assert abs(north_west - slow[:8, :8].mean()) < 0.05


def flood(land: np.ndarray) -> int:
    """Islands of one square, by walking each piece of land."""
    rest = {(int(row), int(column)) for row, column in np.argwhere(land)}
    count = 0
    while rest:
        piece, open_ = set(), [rest.pop()]
        while open_:
            row, column = open_.pop()
            piece.add((row, column))
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in rest:
                    rest.remove(near)
                    open_.append(near)
        last = len(land) - 1
        count += len(piece) >= 2 and not any(row in (0, last) or column in (0, last) for row, column in piece)
    return count


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.7))
def test_islands_are_counted_as_one_who_walks_them_does(seed: int, share: float) -> None:
    land = np.random.default_rng(seed).random((4, 12, 12)) < share
    assert islands(land).tolist() == [flood(each) for each in land]


def test_the_nearest_town_is_named_with_its_distance_and_bearing(landscape: Landscape) -> None:
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-0.8, 0.9, 300))), rng.uniform(-180, 180, 300)
    towns = Geocoder([Town(f"t{row}", "", "") for row in range(300)], lat, lon)
    landscape = copy(landscape)
    landscape.towns = towns
    here = World().scatter(50, seed=8)
    facts: Facts = landscape.facts(*here)
    km = haversine_km(lat[None], lon[None], here[0][:, None], here[1][:, None])
    assert np.allclose(facts.km, km.min(axis=1)) and (facts.town == km.argmin(axis=1)).all()
    # Going that far in that direction from the town leads to the place.
    phi, angle, turn = np.radians(lat[facts.town]), facts.km / 6371, np.radians(facts.bearing)
    reached = np.degrees(np.arcsin(np.sin(phi) * np.cos(angle) + np.cos(phi) * np.sin(angle) * np.cos(turn)))
    assert np.allclose(reached, here[0], atol=0.01)


def test_bearings_are_those_of_a_compass() -> None:
    there = np.array([1.0, 0.0, -1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, -1.0, 1.0])
    assert np.allclose(bearing(np.zeros(5), np.zeros(5), *there), [0, 90, 180, 270, 45], atol=0.01)
    assert np.allclose(bearing(np.array([10.0]), np.array([179.5]), np.array([10.0]), np.array([-179.5])), 90, atol=0.1)


def test_a_smaller_tile_knows_less_ground(landscape: Landscape) -> None:
    """Dakar's 576 km see the sea on a whole side; 96 km around a town 200 km inland see none."""
    inland = np.array([14.7]), np.array([-15.4])
    assert landscape.facts(*inland).shares["sea"][0].mean() > 0.1
    near = Landscape(Camera(pixels=48, pixel_km=2.0)).facts(*inland)
    assert near.shares["sea"][0].mean() == 0
