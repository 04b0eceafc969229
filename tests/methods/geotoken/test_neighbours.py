"""Neighbours with and without the place between images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.gallery import Gallery, collect
from geobatch.engine.surface import Surface, meet
from geobatch.methods.geotoken.neighbours import find


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    rng = np.random.default_rng(0)
    lat, lon = 50 + rng.uniform(-3, 3, 60), 10 + rng.uniform(-3, 3, 60)
    vectors = np.stack([np.cos(lat), np.sin(lat), np.cos(lon), np.sin(lon)], axis=1).astype(np.float32) / np.sqrt(2)
    lists = pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32()))
    return collect(
        [pa.table({"image_id": [f"g{row:02d}" for row in range(60)], "latitude": lat, "longitude": lon, "vector": lists})]
    )


def test_without_a_surface_it_is_the_search(gallery: Gallery) -> None:
    queries = gallery.vectors(np.arange(5))
    found = find(gallery, queries, 4)
    similarities, rows = gallery.search(queries, 4)
    assert (found.rows == rows).all() and (found.similarities == similarities).all()
    assert found.ids.to_pylist() == gallery.ids(rows).to_pylist()
    assert (found.vectors == gallery.vectors(rows)).all() and (found.latitude == gallery.places(rows)[0]).all()


def test_with_a_surface_it_leads_and_counts(gallery: Gallery) -> None:
    queries, ids = gallery.vectors(np.arange(5)), gallery.ids(np.arange(5)).to_pylist()
    found = find(gallery, queries, 4, Surface(neighbours=12), exclude_ids=ids)
    similarities, rows = gallery.search(queries, 12, exclude_ids=ids)
    between = meet(gallery, queries, similarities, rows, Surface(neighbours=12))
    assert found.rows.shape == (5, 4) and (found.rows[:, 0] == -1).all() and (found.rows[:, 1:] == rows[:, :3]).all()
    names = np.array(found.ids.to_pylist(), object).reshape(5, 4)
    assert (names[:, 0] == None).all()  # noqa: E711 — element by element
    assert names[:, 1:].ravel().tolist() == gallery.ids(rows[:, :3]).to_pylist()
    assert (found.latitude[:, 0] == between.latitude).all() and (found.vectors[:, 0] == between.vectors).all()
    assert not any(own in names[row] for row, own in enumerate(ids))


def test_what_is_missing_does_not_bear_on_the_place_between(gallery: Gallery) -> None:
    queries = gallery.vectors(np.arange(5))
    similarities, rows = gallery.search(queries, 7)
    padded = np.pad(rows, ((0, 0), (0, 5)), constant_values=-1)
    without = np.pad(similarities, ((0, 0), (0, 5)), constant_values=-np.inf)
    few, same = meet(gallery, queries, similarities, rows), meet(gallery, queries, without, padded)
    for name in ("latitude", "longitude", "vectors", "similarities", "spread_km"):
        np.testing.assert_allclose(getattr(same, name), getattr(few, name), rtol=1e-4, atol=1e-6)


def test_only_the_place_between(gallery: Gallery) -> None:
    found = find(gallery, gallery.vectors(np.arange(3)), 1, Surface())
    assert found.ids.to_pylist() == [None] * 3 and found.vectors.shape == (3, 1, 4)


def test_no_queries(gallery: Gallery) -> None:
    found = find(gallery, np.zeros((0, 4), np.float32), 3, Surface())
    assert found.rows.shape == (0, 3) and len(found.ids) == 0
