"""Neighbours that are left out, against a loop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.gallery import GROUP, Gallery, collect
from geobatch.engine.gallery.exclude import ROUNDING
from geobatch.errors import UserError
from tests.engine.gallery.smooth import formless, smooth, tables

ROWS = 300
GROUPS = [None if row % 7 == 0 else f"user{row % 5 if row % 2 else 'Many'}" for row in range(ROWS)]


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    rows = pa.concat_tables(tables(*smooth(ROWS, 16)))
    return collect([rows.append_column(GROUP, pa.array(GROUPS, pa.string()))])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 40),
    above=st.one_of(st.none(), st.floats(0.2, 1.0)),
    grouped=st.booleans(),
    own=st.booleans(),
)
def test_left_out_as_a_loop_leaves_out(
    gallery: Gallery, seed: int, k: int, above: float | None, grouped: bool, own: bool
) -> None:
    rng = np.random.default_rng(seed)
    at = rng.integers(0, ROWS, 6)
    queries = gallery.vectors(at)
    ids = [gallery.ids(at)[row].as_py() if row % 2 else None for row in range(6)] if own else None
    groups = [None, "nobody", *[GROUPS[row] for row in at[2:]]] if grouped else None
    similarities, rows = gallery.search(queries, k, ids, groups, above)
    everything = queries @ gallery.vectors(np.arange(ROWS)).T
    edge = np.inf if above is None else above - ROUNDING
    for query in range(6):
        if np.any(np.abs(everything[query] - edge) < 1e-6):
            continue  # a similarity on the edge falls to either side, as the sums are rounded
        kept = [
            row
            for row in np.argsort(-everything[query], kind="stable")
            if not (ids and ids[query] is not None and row == at[query])
            and not (groups and groups[query] is not None and GROUPS[row] == groups[query])
            and everything[query, row] < edge
        ][: rows.shape[1]]
        found = rows[query][rows[query] >= 0]
        assert len(found) == len(kept)
        assert np.allclose(everything[query, found], everything[query, kept], atol=1e-4)
        assert (rows[query, len(found) :] == -1).all() and np.isneginf(similarities[query, len(found) :]).all()


def test_no_row_is_no_image(gallery: Gallery) -> None:
    rows = np.array([[2, -1], [-1, 5]])
    assert gallery.ids(rows).to_pylist() == ["i000002", None, None, "i000005"]
    latitude, longitude = gallery.places(rows)
    assert np.isnan(latitude[0, 1]) and np.isnan(longitude[1, 0]) and latitude[0, 0] == gallery.latitude[2]
    vectors = gallery.vectors(rows)
    assert not vectors[0, 1].any() and np.allclose(np.linalg.norm(vectors[1, 1]), 1)


def test_a_whole_gallery_of_one_group_has_no_neighbours_to_give() -> None:
    rows = pa.concat_tables(tables(*formless(20, 8)))
    alone = collect([rows.append_column(GROUP, pa.array(["me"] * 20))])
    similarities, found = alone.search(alone.vectors(np.arange(2)), 3, exclude_groups=["me", None])
    assert found[0].tolist() == [-1, -1, -1] and np.isneginf(similarities[0]).all() and (found[1] >= 0).all()


def test_groups_that_nobody_gave() -> None:
    with pytest.raises(UserError, match="--groups"):
        collect(tables(*formless(20, 8))).search(formless(1, 8)[0], 3, exclude_groups=["me"])


def test_copies_are_left_out_at_a_similarity_of_one(gallery: Gallery) -> None:
    at = np.arange(ROWS)
    _, rows = gallery.search(gallery.vectors(at), 1, exclude_above=1.0)
    assert not np.any(rows[:, 0] == at)
