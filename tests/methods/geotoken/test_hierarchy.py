"""Regions as tokens: there and back on GeoNames' towns, and what the numbers mean on a few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine.geocode import Geocoder, Town
from geobatch.errors import UserError
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.hierarchy import Hierarchy, hierarchy
from geobatch.methods.geotoken.inputs import codes_of, places_of
from geobatch.methods.geotoken.smoothing import targets

TOWNS = (
    (Town("Lyon", "Rhône-Alpes", "France"), 45.76, 4.84, 500_000),
    (Town("Paris", "Île-de-France", "France"), 48.857, 2.352, 2_000_000),
    (Town("Berlin", "Berlin", "Germany"), 52.52, 13.4, 3_500_000),
    (Town("Versailles", "Île-de-France", "France"), 48.804, 2.12, 85_000),
    (Town("Manaus", "Amazonas", "Brazil"), -3.1, -60.02, 2_000_000),
)


@pytest.fixture(scope="module")
def few() -> Hierarchy:
    towns, latitude, longitude, people = zip(*TOWNS, strict=True)
    return Hierarchy(Geocoder(towns, latitude, longitude, people))


def test_the_populous_come_first(few: Hierarchy) -> None:
    latitude, longitude = (np.array([town[axis] for town in TOWNS]) for axis in (1, 2))
    assert few.sizes == (3, 2, 2)
    assert few.codes(latitude, longitude).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [2, 0, 0]]
    back = few.places(few.codes(latitude, longitude))
    assert np.array_equal(back[0], latitude) and np.array_equal(back[1], longitude)


def test_what_is_not_there_is_the_most_populous(few: Hierarchy) -> None:
    for codes, town in (([0, 1, 1], 2), ([1, 1, 1], 0), ([1], 1), ([1, 1], 0), ([2, 1, 0], 4)):
        latitude, longitude = few.places(np.array([codes]))
        assert (latitude[0], longitude[0]) == TOWNS[town][1:3]
    for wrong in ([[3, 0, 0]], [[-1, 0, 0]], [[0, 0, 0, 0]]):
        with pytest.raises(ValueError, match="a country, a region and a town"):
            few.places(np.array(wrong))


def test_every_town_of_the_gazetteer_is_its_own_tokens() -> None:
    whole = hierarchy(())
    rows = np.arange(0, len(whole.towns), 7)
    latitude, longitude = whole.towns.latitude[rows], whole.towns.longitude[rows]
    codes = whole.codes(latitude, longitude)
    assert (codes < whole.sizes).all() and len(np.unique(codes, axis=0)) > 0.999 * len(rows)
    back = whole.places(codes)
    assert np.array_equal(back[0], latitude) and np.array_equal(back[1], longitude)
    assert whole.towns[int(whole.towns.nearest(*(np.array(each) for each in whole.places(np.array([[0]]))))[0])].country
    with pytest.raises(UserError, match="install the version of reverse_geocode"):
        hierarchy((1, 2, 3))


@given(st.integers(0, 10**9))
def test_any_numbers_are_a_town(number: int) -> None:
    whole = hierarchy(())
    codes = np.random.default_rng(number).integers(0, whole.sizes, (8, 3))
    places = whole.places(codes)
    # Decoding is a projection: the town's own tokens name the town.
    assert np.array_equal(whole.places(whole.codes(*places)), places)


def test_the_network_reads_and_writes_them() -> None:
    sizes = hierarchy(()).sizes
    config = replace(GeoToken.small(8), tokens="regions", regions=sizes, order="hilbert", relative=False)
    assert config.vocabularies == sizes and config.length == 3 and len(config.weights) == 3
    codes = codes_of(np.array([48.86]), np.array([2.35]), config)
    assert places_of(codes, config)[0][0] == pytest.approx(48.86, abs=0.05)
    assert GeoToken.read({**config.__dict__, "regions": list(sizes)}) == config
    for wrong in ({"regions": ()}, {"order": "quadrant"}):
        with pytest.raises(UserError, match="tokens of regions take"):
            replace(config, **wrong)
    with pytest.raises(UserError, match="smoothing takes cells"):
        targets(codes, np.array([48.86]), np.array([2.35]), config, 10.0)
    assert torch.from_numpy(codes).dtype == torch.int64
