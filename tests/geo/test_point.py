"""Points: vectors there and back, the coarse grid's promises, WKB as other readers see it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.geo.point import coarsen, lat_lon, unit_vectors, valid, wkb_points
from tests.geo.places import POINTS, uniform


def test_axes() -> None:
    vectors = unit_vectors([0, 0, 90, -90], [0, 90, 0, 77])
    assert np.allclose(vectors, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]], atol=1e-15)


def test_vectors_there_and_back() -> None:
    latitude, longitude = uniform(10_000)
    vectors = unit_vectors(latitude, longitude)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-15)
    back = lat_lon(vectors * np.linspace(0.1, 7, 10_000)[:, None])
    assert np.allclose(back[0], latitude, atol=1e-12) and np.allclose(back[1], longitude, atol=1e-12)


def test_vectors_broadcast_and_the_zero_vector_is_nowhere() -> None:
    assert unit_vectors(np.zeros((4, 1)), np.zeros(3)).shape == (4, 3, 3)
    latitude, longitude = lat_lon(np.zeros((2, 3)))
    assert np.all(np.isnan(latitude)) and np.all(np.isnan(longitude))


def test_valid_takes_the_rims_and_nothing_beyond() -> None:
    latitude = [90, -90, 90.001, 0, 0, np.nan, np.inf, 0, None]
    longitude = [180, -180, 0, 180.001, -np.inf, 0, 0, 0, 0]
    assert valid(latitude, longitude).tolist() == [True, True, False, False, False, False, False, True, False]


@given(POINTS, st.floats(0.001, 30_000))
def test_coarsen_moves_less_than_asked_and_keeps_its_own_centres(point: tuple[float, float], km: float) -> None:
    latitude, longitude = coarsen(*point, km)
    assert valid(latitude, longitude)
    assert haversine_km(*point, latitude, longitude) < km
    assert coarsen(latitude, longitude, km) == (latitude, longitude)


@pytest.mark.parametrize("km", [1.0, 25.0, 111.0, 3000.0, 7000.0])
def test_coarse_cells_are_nowhere_wider_than_asked(km: float) -> None:
    # Seen from within: of points along one parallel or meridian, those that share a cell lie within km.
    for latitude in (-89.999, -60.0, 0.0, 0.01, 45.0, 89.5):
        longitude = np.arange(-180, 180, 0.002)
        radius = EARTH_RADIUS_KM * np.cos(np.radians(latitude))
        cell = coarsen(np.full_like(longitude, latitude), longitude, km)[1]
        _, starts, counts = np.unique(cell, return_index=True, return_counts=True)
        inner = starts[1:-1]  # the first and last may meet across the antimeridian
        widths = np.radians(longitude[inner + counts[1:-1] - 1] - longitude[inner]) * radius
        assert inner.size == 0 or widths.max() <= km
    meridian = np.arange(-90, 90, 0.002)
    _, starts, counts = np.unique(coarsen(meridian, np.zeros_like(meridian), km)[0], return_index=True, return_counts=True)
    assert np.radians(meridian[starts + counts - 1] - meridian[starts]).max() * EARTH_RADIUS_KM <= km


def test_coarsen_hides_points_in_few_cells_and_keeps_nan() -> None:
    latitude, longitude = coarsen(48.85 + np.random.default_rng(0).uniform(0, 0.01, 500), np.full(500, 2.29), 25)
    assert len(set(zip(latitude.tolist(), longitude.tolist(), strict=True))) <= 2
    assert np.isnan(coarsen([np.nan], [1.0], 25)[0][0])
    assert coarsen(10.0, -180.0, 25) == coarsen(10.0, 180.0, 25)


@pytest.mark.parametrize("km", [0.0, -1.0, float("nan"), float("inf")])
def test_coarsen_refuses_what_is_no_distance(km: float) -> None:
    with pytest.raises(ValueError, match="positive number of kilometres"):
        coarsen(0, 0, km)


def test_wkb_is_what_shapely_reads() -> None:
    latitude, longitude = uniform(500)
    points = shapely.from_wkb(wkb_points(latitude, longitude))
    assert np.array_equal(shapely.get_x(points), longitude) and np.array_equal(shapely.get_y(points), latitude)


def test_wkb_is_none_without_a_place() -> None:
    points = wkb_points([1.0, np.nan, None, 0.0], [2.0, 2.0, 2.0, np.nan])
    assert [one is None for one in points] == [False, True, True, True]
    assert wkb_points([], []) == []
