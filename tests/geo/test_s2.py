"""S2 against s2sphere and the C++ library: ids, tokens, centres, every level, every awkward place."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import s2sphere
from hypothesis import given
from hypothesis import strategies as st

from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from tests.geo.places import POINTS, uniform

LEVELS = st.integers(0, 30)


def slow_id(latitude: float, longitude: float, level: int) -> int:
    leaf = s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude))
    return int(leaf.parent(level).id())


def slow_tokens(latitude: float, longitude: float, level: int) -> list[int]:
    leaf = s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude))
    return [leaf.face(), *((leaf.id() >> (61 - 2 * at)) & 3 for at in range(1, level + 1))]


@given(POINTS, LEVELS)
def test_ids_equal_s2sphere(point: tuple[float, float], level: int) -> None:
    assert int(s2.cell_ids(*point, level)) == slow_id(*point, level)


@pytest.mark.parametrize("level", [1, 7, 8, 13, 14, 20, 21, 27, 28, 29, 30])
def test_ids_equal_s2sphere_in_blocks(level: int) -> None:
    latitude, longitude = uniform(s2.BLOCK + 100, seed=level)
    picked = np.random.default_rng(1).choice(latitude.size, 150, replace=False)
    ids = s2.cell_ids(latitude, longitude, level)
    assert ids[picked].tolist() == [slow_id(latitude[at], longitude[at], level) for at in picked]
    assert np.array_equal(ids, np.concatenate([s2.cell_ids(latitude[:50], longitude[:50], level), ids[50:]]))


def test_ids_equal_the_cpp_library(realdata: Path) -> None:
    with gzip.open(realdata / "s2" / "s2_encode_corpus.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    latitude, longitude = (np.array([float(row[axis]) for row in rows]) for axis in ("lat", "lon"))
    level = np.array([int(row["level"]) for row in rows])
    truth = np.array([int(row["cell_id"]) for row in rows], np.uint64)
    assert len(rows) == 111_600
    for each in np.unique(level):
        at = level == each
        assert np.array_equal(s2.cell_ids(latitude[at], longitude[at], int(each)), truth[at]), each
    names = [row["token"] for row in rows]
    assert s2.cell_tokens(truth) == names
    assert np.array_equal(s2.parse_cell_tokens(names), truth)
    assert np.array_equal(s2.levels(truth), level)


@given(POINTS, LEVELS)
def test_centres_equal_s2sphere(point: tuple[float, float], level: int) -> None:
    cell = slow_id(*point, level)
    truth = s2sphere.CellId(cell).to_lat_lng()
    latitude, longitude = s2.centres(np.uint64(cell))
    assert float(haversine_km(latitude, longitude, truth.lat().degrees, truth.lng().degrees)) < 1e-9
    assert int(s2.cell_ids(latitude, longitude, level)) == cell


def test_centres_of_mixed_levels_keep_the_shape() -> None:
    latitude, longitude = uniform(62)
    ids = np.array([s2.cell_ids(*at, level) for *at, level in zip(latitude, longitude, [*range(31)] * 2, strict=True)])
    centre = s2.centres(ids.reshape(2, 31))
    assert centre[0].shape == (2, 31)
    for at in range(62):
        assert int(s2.cell_ids(centre[0].flat[at], centre[1].flat[at], at % 31)) == ids[at]


GOLDEN = [
    (48.8584, 2.2945, "2 0 3 3 3 0 3 0 3 1 3 3 3 0 0 3 3 2 1 2 3", 0x47E66FE1F3700000),
    (40.6892, -74.0445, "4 1 0 3 2 0 1 0 2 2 0 1 0 1 0 1 2 2 3 1 3", 0x89C25088D6F00000),
    (-33.8568, 151.2153, "3 1 1 2 0 2 1 1 1 1 3 0 3 0 3 1 0 2 0 0 3", 0x6B12AE6690700000),
]


@pytest.mark.parametrize(("latitude", "longitude", "words", "cell"), GOLDEN)
def test_golden_tokens(latitude: float, longitude: float, words: str, cell: int) -> None:
    assert s2.tokens([latitude], [longitude]).tolist() == [[int(word) for word in words.split()]]
    assert int(s2.cell_ids(latitude, longitude, 20)) == cell


@given(POINTS, st.integers(1, 30), st.integers(1, 7))
def test_tokens_equal_s2sphere_in_any_group(point: tuple[float, float], level: int, group: int) -> None:
    single = slow_tokens(*point, level)
    children = single[1:]
    grouped = [single[0]]
    for start in range(0, level, group):
        value = 0
        for child in children[start : start + group]:
            value = value * 4 + child
        grouped.append(value)
    words = s2.tokens([point[0]], [point[1]], level, group)
    assert words.tolist() == [grouped]
    assert words.shape == (1, 1 + -(-level // group))


@given(st.lists(POINTS, min_size=1, max_size=5), st.integers(1, 30), st.integers(1, 7), st.data())
def test_places_of_prefixes_are_centres_of_parents(
    points: list[tuple[float, float]], level: int, group: int, data: st.DataObject
) -> None:
    latitude, longitude = np.array(points).T
    words = s2.tokens(latitude, longitude, level, group)
    length = data.draw(st.integers(1, words.shape[1]))
    reached = min(level, group * (length - 1))
    found = s2.places(words[:, :length], level, group)
    truth = s2.centres(s2.cell_ids(latitude, longitude, reached))
    assert np.array_equal(found[0], truth[0]) and np.array_equal(found[1], truth[1])


def test_level_20_is_metres_from_the_point() -> None:
    latitude, longitude = uniform(20_000)
    metres = 1000 * haversine_km(latitude, longitude, *s2.places(s2.tokens(latitude, longitude)))
    assert 3.3 < metres.mean() < 3.5 and metres.max() < 7.4


@given(LEVELS, POINTS)
def test_names_there_and_back(level: int, point: tuple[float, float]) -> None:
    cell = slow_id(*point, level)
    name = s2.cell_tokens(np.uint64(cell))
    assert name == [s2sphere.CellId(cell).to_token()]
    assert s2.parse_cell_tokens(name).tolist() == [cell]
    assert s2.parse_cell_tokens([name[0].upper()]).tolist() == [cell]


@pytest.mark.parametrize("name", ["", "X", "0", "c", "+8", "0x8", "4_7", " 4", "47e66fe1f37000001", "zz", "48\n", "e1", "8"])
def test_names_of_no_cell_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no S2 cell token"):
        s2.parse_cell_tokens(["89c25", name])


def test_numbers_that_are_no_cell_are_refused() -> None:
    for number in (0, 2, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xC000000000000001):
        assert not s2.is_cell(np.uint64(number)), hex(number)
        assert not s2sphere.CellId(number).is_valid()
        with pytest.raises(ValueError, match="not all of these"):
            s2.centres([np.uint64(number)])


@pytest.mark.parametrize("point", [(90.1, 0), (0, 180.1), (np.nan, 0), (0, np.nan), (np.inf, 0)])
def test_points_nowhere_are_refused(point: tuple[float, float]) -> None:
    latitude, longitude = np.zeros(3), np.zeros(3)
    latitude[1], longitude[1] = point
    with pytest.raises(ValueError, match="have cells"):
        s2.cell_ids(latitude, longitude)


def test_wrong_levels_groups_and_tokens_are_refused() -> None:
    for level in (-1, 31):
        with pytest.raises(ValueError, match="levels 0 to 30"):
            s2.cell_ids(0, 0, level)
    with pytest.raises(ValueError, match="at least one child"):
        s2.tokens([0], [0], 20, 0)
    for words in ([[6, 0]], [[0, 4]], [[-1, 0]], [[0, -1]]):
        with pytest.raises(ValueError, match="a token outside"):
            s2.places(words)
    for words in (np.zeros((1, 22), int), np.zeros((1, 0), int), np.zeros(3, int)):
        with pytest.raises(ValueError, match="tokens of level 20"):
            s2.places(words)


def test_nothing_gives_nothing() -> None:
    assert s2.cell_ids([], []).shape == (0,)
    assert s2.tokens([], []).shape == (0, 21)
    assert s2.places(np.zeros((0, 5), int))[0].shape == (0,)
    assert s2.cell_tokens([]) == [] and s2.parse_cell_tokens([]).shape == (0,)
