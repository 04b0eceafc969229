"""Rows are kept out by whole places, and by rows where no place has two."""

from __future__ import annotations

import numpy as np

from geobatch.geo import s2
from geobatch.train.split import LEVEL, shared, split


def test_a_place_is_on_one_side() -> None:
    rng = np.random.default_rng(0)
    places = np.column_stack([rng.uniform(-60, 60, 200), rng.uniform(-180, 180, 200)])
    bursts = places[rng.integers(0, 200, 1500)] + rng.normal(scale=1e-4, size=(1500, 2))
    kept, held = split(*bursts.T, wanted=150, seed=3)
    assert sorted([*kept, *held]) == list(range(1500)) and 140 <= len(held) <= 150
    cells = s2.cell_ids(*bursts.T, LEVEL)
    assert not set(cells[kept]) & set(cells[held]) and shared(*bursts.T)
    assert np.array_equal(split(*bursts.T, wanted=150, seed=3)[1], held)
    assert not np.array_equal(split(*bursts.T, wanted=150, seed=4)[1], held)


def test_places_of_one_row_are_split_as_a_permutation_has_them() -> None:
    latitude, longitude = np.linspace(-50, 50, 300), np.linspace(0, 90, 300)
    kept, held = split(latitude, longitude, wanted=40, seed=5)
    order = np.random.default_rng([5, 0x5EED]).permutation(300)
    assert np.array_equal(held, np.sort(order[:40])) and np.array_equal(kept, np.sort(order[40:]))
    assert not shared(latitude, longitude)


def test_of_few_large_places_rows_of_the_smallest_are_kept_out() -> None:
    latitude = np.repeat([10.0, 20.0, 30.0], [40, 30, 50])
    kept, held = split(latitude, np.zeros(120), wanted=15, seed=1)
    assert set(latitude[kept]) == {10.0, 30.0} and len(kept) == 90
    assert set(latitude[held]) == {20.0} and len(held) == 15
    for wanted, least in ((15, 91), (6, 1)):  # too few would be left, or too much given up
        kept, held = split(latitude, np.zeros(120), wanted=wanted, seed=1, least=least)
        assert (len(kept), len(held)) == (120, 0)


def test_one_place_is_trained_on() -> None:
    kept, held = split(np.zeros(9), np.zeros(9), wanted=8, seed=0)
    assert (len(kept), len(held)) == (9, 0)
    assert [len(part) for part in split([1.0, 2.0], [0.0, 0.0], wanted=0, seed=0)] == [2, 0]
