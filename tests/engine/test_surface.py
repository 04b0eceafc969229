"""Places between gallery images: exact where the surface is flat, honest where it says nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.gallery import Gallery, collect
from geobatch.engine.surface import Surface, meet
from geobatch.geo import point
from geobatch.geo.distance import haversine_km

SIZE = 48


def features(lat: np.ndarray, lon: np.ndarray, seed: int = 0, wave_km: float = 400.0) -> np.ndarray:
    """Unit vectors that vary smoothly over the sphere, one wave in some `wave_km`: an ideal encoder."""
    waves = np.random.default_rng(seed).standard_normal((3, SIZE // 2)) * 2 * np.pi * 6371 / wave_km / 3
    angle = point.unit_vectors(lat, lon) @ waves
    return (np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(SIZE / 2)).astype(np.float32)


def scattered(count: int, seed: int, middle: tuple[float, float] = (50.0, 10.0)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return middle[0] + rng.uniform(-5, 5, count), middle[1] + rng.uniform(-8, 8, count)


def gallery_of(lat: np.ndarray, lon: np.ndarray, vectors: np.ndarray) -> Gallery:
    lon = (lon + 180) % 360 - 180
    ids = [f"{row:05d}" for row in range(len(lat))]
    lists = pa.array(list(vectors), pa.list_(pa.float32()))
    return collect([pa.table({"image_id": ids, "latitude": lat, "longitude": lon, "vector": lists})])


@pytest.mark.parametrize("middle", [(50.0, 10.0), (-17.0, 180.0), (84.0, 0.0), (0.0, 0.0)])
def test_the_place_is_found_between_the_images(middle: tuple[float, float]) -> None:
    lat, lon = scattered(400, 1, middle)
    gallery = gallery_of(lat, lon, features(lat, lon))
    true_lat, true_lon = middle[0] + np.linspace(-3, 3, 40), middle[1] + np.linspace(-5, 5, 40)
    queries = features(true_lat, true_lon)
    similarities, rows = gallery.search(queries, 24)
    found = meet(gallery, queries, similarities, rows)
    error = haversine_km(found.latitude, found.longitude, true_lat, true_lon)
    nearest = haversine_km(*gallery.places(rows[:, 0]), true_lat, true_lon)
    assert np.median(error) < np.median(nearest) / 6
    assert (found.similarities >= similarities[:, 0] - 1e-3).all()
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert ((found.longitude >= -180) & (found.longitude <= 180)).all()


def test_the_spread_grows_with_the_noise() -> None:
    lat, lon = scattered(400, 1)
    gallery = gallery_of(lat, lon, features(lat, lon))
    true_lat, true_lon = scattered(200, 2)
    true_lat, true_lon = 50 + (true_lat - 50) / 2, 10 + (true_lon - 10) / 2
    spreads, errors = [], []
    for noise in (0.02, 0.1):
        queries = features(true_lat, true_lon) + np.random.default_rng(3).standard_normal((200, SIZE)) * noise
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        similarities, rows = gallery.search(queries, 24)
        found = meet(gallery, queries, similarities, rows)
        spreads.append(float(np.median(found.spread_km)))
        errors.append(float(np.median(haversine_km(found.latitude, found.longitude, true_lat, true_lon))))
    assert spreads[0] < spreads[1] and errors[0] < errors[1]
    # One standard deviation of the worse axis and the median of the distance are alike within a factor of four.
    assert all(0.25 < spread / error < 4 for spread, error in zip(spreads, errors, strict=True))


def test_a_picture_that_shows_nothing_stays_among_its_neighbours() -> None:
    lat, lon = scattered(200, 4)
    blank = np.tile(features(np.array([0.0]), np.array([0.0])), (200, 1))
    blank += np.random.default_rng(0).standard_normal(blank.shape).astype(np.float32) * 1e-4
    blank /= np.linalg.norm(blank, axis=1, keepdims=True)
    gallery = gallery_of(lat, lon, blank)
    similarities, rows = gallery.search(blank[:5], 24)
    found = meet(gallery, blank[:5], similarities, rows)
    near = haversine_km(found.latitude[:, None], found.longitude[:, None], *gallery.places(rows))
    assert (near.min(axis=1) < 200).all() and np.isfinite(found.spread_km).all()


def test_one_far_cluster_is_chosen_not_the_sea_between() -> None:
    lat, lon = scattered(200, 5, (40.0, -100.0))
    other_lat, other_lon = scattered(200, 6, (40.0, 30.0))
    vectors = features(lat, lon)
    twins = features(lat, lon) * 0.999  # the same looks, 10,000 km away
    twins /= np.linalg.norm(twins, axis=1, keepdims=True)
    gallery = gallery_of(np.concatenate([lat, other_lat]), np.concatenate([lon, other_lon]), np.concatenate([vectors, twins]))
    queries = features(np.array([40.3]), np.array([-99.7]))
    similarities, rows = gallery.search(queries, 24)
    found = meet(gallery, queries, similarities, rows)
    assert min(abs(found.longitude[0] + 100), abs(found.longitude[0] - 30)) < 12


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_images_is_enough_not_to_fail(count: int) -> None:
    lat, lon = np.array([10.0, 10.0, 10.1])[:count], np.array([20.0, 20.0, 20.1])[:count]
    gallery = gallery_of(lat, lon, features(np.array([10.0, 10.05, 10.1]), np.array([20.0, 20.05, 20.1]))[:count])
    queries = features(np.array([10.02]), np.array([20.02]))
    found = meet(gallery, queries, *gallery.search(queries, 24))
    assert haversine_km(found.latitude, found.longitude, 10.0, 20.0)[0] < 30


def test_no_queries_no_answers() -> None:
    lat, lon = scattered(5, 7)
    gallery = gallery_of(lat, lon, features(lat, lon))
    queries = np.zeros((0, SIZE), np.float32)
    assert len(meet(gallery, queries, *gallery.search(queries, 3), Surface(rounds=1)).latitude) == 0
