"""A healthy run raises no ill, each illness raises its own, and the figures equal loops over pairs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.methods.geolocsft.health import COLUMNS, Examination, Health, Limits, health

Floats = NDArray[np.float64]


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def table_of(latitude: Floats, longitude: Floats, reasons: dict[str, int] | None = None, names: Any = None) -> pa.Table:
    """Placed rows, then rejected ones."""
    rejected = [reason for reason, count in (reasons or {}).items() for _ in range(count)]
    rows, nothing = len(latitude) + len(rejected), [None] * len(rejected)
    return pa.table(
        {
            "image_id": pa.array([str(row) for row in range(rows)]),
            "sha256": pa.array([digest(row) for row in range(rows)] if names is None else names, pa.string()),
            "reason": pa.array([None] * len(latitude) + rejected, pa.string()),
            "latitude": pa.array([*latitude, *nothing], pa.float64()),
            "longitude": pa.array([*longitude, *nothing], pa.float64()),
        }
    )


def run_of(rng: np.random.Generator, images: int, cities: int, landmarks: float, centres: float = 0.0) -> pa.Table:
    """Images around cities some 10 km wide, a share of them at one of three landmarks each, a share answered by the centre."""
    north, east = rng.uniform(-55, 65, cities), rng.uniform(-170, 170, cities)
    city = rng.integers(0, cities, images)
    latitude, longitude = north[city] + rng.normal(0, 0.05, images), east[city] + rng.normal(0, 0.05, images)
    famous = rng.random(images) < landmarks
    which = rng.integers(0, 3, images)
    latitude = np.where(famous, north[city] + 0.01 * which, latitude)
    longitude = np.where(famous, east[city] - 0.02 * which, longitude)
    lazy = rng.random(images) < centres
    return table_of(np.where(lazy, north[city], latitude), np.where(lazy, east[city], longitude))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(100, 1500), st.floats(0, 0.3))
def test_a_healthy_run_raises_no_ill(seed: int, images: int, landmarks: float) -> None:
    found = health([run_of(np.random.default_rng(seed), images, 40, landmarks)])
    assert found.ills == []
    assert found.placed == found.images == images


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_archive_of_one_city_is_well(seed: int) -> None:
    found = health([run_of(np.random.default_rng(seed), 800, 1, 0.2)])
    assert found.ills == []
    assert found.cells <= 9 and found.effective_cells < 10


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(100, 800), st.integers(1, 15))
def test_a_collapsed_run_says_so(seed: int, images: int, places: int) -> None:
    rng = np.random.default_rng(seed)
    which = rng.integers(0, places, images)
    found = health([table_of(rng.uniform(-80, 80, places)[which], rng.uniform(-180, 180, places)[which])])
    assert any(ill.startswith("mode collapse") for ill in found.ills)
    assert found.effective_places <= places * images / (images - places) + 1e-9 or images <= places


def test_a_place_that_draws_every_fifth_image_is_named() -> None:
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-60, 60, 1000), rng.uniform(-180, 180, 1000)
    latitude[:200], longitude[:200] = 48.8584, 2.2945
    found = health([table_of(latitude, longitude)])
    assert found.top[0] == {"latitude": 48.8584, "longitude": 2.2945, "images": 200, "share": 0.2}
    assert any("48.85840 2.29450, drew 20.0 % of 1,000" in ill for ill in found.ills)


def test_a_model_that_knows_city_centres_only_is_found() -> None:
    rng = np.random.default_rng(0)
    lazy, well = health([run_of(rng, 2000, 60, 0.0, 0.95)]), health([run_of(rng, 2000, 60, 0.0, 0.3)])
    assert len(lazy.ills) == 1 and "names cities" in lazy.ills[0]
    assert well.ills == []


def test_one_landmark_that_many_photograph_is_no_illness_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-60, 60, 1000), rng.uniform(-180, 180, 1000)
    latitude[:60], longitude[:60] = 48.8584, 2.2945
    assert health([table_of(latitude, longitude)]).ills == []


@pytest.mark.parametrize(
    ("reason", "says"), [("unparsed", "guide"), ("refused", "model"), ("out_of_range", "before"), ("cut_off", "raise")]
)
def test_replies_that_fail_are_counted_among_those_asked(reason: str, says: str) -> None:
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-60, 60, 900), rng.uniform(-180, 180, 900)
    found = health([table_of(latitude, longitude, {reason: 100, "not_an_image": 5000})])
    assert (found.rows, found.asked, found.placed) == (6000, 1000, 900)
    assert found.shares[reason] == 0.1 and sum(found.shares.values()) == pytest.approx(0.1)
    assert [says in ill and ill.startswith(f"10.0 % of 1,000 replies were {reason};") for ill in found.ills] == [True]
    assert health([table_of(latitude, longitude, {reason: 10, "not_an_image": 5000})]).ills == []


def test_few_images_say_nothing() -> None:
    assert health([table_of(np.full(99, 1.0), np.full(99, 2.0))]).ills == []
    assert len(health([table_of(np.full(100, 1.0), np.full(100, 2.0))]).ills) == 2
    assert health([table_of(np.zeros(0), np.zeros(0), {"unparsed": 19})]).ills == []
    assert len(health([table_of(np.zeros(0), np.zeros(0), {"unparsed": 20})]).ills) == 1


def test_the_same_bytes_under_many_names_are_one_image() -> None:
    names = [digest("same")] * 500
    found = health([table_of(np.full(500, 1.0), np.full(500, 2.0), names=names)])
    assert (found.placed, found.images, found.ills) == (500, 1, [])


def test_nothing_is_well() -> None:
    found = health([])
    assert (found.rows, found.images, found.cells, found.ills) == (0, 0, 0, [])
    assert health([table_of(np.zeros(0), np.zeros(0))]).record() == found.record()


def slow(places: list[tuple[float, float]]) -> dict[str, float]:
    """By loops over pairs of images."""
    keys = [(round(lat, 5), 180.0 if abs(lat) == 90 or lon == -180 else round(lon, 5)) for lat, lon in places]
    cells = [int(s2.cell_ids(lat, lon, 8)) for lat, lon in places]
    both = [(a, b) for a in range(len(places)) for b in range(len(places)) if a != b]
    same, near = sum(keys[a] == keys[b] for a, b in both), sum(cells[a] == cells[b] for a, b in both)
    chances = []
    for cell in set(cells):
        inside = [(a, b) for a, b in both if cells[a] == cells[b] == cell]
        if inside:
            chances.append(sum(keys[a] == keys[b] for a, b in inside) / len(inside))
    sizes = [cells.count(cell) / len(cells) for cell in set(cells)]
    return {
        "places": len(set(keys)),
        "cells": len(set(cells)),
        "effective_places": len(both) / same if same else np.inf,
        "effective_cells": len(both) / near if near else np.inf,
        "cell_entropy": -sum(size * np.log(size) for size in sizes),
        "same_in_cell": float(np.mean(chances)) if chances else 0.0,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([10.0, 10.00001, 10.05, -40.0]), st.sampled_from([20.0, 20.1, 180.0, -180.0, 170.0])),
        min_size=1,
        max_size=25,
    )
)
def test_the_figures_equal_loops_over_pairs(places: list[tuple[float, float]]) -> None:
    found = health([table_of(np.array([lat for lat, _ in places]), np.array([lon for _, lon in places]))])
    # 180° W is 180° E, also for the cells.
    for name, value in slow([(lat, abs(lon) if abs(lon) == 180 else lon) for lat, lon in places]).items():
        assert getattr(found, name) == pytest.approx(value), name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_batches_and_their_order_change_nothing(seed: int, batches: int) -> None:
    rng = np.random.default_rng(seed)
    whole = run_of(rng, 300, 5, 0.5)
    cuts = np.sort(rng.integers(0, 300, batches))
    parts = [whole.slice(low, high - low) for low, high in zip([0, *cuts], [*cuts, 300], strict=True)]
    rng.shuffle(parts)  # type: ignore[arg-type]
    assert health(parts) == health([whole])


def test_a_sample_tells_the_same_shares_in_less_memory() -> None:
    whole = run_of(np.random.default_rng(0), 20_000, 10, 0.6)
    everything, some = Examination(), Examination(sample=2_000)
    for at in range(0, 20_000, 700):
        everything.add(whole.slice(at, 700))
        some.add(whole.slice(at, 700))
    exact, sampled = everything.result(), some.result()
    assert (sampled.placed, sampled.images, exact.images) == (20_000, 2_000, 20_000)
    assert sampled.effective_places == pytest.approx(exact.effective_places, rel=0.15)
    assert sampled.effective_cells == pytest.approx(exact.effective_cells, rel=0.1)
    assert sampled.top[0]["share"] == pytest.approx(exact.top[0]["share"], rel=0.4)


def test_names_stand_in_where_there_is_no_digest() -> None:
    table = table_of(np.full(200, 1.0), np.full(200, 2.0), names=[None] * 150 + [digest(f"file {row}") for row in range(50)])
    assert health([table]).images == 200


def test_the_record_is_json_and_other_columns_are_not_needed() -> None:
    table = table_of(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert table.column_names == list(COLUMNS)
    record = json.loads(json.dumps(health([table]).record(), allow_nan=False))
    assert record["effective_places"] is None and record["ills"] == []
    assert record.keys() == Health.__annotations__.keys()


def test_every_ill_ends_with_what_to_do() -> None:
    places = table_of(
        np.full(300, 1.0), np.full(300, 2.0), dict.fromkeys(("unparsed", "refused", "out_of_range", "cut_off"), 50)
    )
    ills = health([places], Limits(shared_cells=1)).ills
    assert len(ills) == 7
    assert all("; " in ill and "\n" not in ill and len(ill) < 260 for ill in ills)


def test_many_rows_in_small_tables_are_all_seen() -> None:
    rng = np.random.default_rng(0)
    rows, raw = 200_000, rng.bytes(32 * 200_000).hex()
    table = pa.table(
        {
            "image_id": pa.array(np.arange(rows).astype(str)),
            "sha256": pa.array([raw[at * 64 : at * 64 + 64] for at in range(rows)]),
            "reason": pa.nulls(rows, pa.string()),
            "latitude": rng.uniform(-80, 80, rows),
            "longitude": rng.uniform(-180, 180, rows),
        }
    )
    assert health(table.slice(at, 5_000) for at in range(0, rows, 5_000)).images == rows


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="use 100"):
        Limits(images=1)
