"""Mass and radius against the pools' own way and against a sort of everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo import centre, s2
from geobatch.geo.cell import finest
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.geo.point import unit_vectors
from geobatch.methods.geoclip.density import AREA_LEVEL, Curve, around
from geobatch.schema import RADII_KM
from tests.methods.geoclip import miniature


def slow_radius(places: np.ndarray, mass: np.ndarray, at: int, share: float) -> float:
    """All distances sorted, the masses summed up to the share."""
    distance = haversine_km(places[at, 0], places[at, 1], places[:, 0], places[:, 1])
    order = np.argsort(distance, kind="stable")
    return float(distance[order][np.searchsorted(np.cumsum(mass[order].astype(np.float64)), share - 1e-9)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 400), st.floats(0, 8), st.sampled_from([0.5, 0.9, 0.99]))
def test_equal_to_the_slow_way(seed: int, count: int, sharpness: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    places = miniature.places(count, seed)
    points = unit_vectors(places[:, 0], places[:, 1])
    mass = np.exp(sharpness * rng.normal(size=(3, count)))
    mass = (mass / mass.sum(axis=1, keepdims=True)).astype(np.float32)
    centres = np.array([mass[0].argmax(), rng.integers(count), rng.integers(count)])
    found = around(points, mass, centres, share)
    whole = np.broadcast_to(points, (3, count, 3))
    # float32 weights do not sum to 1 exactly, and the slow way makes them.
    assert np.allclose(found.within, centre.mass_within(points[centres], whole, mass), atol=1e-6)
    slow = [slow_radius(places, row, at, share) for row, at in zip(mass, centres.tolist(), strict=True)]
    assert np.allclose(found.radius_90_km, slow, atol=1e-3)


def test_the_radii_count_themselves_and_all_mass_in_one_place_has_radius_0() -> None:
    north = np.degrees(np.asarray(RADII_KM) * (1 - 1e-9) / EARTH_RADIUS_KM)
    beyond = np.degrees(np.asarray(RADII_KM) * (1 + 1e-6) / EARTH_RADIUS_KM)
    points = unit_vectors(np.concatenate([[0.0], north, beyond]), np.zeros(11))
    mass = np.full((1, 11), 1 / 11)
    assert np.allclose(around(points, mass, np.array([0])).within, [[(2 + 2 * r) / 11 for r in range(5)]])
    alone = np.eye(11)[:1]
    assert around(points, alone, np.array([0])).radius_90_km.tolist() == [0.0]


def test_half_the_mass_at_the_antipode_is_half_the_earth_away() -> None:
    points = unit_vectors([30.0, -30.0], [10.0, -170.0])
    found = around(points, np.array([[0.5, 0.5]]), np.array([0]))
    assert found.radius_90_km[0] == pytest.approx(np.pi * EARTH_RADIUS_KM, abs=1)
    assert np.allclose(found.within, 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 400), st.floats(0, 8), st.sampled_from([0.6, 0.9, 0.99]))
def test_the_area_is_the_one_found_from_the_faces_down(seed: int, count: int, sharpness: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    places = miniature.places(count, seed)
    mass = np.exp(sharpness * rng.normal(size=(4, count)))
    mass[3] = np.arange(count) == rng.integers(count)
    mass /= mass.sum(axis=1, keepdims=True)
    tokens, held = Curve(places[:, 0], places[:, 1]).area(mass, share)
    leaves = np.broadcast_to(s2.cell_ids(places[:, 0], places[:, 1], s2.MAX_LEVEL), mass.shape)
    cells, shares = finest(leaves, mass, share, AREA_LEVEL)
    assert [token or "X" for token in tokens] == [s2.cell_tokens(cells[n : n + 1])[0] if cells[n] else "X" for n in range(4)]
    assert np.allclose([each or 0.0 for each in held], shares)
    assert tokens[3] is not None and held[3] == pytest.approx(1)


def test_no_area_is_finer_than_the_places_are() -> None:
    tokens, held = Curve(np.array([48.8584]), np.array([2.2945])).area(np.ones((1, 1)))
    assert held == [1.0] and s2.levels(s2.parse_cell_tokens([str(tokens[0])])).tolist() == [AREA_LEVEL]


def test_mass_on_both_sides_of_the_earth_has_no_area() -> None:
    assert Curve(np.array([10.0, -10.0]), np.array([0.0, 180.0])).area(np.full((1, 2), 0.5)) == ([None], [None])
