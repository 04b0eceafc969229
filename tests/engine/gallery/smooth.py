"""Vectors with the structure that encoders give: smooth functions of a place; and their opposite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from geobatch.geo.point import unit_vectors


def smooth(count: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random waves over places on the sphere: unit vectors (count, size), latitudes and longitudes."""
    rng = np.random.default_rng(seed)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)
    waves = np.random.default_rng(99)
    phase = unit_vectors(lat, lon) @ (waves.standard_normal((3, size)) * 4) + waves.uniform(0, 2 * np.pi, size)
    vectors = np.cos(phase).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), lat, lon


def formless(count: int, size: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Independent, identically distributed unit vectors: nothing is near anything."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def tables(vectors: np.ndarray, lat: np.ndarray, lon: np.ndarray, first: int = 0, size: int = 700) -> Iterator[pa.Table]:
    """As a job's parts give them; image ids rise with the row, from `first`."""
    for start in range(0, len(lat), size):
        part = slice(start, min(start + size, len(lat)))
        yield pa.table(
            {
                "image_id": [f"i{first + row:06d}" for row in range(part.start, part.stop)],
                "latitude": lat[part],
                "longitude": lon[part],
                "vector": pa.array(list(vectors[part]), pa.list_(pa.float32())),
            }
        )


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Rows (N, k) by a product with all of them."""
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true rows that were found."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
