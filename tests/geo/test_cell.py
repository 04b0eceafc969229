"""Parents are s2sphere's, and a coarsened cell holds the cell it came from."""

from __future__ import annotations

import numpy as np
import pytest
import s2sphere
from hypothesis import given
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
