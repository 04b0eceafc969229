"""Which rows a page keeps: never more than asked, always the ends, the same draw for the same names, however they come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.report.choice import CONFIDENCE, Chosen, draw, pictured, shown


def rows(count: int, *, rejected: int = 0, truth: bool = True, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    dead = np.arange(count) < rejected
    error = np.where(dead, np.nan, rng.permutation(count).astype(float))
    return pa.table(
        {
            "image_id": [f"i{seed}-{number}" for number in range(count)],
            "status": np.where(dead, "rejected", "placed"),
            "error_km": error if truth else np.full(count, np.nan),
            CONFIDENCE: pa.array(np.where(dead, np.nan, rng.permutation(count) / count), from_pandas=True),
        }
    )


def chosen(one: Chosen, table: pa.Table, cuts: list[int]) -> pa.Table:
    ends = sorted({0, len(table), *(cut % (len(table) + 1) for cut in cuts)})
    for start, end in pairwise(ends):
        one.add(table.slice(start, end - start))
    return one.table()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(0, 20), st.lists(st.integers(0, 300), max_size=8), st.booleans())
def test_it_does_not_matter_how_a_table_is_cut(count: int, limit: int, rejected: int, cuts: list[int], truth: bool) -> None:
    table = rows(count, rejected=min(rejected, count), truth=truth)
    for kind in (shown, pictured):
        whole, parts = chosen(kind(limit), table, []), chosen(kind(limit), table, cuts)
        assert len(whole) == len(parts) <= limit or len(table) <= 2 * limit
        assert len(whole) <= limit
        # The draw may differ where ends were cut off before; the ends themselves never do.
        for why in (1, 2):
            ends = [set(one.filter(pa.array(one["why"].to_numpy() == why))["image_id"].to_pylist()) for one in (whole, parts)]
            assert ends[0] == ends[1]


def test_few_are_all_kept_in_their_order() -> None:
    table = rows(50, rejected=5)
    assert chosen(shown(50), table, [7, 30])["image_id"].to_pylist() == table["image_id"].to_pylist()


def test_the_ends_are_the_farthest_and_the_nearest() -> None:
    table = rows(1000, rejected=100)
    kept = chosen(shown(200), table, [100, 400, 900])
    error = np.sort(table["error_km"].to_numpy()[100:])
    why, kept_error = kept["why"].to_numpy(), kept["error_km"].to_numpy()
    assert sorted(kept_error[why == 1]) == error[-10:].tolist() and sorted(kept_error[why == 2]) == error[:10].tolist()
    assert kept["status"].to_pylist().count("rejected") == 10 and len(kept) == 200


def test_without_truth_the_doubtful_stand_in() -> None:
    table = rows(300, truth=False)
    kept = chosen(pictured(30), table, [])
    sure = kept[CONFIDENCE].to_numpy()
    assert sorted(sure[kept["why"].to_numpy() == 1]) == sorted(table[CONFIDENCE].to_numpy())[:10]
    assert sorted(sure[kept["why"].to_numpy() == 2]) == sorted(table[CONFIDENCE].to_numpy())[-10:]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400), st.integers(0, 60), st.integers(1, 120), st.integers(0, 9), st.booleans())
def test_what_has_a_picture_is_on_the_page(count: int, rejected: int, limit: int, seed: int, truth: bool) -> None:
    table = rows(count, rejected=min(rejected, count), truth=truth, seed=seed)
    pictures = max(1, limit // 2)
    page, sample = chosen(shown(limit, pictures), table, []), chosen(pictured(pictures), table, [])
    alive = sample.filter(pc.equal(sample["status"], "placed"))
    assert set(alive["image_id"].to_pylist()) <= set(page["image_id"].to_pylist())


def test_the_draw_is_even() -> None:
    numbers = draw([f"image {number}" for number in range(20_000)])
    counts = np.bincount((numbers >> np.uint64(60)).astype(int), minlength=16)
    assert np.all(np.abs(counts - 1250) < 5 * np.sqrt(1250)) and len(np.unique(numbers)) == 20_000
    assert draw(["\udc80"]).size == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_tables(count: int) -> None:
    assert len(chosen(pictured(3), rows(count), [])) == count
