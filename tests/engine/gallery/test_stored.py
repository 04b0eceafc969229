"""Vectors in several arrays, half or whole, against one matrix product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.gallery.stored import Stored, merged
from tests.engine.gallery.smooth import formless


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    half=st.booleans(),
    views=st.sampled_from([None, [slice(0, 5)], [slice(5, 9), slice(9, 16)], [slice(0, 5), slice(9, 16)]]),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_every_way_of_storing_finds_what_a_product_finds(
    cuts: list[int], half: bool, views: list[slice] | None, k: int, seed: int
) -> None:
    vectors = formless(sum(cuts), 16, seed)[0].astype(np.float16 if half else np.float32)
    arrays = np.split(vectors, np.cumsum(cuts)[:-1])
    stored = Stored(arrays, views)
    columns = np.concatenate([np.arange(16)[each] for each in views or [slice(0, 16)]])
    queries = formless(3, len(columns), seed + 1)[0]
    everything = queries @ vectors[:, columns].astype(np.float32).T
    similarities, rows = stored.search(queries, k)
    width = min(k, len(stored))
    assert rows.shape == (3, width)
    assert np.allclose(similarities, np.sort(everything, axis=1)[:, ::-1][:, :width], atol=1e-5)
    assert np.allclose(np.take_along_axis(everything, rows, 1), similarities, atol=1e-5)
    first, last = len(stored) // 3, len(stored) - len(stored) // 4
    part = stored.search(queries, k, first, last)[1]
    assert part.shape[1] == min(k, last - first) and ((part >= first) & (part < last)).all()
    wanted = np.array([0, len(stored) - 1, -1])
    assert (stored.take(wanted)[:2] == vectors[wanted[:2]].astype(np.float32)).all() and not stored.take(wanted)[2].any()
    assert (stored.take(wanted, searched=True)[:2] == vectors[wanted[:2]][:, columns]).all()
    assert (np.concatenate([block for _, block in stored.blocks(size=7)]) == vectors[:, columns]).all()


def test_candidates_are_ranked_exactly_and_padding_stays_last() -> None:
    vectors = formless(50, 8)[0]
    stored, queries = Stored([vectors]), formless(130, 8, 1)[0]
    candidates = np.random.default_rng(0).permuted(np.tile(np.arange(50), (130, 1)), axis=1)[:, :20]
    candidates[:, 3] = -1
    similarities, rows = stored.rank(queries, candidates, 20)
    assert (rows[:, -1] == -1).all() and np.isneginf(similarities[:, -1]).all() and (rows[:, :-1] >= 0).all()
    assert np.allclose(similarities[:, :-1], np.take_along_axis(queries @ vectors.T, rows[:, :-1], 1), atol=1e-6)
    assert (np.diff(similarities[:, :-1], axis=1) <= 0).all()


@pytest.mark.parametrize("width", [1, 300, 7681, 20_000])
def test_wide_candidates_are_ranked_a_few_queries_at_once(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = formless(400, 8)[0], formless(70, 8, 1)[0]
    stored, rng = Stored([vectors]), np.random.default_rng(2)
    candidates = rng.integers(-1, 400, (70, width))
    asked: list[int] = []
    take = Stored.take

    def counted(self: Stored, rows: np.ndarray, searched: bool = False) -> np.ndarray:
        asked.append(len(rows))
        return take(self, rows, searched)

    monkeypatch.setattr(Stored, "take", counted)
    similarities, rows = stored.rank(queries, candidates, 20)
    assert max(asked) <= max(64 * 240, width)
    exact = np.where(candidates < 0, -np.inf, np.take_along_axis(queries @ vectors.T, candidates, 1))
    assert np.allclose(similarities, -np.sort(-exact, axis=1)[:, :20], atol=1e-6)
    found = rows >= 0
    assert (found == np.isfinite(similarities)).all()
    assert np.allclose(np.take_along_axis(queries @ vectors.T, rows, 1)[found], similarities[found], atol=1e-6)


def test_equal_ones_come_by_row() -> None:
    tie = np.array([[0.5, 0.5]], np.float32)
    similarities, rows = merged([(tie, np.array([[7, 3]])), (tie, np.array([[1, 9]]))], 3)
    assert rows.tolist() == [[1, 3, 7]] and similarities.tolist() == [[0.5] * 3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nothing_is_asked(dtype: type) -> None:
    stored = Stored([formless(9, 8)[0].astype(dtype)])
    assert stored.search(np.zeros((0, 8), np.float32), 3)[1].shape == (0, 3)
    assert stored.rank(np.zeros((0, 8), np.float32), np.zeros((0, 5), np.int64), 3)[1].shape == (0, 3)
