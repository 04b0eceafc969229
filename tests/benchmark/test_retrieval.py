"""Figures of retrieval: by hand, against a slow loop, by chance, and what has no answer."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark import retrieval as module
from geobatch.benchmark.exact import Held
from geobatch.benchmark.metrics import Bootstrap
from geobatch.benchmark.retrieval import Retrieval, Side, difference, retrieval
from geobatch.geo.distance import haversine_km
from tests.benchmark.places import KM_PER_DEGREE

QUICK = Bootstrap(resamples=200)


def side(vectors: list[list[float]], classes: list[int] | None, metres_east: list[float | None] | None = None) -> Side:
    """Rows on the equator, so many metres east of (0, 0)."""
    east = [None] * len(vectors) if metres_east is None else metres_east
    longitude = np.array([np.nan if each is None else each / 1000 / KM_PER_DEGREE for each in east])
    known = None if classes is None else np.array(classes, np.int64)
    return Side(
        Held(np.array(vectors, np.float32).reshape(len(vectors), -1)),
        known,
        np.where(np.isnan(longitude), np.nan, 0.0),
        longitude,
    )


def values(found: Retrieval) -> tuple[list[float], list[float]]:
    """R@k and L@m."""
    return [one.value for one in found.recall.values()], [one.value for one in found.located.values()]


#: Five tiles by their similarity to the query 1: 0.9, 0.8, … at 0, 40, 90, 140 and 10,000 m; two show building 0.
TILES = side([[0.5], [0.9], [0.7], [0.8], [0.6]], [0, 1, 0, 2, 3], [0.0, 40.0, 90.0, 140.0, 10_000.0])


def test_by_hand() -> None:
    queries = side([[1.0], [1.0], [-1.0], [1.0]], [0, 2, 0, -1], [0.0, 140.0, 5.0, None])
    found = retrieval(queries, TILES, ks=(1, 2, 3), metres=(50, 100, 150), bootstrap=QUICK)
    # 1 ranks 1 3 2 4 0: of building 0 the third, of 2 the second; -1 ranks the other way round: tile 0 first
    assert found.rank.tolist() == [3, 2, 1, 0] and found.first.tolist() == [1, 1, 0, 1]
    assert found.metres[:3] == pytest.approx([40, 100, 5], rel=1e-6) and np.isnan(found.metres[3])
    assert values(found) == ([0.25, 0.5, 0.75], [pytest.approx(2 / 3), 1, 1])
    assert (found.queries, found.tiles, found.unanswerable, found.placed) == (4, 5, 1, 3)
    assert "; 3 have a known place, which L@m is of" in found.as_text() and found.as_dict()["placed"] == 3
    assert found.median_m == pytest.approx(40, rel=1e-6) and found.known.tolist() == [True, True, True, False]
    assert found.median.low == pytest.approx(5, rel=1e-6) and found.median.high == pytest.approx(100, rel=1e-6)
    assert found.as_dict()["median"]["value"] == found.median_m and "m (5…100)" in found.as_text() and found.failed == 0
    # chance: two of five tiles are right twice, one once, none once
    assert found.recall_chance[1] == pytest.approx((2 / 5 + 1 / 5 + 2 / 5 + 0) / 4)
    assert found.recall_chance[3] == pytest.approx((9 / 10 + 3 / 5 + 9 / 10 + 0) / 4)
    assert found.located_chance[100] == pytest.approx(3 / 5)


def test_among_the_nearest_by_hand() -> None:
    queries = side([[1.0], [1.0], [1.0]], [0, 3, 1], [60.0, 0.0, None])
    found = retrieval(queries, TILES, protocol="nearest", nearest=2, ks=(1, 2), metres=(50,), bootstrap=QUICK)
    # near 60 m: tiles 1 and 2; near 0 m: 0 and 1; near nowhere: none
    assert found.first.tolist() == [1, 1, -1] and found.rank.tolist() == [2, 0, 0]
    assert values(found) == ([0.0, pytest.approx(1 / 3)], [1.0])
    assert found.unanswerable == 2 and found.recall_chance[2] == pytest.approx(1 / 3)
    assert found.located_chance[50] == 1  # 1 and 2 lie 20 and 30 m away, 0 and 1 0 and 40 m


@pytest.mark.parametrize("protocol", ["all", "nearest"])
def test_a_rejected_query_is_wrong(protocol: module.Protocol) -> None:
    asked = side([[1.0], [1.0]], [1, 1], [0.0, 0.0])
    both = side([[1.0]] * 4, [1, 1, 0, -1], [0.0, 0.0, 0.0, None])
    queries = Side(asked.views, both.classes, both.latitude, both.longitude)
    found = retrieval(queries, TILES, protocol=protocol, ks=(1,), metres=(50,), bootstrap=QUICK)
    assert (found.queries, found.failed, found.placed) == (4, 2, 3)
    assert found.rank.tolist() == [1, 1, 0, 0] and found.first.tolist() == [1, 1, -1, -1]
    assert values(found) == ([0.5], [pytest.approx(2 / 3)]) and np.isnan(found.metres[2:]).all()
    assert found.median_m == pytest.approx(40, rel=1e-6)
    text = found.as_text()
    assert "2 were rejected, never asked, and count as wrong" in " ".join(text.split()) and found.as_dict()["failed"] == 2
    assert max(map(len, text.splitlines())) <= 110
    nobody = Side(Held(np.zeros((0, 1), np.float32)), both.classes, both.latitude, both.longitude)
    assert values(retrieval(nobody, TILES, protocol=protocol, ks=(1,), metres=(50,), bootstrap=QUICK)) == ([0.0], [0.0])


def test_without_classes_or_places_there_are_no_such_figures() -> None:
    found = retrieval(side([[1.0]], None, [0.0]), TILES, bootstrap=QUICK)
    assert found.recall == {} and list(found.located) == [50, 100, 150] and found.rank.tolist() == [0]
    found = retrieval(side([[1.0]], [0]), TILES, bootstrap=QUICK)
    assert found.located == {} and np.isnan(found.median_m) and list(found.recall) == [1, 5, 10]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["median_m"] is None
    assert "R@10" in found.as_text() and "L@" not in found.as_text()


def test_text_and_numbers_say_the_same() -> None:
    found = retrieval(side([[1.0], [1.0]], [1, 7], [0.0, 0.0]), TILES, ks=(1,), metres=(50,), bootstrap=QUICK)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["recall"]["1"]["value"] == 0.5 and plain["recall"]["1"]["chance"] == pytest.approx(0.1)
    assert plain["located"]["50m"]["value"] == 1.0
    text = found.as_text()
    assert "t2i, 2 queries among all 5; 1 have nothing to find" in text and " 50.0" in text and " 10.00" in text


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 11, 2000)
    ours = np.where(rng.random(2000) < 0.03, 1, theirs)  # better on a few, never worse
    gained = difference(ours, theirs, 1)
    assert gained.value == pytest.approx(np.mean(ours == 1) - np.mean(theirs == 1)) and gained.low > 0
    assert difference(ours, ours, 5).value == 0
    with pytest.raises(ValueError, match="same images"):
        difference(ours, theirs[:5], 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.sampled_from(["all", "nearest"]), st.integers(1, 8)
)
def test_equal_to_a_slow_loop(seed: int, asked: int, held: int, protocol: module.Protocol, nearest: int) -> None:
    rng = np.random.default_rng(seed)

    def some(count: int) -> Side:
        latitude, longitude = rng.integers(0, 4, count) / 1000, rng.integers(0, 4, count) / 1000
        latitude[rng.random(count) < 0.1] = np.nan
        return Side(Held(rng.integers(-2, 3, (count, 3)).astype(np.float32)), rng.integers(-1, 4, count), latitude, longitude)

    queries, tiles = some(asked), some(held)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 5)
        found = retrieval(queries, tiles, protocol=protocol, ks=(1, 3), metres=(100, 200), nearest=nearest, bootstrap=QUICK)
    hits: dict[str, list[bool]] = {name: [] for name in ("R1", "R3", "L100", "L200")}
    assert queries.classes is not None and tiles.classes is not None
    for at in range(asked):
        where = queries.latitude[at], queries.longitude[at]
        far = [1000 * float(haversine_km(*where, *each)) for each in zip(tiles.latitude, tiles.longitude, strict=True)]
        rows = list(range(held))
        if protocol == "nearest":
            known = sorted(each for each in far if not np.isnan(each))
            limit = known[min(nearest, len(known)) - 1] + 1e-3 if known else -1.0
            rows = [row for row in rows if far[row] <= limit]
        mine = queries.views.vectors(np.array([at]))[0]
        rows.sort(key=lambda row: (-float(np.dot(mine, tiles.views.vectors(np.array([row]))[0])), row))
        for k in (1, 3):
            hits[f"R{k}"].append(any(tiles.classes[row] == queries.classes[at] >= 0 for row in rows[:k]))
        for m in (100, 200):
            if np.isfinite(where).all():
                hits[f"L{m}"].append(bool(rows) and far[rows[0]] <= m)
    assert [found.recall[k].value for k in (1, 3)] == pytest.approx([np.mean(hits["R1"]), np.mean(hits["R3"])])
    assert found.placed == len(hits["L100"])
    if found.placed:
        assert [found.located[m].value for m in (100, 200)] == pytest.approx([np.mean(hits["L100"]), np.mean(hits["L200"])])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 9))
def test_chance_is_what_every_draw_says(tiles: int, right: int, k: int) -> None:
    right = min(right, tiles)
    draws = list(combinations(range(tiles), min(k, tiles)))
    expected = np.mean([any(row < right for row in draw) for draw in draws])
    assert module._drawn(np.array([tiles]), np.array([right]), k) == pytest.approx(expected)
