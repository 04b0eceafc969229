"""Two runs of retrieval over the same queries: by hand, and the other way round."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.paired import ROWS, Paired, paired

QUICK = Bootstrap(resamples=50)


def table(ranks: list[int], metres: list[float | None], known: list[bool | None] | None = None) -> pa.Table:
    rows = len(ranks)
    columns = {name: pa.nulls(rows, ROWS.field(name).type) for name in ROWS.names}
    columns |= {"rank": pa.array(ranks, pa.int64()), "metres": pa.array(metres, pa.float64())}
    columns["known"] = pa.array([True] * rows if known is None else known, pa.bool_())
    return pa.table(columns, schema=ROWS)


def counts(found: Paired, way: str) -> tuple[int, int, int]:
    one = found.wins()[way]
    return one["wins"], one["losses"], one["ties"]


def test_by_hand() -> None:
    ours = table([1, 2, 0, 9, 0], [10.0, 60.0, None, 0.5, 5.0], [True, True, True, True, False])
    theirs = table([2, 1, 5, 0, 0], [80.0, 60.9, 30.0, 0.0, 1.0])
    found = paired(ours, theirs, (1, 5), (50, 100), QUICK)
    # A right tile in the ninth place is none among the first five.
    assert counts(found, "rank") == (1, 2, 2) and found.recall[1].value == 0 and found.recall[5].value == pytest.approx(-1 / 5)
    # Of the last ours knows no place; 0.9 m and 0.5 m are no distance.
    assert counts(found, "metres") == (1, 1, 2) and found.placed == 4
    assert (found.located[50].value, found.located[100].value) == (0, -0.25)
    assert list(found.shares()) == ["1", "5", "50m", "100m"] and found.wins()["rank"]["sign_test"] == 1
    said = found.sentence("other")
    assert said.startswith("over other: R@1 +0.0 (") and "L@100 m -25.0 (" in said
    assert "the right tile comes earlier for 1 queries, later for 2, alike for 2 (sign test p = 1)" in said
    assert "the first lies nearer to the truth for 1 queries, farther for 1, alike for 2" in said


def test_what_is_not_known_is_not_compared() -> None:
    older = table([1, 0], [None, None], [None, None])
    found = paired(table([1, 1], [5.0, 5.0]), older, (1,), (50,), QUICK)
    assert found.located == {} and found.metres is None and list(found.wins()) == ["rank"]
    found = paired(table([0, 0], [5.0, 5.0]), table([0, 0], [90.0, None]), (), (50,), QUICK)
    assert found.recall == {} and found.ranks is None and found.located[50].value == 1 and counts(found, "metres") == (2, 0, 0)


@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 12), st.none() | st.floats(0, 500))] * 2), min_size=1, max_size=30))
def test_the_other_way_round_is_the_negative(pairs: list[tuple[tuple[int, float | None], tuple[int, float | None]]]) -> None:
    ours, theirs = (table(*map(list, zip(*side, strict=True))) for side in zip(*pairs, strict=True))
    one, other = (paired(a, b, (1, 10), (50,), QUICK) for a, b in ((ours, theirs), (theirs, ours)))
    for way in ("rank", "metres"):
        wins, losses, ties = counts(one, way)
        assert (losses, wins, ties) == counts(other, way) and wins + losses + ties == len(pairs)
    assert one.located[50].value == pytest.approx(-other.located[50].value)
    assert np.isclose(one.recall[10].value, -other.recall[10].value)
