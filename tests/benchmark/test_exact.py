"""Exact search against a sort of everything, in blocks of awkward sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark import exact
from geobatch.benchmark.exact import Centres, Held, best, best_among
from geobatch.geo.distance import haversine_km


def slow(queries: exact.Vectors, tiles: exact.Vectors, k: int, among: list[list[int]] | None = None) -> list[list[int]]:
    """Rows of the best tiles, each pair multiplied by itself."""
    found = []
    for at, query in enumerate(queries):
        rows = range(len(tiles)) if among is None else among[at]
        order = sorted(rows, key=lambda row: (-float(np.dot(query, tiles[row])), row))[:k]
        found.append(order + [-1] * (k - len(order)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 60), st.integers(1, 12))
def test_equal_to_a_sort_of_everything_with_all_its_ties(seed: int, asked: int, held: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-1, 2, (asked, 3)).astype(np.float32)  # whole numbers: exact products, and many of them equal
    tiles = rng.integers(-1, 2, (held, 3)).astype(np.float32)
    among = [np.flatnonzero(rng.random(held) < 0.4).astype(np.int64) for _ in range(asked)]
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_QUERIES", 4), ("_TILES", 7), ("_PAIRS", 11)):
            patch.setattr(exact, name, size)
        values, rows = best(Held(queries), Held(tiles), k)
        some_values, some = best_among(Held(queries), Held(tiles), k, among)
    assert rows.tolist() == slow(queries, tiles, k)
    assert some.tolist() == slow(queries, tiles, k, [each.tolist() for each in among])
    for found, order in ((values, rows), (some_values, some)):
        products = np.einsum("nkd,nd->nk", tiles[order], queries) if held else np.zeros(order.shape)
        assert np.array_equal(found, np.where(order >= 0, products, -np.inf))


def test_a_model_that_says_the_same_of_everything_gets_the_first_rows() -> None:
    _, rows = best(Held(np.ones((3, 2), np.float32)), Held(np.ones((20_000, 2), np.float32)), 4)
    assert rows.tolist() == [[0, 1, 2, 3]] * 3


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 25))
def test_the_nearest_with_all_that_are_as_far(seed: int, tiles: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.integers(-3, 4, tiles) * 30.0, rng.integers(-6, 7, tiles) * 30.0  # poles, the date line, ties
    latitude[rng.random(tiles) < 0.2] = np.nan
    where = np.array([0.0, 90.0, 30.0, np.nan]), np.array([0.0, 12.0, -180.0, 0.0])
    found = Centres(latitude, longitude).near(*where, count)
    for at, rows in enumerate(found):
        far = haversine_km(where[0][at], where[1][at], latitude, longitude)
        known = np.sort(far[np.isfinite(far)])
        limit = known[min(count, len(known)) - 1] + 1e-6 if len(known) else -1.0
        assert rows.tolist() == np.flatnonzero(far <= limit).tolist()
    assert found[3].tolist() == []


def test_more_equal_places_than_are_looked_up_are_all_there() -> None:
    latitude, longitude = np.full(300, 10.0), np.full(300, 20.0)
    latitude[7] = 11.0
    rows = Centres(latitude, longitude).near(np.array([10.0]), np.array([20.0]), 100)[0]
    assert rows.tolist() == [row for row in range(300) if row != 7]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 50.0, 150.0, 5e6, 3e7]))
def test_counts_within_a_distance(seed: int, metres: float) -> None:
    rng = np.random.default_rng(seed)
    latitude, longitude = 40 + rng.normal(size=50) * 1e-3, -74 + rng.normal(size=50) * 1e-3
    latitude[0] = np.nan
    where = np.array([40.0, latitude[1], np.nan]), np.array([-74.0, longitude[1], 0.0])
    counts = Centres(latitude, longitude).within(*where, metres)
    far = haversine_km(where[0][:, None], where[1][:, None], latitude, longitude)
    assert counts.tolist() == (1000 * far <= metres).sum(axis=1).tolist()


def test_nothing_is_near_where_nothing_has_a_place() -> None:
    nowhere = Centres(np.full(3, np.nan), np.full(3, np.nan))
    assert [len(rows) for rows in nowhere.near(np.zeros(2), np.zeros(2), 5)] == [0, 0]
    assert nowhere.within(np.zeros(2), np.zeros(2), 1e9).tolist() == [0, 0]
