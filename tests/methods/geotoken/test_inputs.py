"""Codes against s2sphere's own (face, i, j), and batches from arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import s2sphere
import torch
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.inputs import codes_of, context, hilbert, places_of, quadrants
from tests.methods.geotoken.tiny import TINY, arrays

LEVELS = st.integers(1, 30)
GROUPS = st.integers(1, 3)
PLACES = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=20)


def slow_quadrants(latitude: float, longitude: float, level: int) -> list[int]:
    """Face, then 2·i + j of each level, from the leaf cell's own coordinates."""
    leaf = s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude))
    face, i, j, _ = leaf.to_face_ij_orientation()
    return [face, *(2 * (i >> (30 - at) & 1) + (j >> (30 - at) & 1) for at in range(1, level + 1))]


@given(PLACES, LEVELS)
def test_quadrant_codes_are_rows_and_columns_of_the_face(places: list[tuple[float, float]], level: int) -> None:
    config = replace(TINY, level=level, order="quadrant")
    latitude, longitude = np.array(places).T
    expected = [slow_quadrants(*place, level) for place in places]
    assert codes_of(latitude, longitude, config).tolist() == expected


@given(PLACES, LEVELS, GROUPS, st.sampled_from(["hilbert", "quadrant"]))
def test_codes_name_the_same_cell_in_both_orders(
    places: list[tuple[float, float]], level: int, group_size: int, order: str
) -> None:
    config = replace(TINY, level=level, group_size=group_size, order=order)
    latitude, longitude = np.array(places).T
    codes = codes_of(latitude, longitude, config)
    assert codes.shape == (len(places), config.length)
    assert (codes >= 0).all() and (codes < np.array(config.vocabularies)).all()
    found = places_of(codes, config)
    np.testing.assert_array_equal(found, s2.places(s2.tokens(latitude, longitude, level, group_size), level, group_size))
    # A face is 10,000 km wide; the diagonal of a cell halves with each level, at worst from 2.44 radians of a face's.
    assert haversine_km(*found, latitude, longitude).max() <= 2.45 / 2 * 6371 * 0.5 ** (level - 1)


@given(st.integers(0, 2**32 - 1), GROUPS, LEVELS)
def test_the_orders_are_inverse_to_each_other(seed: int, group_size: int, level: int) -> None:
    config = replace(TINY, level=level, group_size=group_size)
    tokens = np.random.default_rng(seed).integers(0, config.vocabularies, (50, config.length))
    codes = quadrants(tokens, config.groups)
    np.testing.assert_array_equal(hilbert(codes, config.groups), tokens)
    assert len(np.unique(codes, axis=0)) == len(np.unique(tokens, axis=0))


def test_golden_tokens_of_the_eiffel_tower() -> None:
    config = replace(TINY, level=20)
    codes = codes_of(np.array([48.8584]), np.array([2.2945]), config)
    assert codes[0].tolist() == [2, 0, 3, 3, 3, 0, 3, 0, 3, 1, 3, 3, 3, 0, 0, 3, 3, 2, 1, 2, 3]


def test_a_neighbour_without_a_place_is_missing_whatever_its_vector() -> None:
    values = arrays()
    values[2][1, 2] = np.nan
    values[1][1, 2] = np.nan
    batch = context(TINY, *values)
    assert batch.present_BM.tolist() == [[True] * 3, [True, True, False], [True] * 3, [True] * 3]
    assert all(bool(torch.isfinite(value).all()) for value in batch.tensors())
    assert batch.views_BVD.shape == (4, 2, 6) and batch.neighbour_views_BMVD.shape == (4, 3, 2, 6)


def test_vectors_of_another_length_are_refused() -> None:
    values = arrays()
    with pytest.raises(UserError, match="length 11"):
        context(TINY, values[0][:, :11], *values[1:])
