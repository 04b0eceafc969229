"""Parents are s2sphere's, and a coarsened cell holds the cell it came from."""

from __future__ import annotations

import numpy as np
import pytest
import s2sphere
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo import cell, s2

places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(places, st.integers(0, 30), st.integers(0, 30))
def test_parents_are_s2spheres(place: tuple[float, float], level: int, up: int) -> None:
    ids = s2.cell_ids(*place, level)
    above = min(level, up)
    assert int(cell.parents(ids, above)) == s2sphere.CellId(int(ids)).parent(above).id()


def test_a_coarse_cell_has_no_finer_parent() -> None:
    with pytest.raises(ValueError, match="coarser than level 9"):
        cell.parents(s2.cell_ids(10.0, 10.0, 5), 9)
    with pytest.raises(ValueError, match="levels 0 to 30"):
        cell.parents(s2.cell_ids(10.0, 10.0, 5), 31)


@pytest.mark.parametrize(("level", "km"), [(5, 288.0), (7, 72.0), (9, 18.0), (13, 1.13)])
def test_edges_are_the_published_ones(level: int, km: float) -> None:
    assert cell.edge_km(level) == pytest.approx(km, rel=0.01)


@given(places, st.integers(0, 30), st.floats(0.001, 20_000))
def test_coarser_keeps_the_place_and_the_size(place: tuple[float, float], level: int, km: float) -> None:
    ids = s2.cell_ids(*place, level)
    token = s2.cell_tokens(ids)[0]
    found = s2.parse_cell_tokens([cell.coarser(token, km)])
    reached = int(s2.levels(found)[0])
    assert int(found[0]) == int(cell.parents(ids, reached))
    assert reached == 0 or cell.edge_km(reached) >= km
    assert reached == level or cell.edge_km(reached + 1) < km
    assert np.array_equal(s2.parse_cell_tokens([cell.coarser(token, 0)]), np.atleast_1d(ids))


def slow_finest(ids: list[int], weights: list[float], mass: float, level: int) -> tuple[int, float]:
    """Every cell of every level that holds a point, summed by s2sphere."""
    best = (0, 0.0)
    for depth in range(level + 1):
        sums: dict[int, float] = {}
        for one, weight in zip(ids, weights, strict=True):
            parent = s2sphere.CellId(one).parent(depth).id()
            sums[parent] = sums.get(parent, 0.0) + weight
        heaviest = max(sums, key=lambda each: sums[each])
        if sums[heaviest] < mass:
            break
        best = (heaviest, sums[heaviest])
    return best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    spread=st.sampled_from([1e-6, 0.01, 1.0, 30.0]),
    mass=st.sampled_from([0.51, 0.75, 0.9, 0.999]),
    level=st.integers(0, 30),
)
def test_the_finest_cell_is_that_of_a_loop(seed: int, spread: float, mass: float, level: int) -> None:
    rng = np.random.default_rng(seed)
    latitude = (rng.uniform(-85, 85) + rng.normal(0, spread, (3, 12))).clip(-90, 90)
    longitude = (rng.uniform(-180, 180) + rng.normal(0, spread, (3, 12)) + 180) % 360 - 180
    weights = rng.dirichlet(np.full(12, 0.3), 3) * [[1.0], [0.95], [0.6]]
    weights[:, 0] = 0
    ids = s2.cell_ids(latitude, longitude)
    found, held = cell.finest(ids, weights, mass, level)
    for row in range(3):
        one, share = slow_finest(ids[row].tolist(), weights[row].tolist(), mass, level)
        assert (int(found[row]), float(held[row])) == (one, pytest.approx(share))
        inside = cell.holds(np.full(12, found[row]), latitude[row], longitude[row])
        assert float(weights[row][inside].sum()) == pytest.approx(share)
    each, _ = cell.finest(ids, weights, np.full(3, mass), level)
    assert np.array_equal(each, found)


def test_what_no_face_holds_has_no_cell() -> None:
    ids = s2.cell_ids([[0.0, 0.0]], [[0.0, 180.0]])
    assert [int(found[0]) for found in cell.finest(ids, [[0.5, 0.5]], 0.9)] == [0, 0]
    assert not cell.holds(np.zeros(1, np.uint64), [0.0], [0.0])[0]


def test_points_must_be_leaves_and_fit_their_weights() -> None:
    with pytest.raises(ValueError, match="leaf cells"):
        cell.finest(s2.cell_ids([[0.0]], [[0.0]], 12), [[1.0]], 0.9)
    with pytest.raises(ValueError, match="do not fit"):
        cell.finest(s2.cell_ids([[0.0]], [[0.0]]), [[1.0, 2.0]], 0.9)


@given(places, places, st.integers(0, 30))
def test_a_cell_holds_what_has_it_as_parent(one: tuple[float, float], other: tuple[float, float], level: int) -> None:
    cells = np.atleast_1d(s2.cell_ids(*one, level))
    assert cell.holds(cells, [one[0]], [one[1]])[0]
    assert cell.holds(cells, [other[0]], [other[1]])[0] == (s2.cell_ids(*other, level) == cells[0])
