"""Distances against arithmetic of fifty digits, at the places where floating point gives way."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given

from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km, within
from geobatch.geo.point import unit_vectors
from tests.geo.places import POINTS, uniform

HALF_ROUND_KM = np.pi * EARTH_RADIUS_KM


def slow_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Angle between unit vectors from |a × b| and a · b, kept in 50 digits once sines are had."""
    with localcontext() as context:
        context.prec = 50
        a, b = ([Decimal(x) for x in unit_vectors(*at).tolist()] for at in ((lat1, lon1), (lat2, lon2)))
        cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
        sine = sum(x * x for x in cross).sqrt()
        cosine = sum(x * y for x, y in zip(a, b, strict=True))
    return EARTH_RADIUS_KM * float(np.arctan2(float(sine), float(cosine)))


@given(POINTS, POINTS)
def test_equals_the_angle_between_vectors(one: tuple[float, float], two: tuple[float, float]) -> None:
    assert float(haversine_km(*one, *two)) == pytest.approx(slow_km(*one, *two), abs=1e-8)


@given(POINTS)
def test_antipodes_and_oneself(point: tuple[float, float]) -> None:
    latitude, longitude = point
    opposite = (-latitude, longitude - 180 if longitude > 0 else longitude + 180)
    assert float(haversine_km(*point, *opposite)) == pytest.approx(HALF_ROUND_KM, abs=1e-8)
    assert float(haversine_km(*point, *point)) == 0


def test_near_the_antipode_metres_still_count() -> None:
    metre = 1 / (HALF_ROUND_KM / 180 * 1000)
    for metres in (1, 10, 1000):
        short = HALF_ROUND_KM - float(haversine_km(0.0, 0.0, 0.0, 180 - metres * metre))
        assert short * 1000 == pytest.approx(metres, rel=1e-6)


def test_known_distance_and_the_antimeridian() -> None:
    # Paris (48.8584, 2.2945) to New York (40.6892, -74.0445), from the spherical law of cosines by hand.
    a, b, turn = np.radians([48.8584, 40.6892, 2.2945 + 74.0445])
    by_hand = 6371 * np.arccos(np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(turn))
    assert float(haversine_km(48.8584, 2.2945, 40.6892, -74.0445)) == pytest.approx(by_hand, abs=1e-6)
    assert float(haversine_km(0, 179.9, 0, -179.9)) == pytest.approx(6371 * np.radians(0.2), rel=1e-9)


def test_broadcasts_and_passes_nan_on() -> None:
    latitude, longitude = uniform(7)
    assert haversine_km(latitude[:, None], longitude[:, None], latitude, longitude).shape == (7, 7)
    assert np.isnan(haversine_km(np.nan, 0, 0, 0))


def test_a_radius_includes_its_rim_and_no_place_is_within_none() -> None:
    assert within([24.9, 25.0, 25.000001, np.nan], 25).tolist() == [True, True, False, False]
