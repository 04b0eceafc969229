"""Kernels against random points, masses against loops, clouds and areas against what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo import cell, point
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.methods.geotoken.posterior import MULTIPLES, Kernels, Posterior
from geobatch.schema import RADII_KM

SHARES = np.array([[0.0, 0.1, 0.6, 0.2, 0.1, 0, 0, 0], [0.1, 0.2, 0.5, 0.2, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0, 0, 0]])


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(SHARES)


def mixture(rng: np.random.Generator, images: int, kernels: Kernels | None, scale: float = 8.0) -> Posterior:
    """Seven draws, a place between and three neighbours an image, within some 50 km; one draw missing in every third."""
    centre = np.degrees(np.arcsin(rng.uniform(-0.95, 0.95, images)))[:, None], rng.uniform(-180, 180, images)[:, None]
    latitude = (centre[0] + rng.normal(0, 0.4, (images, 11))).clip(-90, 90)
    longitude = (centre[1] + rng.normal(0, 0.4, (images, 11)) + 180) % 360 - 180
    kinds = np.tile(np.array([0] * 7 + [1] + [2] * 3, np.int8), (images, 1))
    weights = rng.uniform(0.1, 1, (images, 11))
    kinds[::3, 6], weights[::3, 6] = -1, 0
    points = point.unit_vectors(latitude, longitude)
    points[::3, 6] = 0
    return Posterior(points, weights / weights.sum(axis=1, keepdims=True) * 0.98, kinds, np.full(images, scale), kernels)


def scattered(rng: np.random.Generator, posterior: Posterior, row: int, count: int) -> np.ndarray:
    """Random points of one image's mixture, drawn kernel by kernel on the sphere: the slow way."""
    weights = posterior.weights[row] / posterior.weights[row].sum()
    place = rng.choice(len(weights), count, p=weights)
    shares = SHARES[posterior.kinds[row][place]]
    width = np.array(MULTIPLES)[(rng.random(count)[:, None] > shares.cumsum(axis=1)).sum(axis=1)] * posterior.scale[row]
    angle = 2 * np.arcsin(np.minimum(1, width * np.sqrt(-2 * np.log(rng.random(count))) / (2 * EARTH_RADIUS_KM)))
    turn = rng.uniform(0, 2 * np.pi, count)
    at = posterior.points[row][place]
    side = np.cross(at, rng.normal(size=3))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(at, side)
    around = np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * other
    return np.cos(angle)[:, None] * at + np.sin(angle)[:, None] * around


def test_masses_radii_and_areas_are_those_of_random_points(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    posterior = mixture(rng, 6, kernels)
    options = posterior.points[:, [0, 7, 8]]
    found = posterior.within(options, RADII_KM)
    radius = posterior.radius(options[:, 0], 0.9)
    cells, held = posterior.area(0.9)
    assert (cells > 0).any()
    for row in range(len(options)):
        points = scattered(rng, posterior, row, 40_000)
        for option in range(3):
            km = EARTH_RADIUS_KM * np.arccos(np.clip(points @ options[row, option], -1, 1))
            expected = [0.98 * float(np.mean(km <= limit)) for limit in RADII_KM]
            assert found[row, option] == pytest.approx(expected, abs=0.012)
            if not option:
                assert 0.98 * np.mean(km <= radius[row]) == pytest.approx(0.9, abs=0.015)
        if cells[row]:
            inside = cell.holds(np.full(len(points), cells[row]), *point.lat_lon(points))
            assert 0.98 * inside.mean() == pytest.approx(held[row], abs=0.03)
    assert posterior.share(options, RADII_KM) == pytest.approx(found.mean(axis=2), abs=1e-9)


def test_points_without_kernels_are_counted_one_by_one() -> None:
    posterior = mixture(np.random.default_rng(1), 20, None)
    found = posterior.within(posterior.points[:, :3], RADII_KM)
    latitude, longitude = point.lat_lon(posterior.points)
    for row in range(20):
        for option in range(3):
            km = haversine_km(latitude[row], longitude[row], latitude[row, option], longitude[row, option])
            expected = [float(posterior.weights[row][km <= limit].sum()) for limit in RADII_KM]
            assert found[row, option] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), scale=st.floats(0.05, 2000), radius=st.floats(0.5, 5000))
def test_mass_grows_with_the_radius_and_shrinks_with_the_distance(seed: int, scale: float, radius: float) -> None:
    posterior = mixture(np.random.default_rng(seed), 2, Kernels(SHARES), scale)
    assert np.all(np.diff(posterior.within(posterior.points[:, :1], [radius, 1.2 * radius, 3 * radius]), axis=2) >= -1e-9)
    alone = Posterior(posterior.points[:, :1], np.ones((2, 1)), posterior.kinds[:, :1], posterior.scale, posterior.kernels)
    away = np.stack([posterior.points[:, 0] + shift * np.array([0, 0, 1.0]) for shift in (0, 0.001, 0.01, 0.1)], axis=1)
    away /= np.linalg.norm(away, axis=2, keepdims=True)
    # A ring that just fits into the circle is one of 96.
    assert np.all(np.diff(alone.within(away, [radius])[..., 0], axis=1) <= 0.011)


def test_a_radius_that_holds_its_mass_is_no_wider_than_it_must_be(kernels: Kernels) -> None:
    posterior = mixture(np.random.default_rng(2), 9, kernels)
    places = posterior.points[:, 0]
    radius = posterior.radius(places, 0.9)
    for row in range(9):
        one = Posterior(*(getattr(posterior, name)[row : row + 1] for name in ("points", "weights", "kinds", "scale")), kernels)
        held, less = one.within(places[row : row + 1, None], [radius[row], radius[row] * 0.97])[0, 0]
        assert held >= 0.9 > less
    everything = posterior.radius(places, 0.99)
    assert np.allclose(everything, np.pi * EARTH_RADIUS_KM)


def test_an_image_alone_or_among_others_is_the_same(kernels: Kernels) -> None:
    posterior = mixture(np.random.default_rng(3), 600, kernels)
    cells, held = posterior.area(0.9)
    last = Posterior(*(getattr(posterior, name)[-1:] for name in ("points", "weights", "kinds", "scale")), kernels)
    assert last.area(0.9)[0] == cells[-1:] and last.area(0.9)[1] == held[-1:]
    assert last.share(last.points, RADII_KM) == pytest.approx(posterior.share(posterior.points, RADII_KM)[-1:])


def test_shares_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="3 kinds by 8 widths"):
        Kernels(np.ones((2, 8)) / 8)
