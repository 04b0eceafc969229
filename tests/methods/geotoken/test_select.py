"""Selectors against loops, and the stage: what it adds, what it keeps, what it does without neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.gallery import Gallery, collect
from geobatch.geo import cell, s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.config import Selection, Selector
from geobatch.methods.geotoken.pool import soft
from geobatch.methods.geotoken.select import Select, reselected
from geobatch.schema import CANDIDATES, CONFIDENCE, FATE, LOCATED, NEIGHBOURS, RADII_KM, probability_column

SELECTORS: list[Selector] = ["log_probability", "similarity", "expected_distance", "expected_share"]

Row = dict[str, Any]


def row_of(rng: np.random.Generator, candidates: int, neighbours: int) -> Row:
    """Places around one of two centres, so that every radius decides something."""
    centres = np.array([[10.0, 179.5], [-33.0, 20.0]])[rng.integers(0, 2, candidates + neighbours)]
    places = centres + rng.normal(0, rng.choice([0.1, 2.0, 10.0]), centres.shape)
    latitude, longitude = places[:, 0], (places[:, 1] + 180) % 360 - 180
    scores = np.sort(rng.normal(-8, 2, candidates))[::-1].astype(np.float32)
    return {
        "image_id": str(rng.integers(0, 1 << 40)),
        "vector": (rng.normal(size=4) / 2).astype(np.float32).tolist(),
        "candidates": [
            {
                "latitude": latitude[k],
                "longitude": longitude[k],
                "score": float(scores[k]),
                "count": int(rng.integers(1, 6)),
                "similarity": None,
                "origin": "sample",
            }
            for k in range(candidates)
        ],
        "neighbours": [
            {
                "image_id": str(k),
                "latitude": latitude[candidates + k],
                "longitude": longitude[candidates + k],
                "similarity": float(np.float32(0.9 - 0.05 * k)),
            }
            for k in range(neighbours)
        ],
    }


def table_of(rows: list[Row]) -> pa.Table:
    kinds = {
        "image_id": pa.string(),
        "vector": pa.list_(pa.float32()),
        "candidates": CANDIDATES,
        "neighbours": NEIGHBOURS,
    }
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    return pa.table({**columns, **{field.name: pa.nulls(len(rows), field.type) for field in FATE}})


def weighted(row: Row, selection: Selection) -> Iterator[tuple[float, float, float]]:
    """(latitude, longitude, posterior) of the pool, the slow way."""
    near = row["neighbours"][: selection.neighbours]
    selection = selection.suited(between=False)
    mass = selection.neighbour_mass if near else 0.0
    draws = sum(place["count"] for place in row["candidates"])
    for place in row["candidates"]:
        yield place["latitude"], place["longitude"], (1 - mass) * place["count"] / draws
    powers = [np.exp(place["similarity"] / selection.neighbour_temperature) for place in near]
    for place, power in zip(near, powers, strict=True):
        yield place["latitude"], place["longitude"], mass * power / sum(powers)


def slow(row: Row, selection: Selection) -> tuple[list[tuple[float, float]], float]:
    """All the best places (ties), and their score."""
    if selection.selector == "log_probability":
        options = [((place["latitude"], place["longitude"]), place["score"]) for place in row["candidates"]]
    elif selection.selector == "similarity":
        options = []
        for place in row["candidates"]:
            here = place["latitude"], place["longitude"]
            near = row["neighbours"][: selection.neighbours]
            nearest = min(near, key=lambda other: haversine_km(*here, other["latitude"], other["longitude"]))
            options.append((here, nearest["similarity"]))
    else:
        options = []
        for latitude, longitude, posterior in weighted(row, selection):
            if not posterior:
                continue
            km = [(haversine_km(latitude, longitude, lat, lon), mass) for lat, lon, mass in weighted(row, selection)]
            if selection.selector == "expected_distance":
                score = -sum(far * mass for far, mass in km)
            else:
                score = sum(mass for radius in RADII_KM for far, mass in km if far <= radius) / len(RADII_KM)
            options.append(((latitude, longitude), float(score)))
    best = max(score for _, score in options)
    return [place for place, score in options if score > best - 1e-4], best


@pytest.mark.parametrize("selector", SELECTORS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), mass=st.sampled_from([0.0, 0.3, 0.9]))
def test_every_selector_equals_its_loop(selector: Selector, seed: int, mass: float) -> None:
    rng = np.random.default_rng(seed)
    selection = Selection(selector=selector, neighbour_mass=mass, neighbours=4)
    rows = [row_of(rng, int(rng.integers(1, 9)), int(rng.integers(1, 7))) for _ in range(3)]
    found = Select(selection)(table_of(rows)).to_pylist()
    for row, place in zip(rows, found, strict=True):
        options, score = slow(row, selection)
        assert (place["latitude"], place["longitude"]) in options
        assert place["score"] == pytest.approx(score, rel=1e-5, abs=1e-3)
        for km in RADII_KM:
            expected = sum(
                mass
                for latitude, longitude, mass in weighted(row, replace(selection, neighbour_mass=0.0))
                if haversine_km(place["latitude"], place["longitude"], latitude, longitude) <= km
            )
            assert place[probability_column(km)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("selector", SELECTORS)
def test_an_image_without_neighbours_is_placed_by_its_candidates(selector: Selector) -> None:
    rows = [row_of(np.random.default_rng(seed), 6, 0) for seed in range(5)]
    for row, place in zip(rows, Select(Selection(selector=selector))(table_of(rows)).to_pylist(), strict=True):
        options = [(place["latitude"], place["longitude"]) for place in row["candidates"]]
        assert (place["latitude"], place["longitude"]) in options
        assert place["chosen_by"] == ("expected_share" if selector == "similarity" else selector)
        assert place["fallback"] == ("nothing to compare with" if selector == "similarity" else None)
        assert place["score"] is not None


def test_neighbours_may_be_answers_only_where_they_have_mass() -> None:
    row = row_of(np.random.default_rng(0), 1, 1)
    row["candidates"][0] |= {"latitude": 0.0, "longitude": 0.0}
    row["neighbours"][0] |= {"latitude": 10.0, "longitude": 10.0}
    for mass, latitude in ((0.0, 0.0), (0.4, 0.0), (0.6, 10.0)):
        place = Select(Selection(neighbour_mass=mass))(table_of([row])).to_pylist()[0]
        assert place["latitude"] == latitude


@pytest.mark.parametrize("selector", ["expected_distance", "expected_share"])
@pytest.mark.parametrize("near", [0, 1])
def test_a_place_that_no_draw_fell_on_may_be_chosen(selector: Selector, near: int) -> None:
    """A beam's place amid three draws that are 35 km apart; without it, one of them."""
    row = row_of(np.random.default_rng(0), 4, near)
    places = [(0.18, 10.0), (-0.09, 10.156), (-0.09, 9.844), (0.0, 10.0)]
    for candidate, (latitude, longitude) in zip(row["candidates"], places, strict=True):
        candidate |= {"latitude": latitude, "longitude": longitude, "count": 1}
    row["candidates"][3] |= {"count": 0, "origin": "beam"}
    selection = Selection(selector=selector, neighbour_mass=0.1 * near)
    drawn = {**row, "candidates": row["candidates"][:3]}
    found, without = Select(selection)(table_of([row, drawn])).to_pylist()
    assert (found["latitude"], found["longitude"]) == places[3]
    assert (without["latitude"], without["longitude"]) in places[:3] and without["score"] < found["score"]
    assert found[probability_column(1)] == 0 and found[probability_column(25)] == pytest.approx(1)


def gallery_of(rng: np.random.Generator) -> Gallery:
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 500))), rng.uniform(-180, 180, 500)
    vectors = rng.normal(size=(500, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"{row:03d}" for row in range(500)]
    return collect([pa.table({"image_id": names, "latitude": latitude, "longitude": longitude, "vector": list(vectors)})])


def test_similarity_over_a_gallery_compares_with_the_image_nearest_on_the_sphere() -> None:
    rng = np.random.default_rng(0)
    gallery = gallery_of(rng)
    vectors = gallery.vectors(np.arange(500))
    rows = [row_of(rng, 7, 2) for _ in range(6)]
    placed = Select(Selection(selector="similarity"), gallery)(table_of(rows))
    for row, place in zip(rows, placed.to_pylist(), strict=True):
        cosines = []
        for candidate in row["candidates"]:
            km = haversine_km(candidate["latitude"], candidate["longitude"], gallery.latitude, gallery.longitude)
            cosines.append(float(np.dot(vectors[np.argmin(km)], row["vector"])))
        best = row["candidates"][int(np.argmax(cosines))]
        assert (place["latitude"], place["longitude"]) == (best["latitude"], best["longitude"])
        assert place["score"] == pytest.approx(max(cosines), rel=1e-5)
        assert [candidate["similarity"] for candidate in place["candidates"]] == pytest.approx(cosines, rel=1e-4)


def test_a_table_tells_what_every_other_selector_would_have_chosen() -> None:
    rng = np.random.default_rng(1)
    gallery = gallery_of(rng)
    rows = [row_of(rng, 7, 3) for _ in range(8)]
    table = table_of(rows)
    table = table.set_column(
        table.column_names.index("reason"), "reason", pa.array(["broken" if row == 3 else None for row in range(8)])
    )
    placed = Select(Selection(), gallery)(table)
    for selector in SELECTORS:
        other = Selection(selector=selector, neighbour_mass=0.2)
        expected = Select(other, gallery)(table)
        found = reselected(placed, other)
        for name in ("latitude", "longitude"):
            assert found[name].to_pylist() == expected[name].to_pylist()


def test_the_stage_adds_what_a_place_needs_and_drops_what_nobody_reads() -> None:
    rows = [row_of(np.random.default_rng(seed), 3, 2) for seed in range(4)]
    table = table_of(rows)
    dead = table.set_column(table.column_names.index("reason"), "reason", pa.array([None, "broken", None, None], pa.string()))
    placed = Select()(dead)
    assert {field.name for field in (*LOCATED, *CONFIDENCE)} <= set(placed.column_names)
    assert all(placed.schema.field(field.name).type == field.type for field in (*LOCATED, *CONFIDENCE))
    assert "vector" not in placed.column_names
    assert [value is None for value in placed["latitude"].to_pylist()] == [False, True, False, False]


def test_rewards_choose_where_there_are_some_and_are_dropped() -> None:
    rows = [row_of(np.random.default_rng(seed), 5, 2) for seed in range(4)]
    rewards = pa.array([[0.1, 0.9, 0.2, 0.3, 0.1], None, [None, 0.2, 0.1, 0.0, 0.0], []], pa.list_(pa.float32()))
    table = table_of(rows).append_column("rewards", rewards)
    placed = Select(Selection(selector="reward"))(table)
    assert "rewards" not in placed.column_names
    found = placed.to_pylist()
    for row, best in ((0, 1), (2, 1)):
        candidate = rows[row]["candidates"][best]
        assert (found[row]["latitude"], found[row]["chosen_by"]) == (candidate["latitude"], "reward")
        assert found[row]["fallback"] is None and found[row]["score"] == pytest.approx(rewards[row][best].as_py())
    others = Select()(table).to_pylist()
    for row in (1, 3):
        assert found[row]["latitude"] == others[row]["latitude"]
        assert (found[row]["chosen_by"], found[row]["fallback"]) == (
            "expected_share",
            "no rewards: the model has no reward network",
        )


def test_what_is_stated_without_a_calibration_is_the_draws_own() -> None:
    rows = [row_of(np.random.default_rng(seed), 9, 3) for seed in range(12)]
    for row, place in zip(rows, Select()(table_of(rows)).to_pylist(), strict=True):
        draws = list(weighted(row, Selection(neighbour_mass=0.0)))
        km = [float(haversine_km(place["latitude"], place["longitude"], lat, lon)) for lat, lon, _ in draws]
        held = sum(mass for far, (*_, mass) in zip(km, draws, strict=True) if far <= place["radius_90_km"])
        less = sum(mass for far, (*_, mass) in zip(km, draws, strict=True) if far <= 0.98 * place["radius_90_km"])
        assert held >= 0.9 - 1e-9 > less
        if place["area"] is None:
            continue
        cells = s2.parse_cell_tokens([place["area"]] * len(draws))
        inside = cell.holds(cells, [lat for lat, *_ in draws], [lon for _, lon, _ in draws])
        assert sum(mass for here, (*_, mass) in zip(inside, draws, strict=True) if here) == pytest.approx(
            place["area_probability"]
        )
        assert place["area_probability"] >= 0.9 - 1e-6


def test_a_row_without_candidates_is_rejected_alone() -> None:
    rows = [row_of(np.random.default_rng(seed), 3, 2) for seed in range(4)]
    rows[2] |= {"candidates": []}
    placed = Select()(table_of(rows)).to_pylist()
    assert [row["reason"] for row in placed] == [None, None, "failed", None]
    assert placed[2]["latitude"] is None and placed[1]["latitude"] is not None


def test_soft_shares_are_stable_and_sum_to_one() -> None:
    shares = soft(np.array([[1000.0, 999.0, -np.inf], [-np.inf, -np.inf, -np.inf]]), 1.0)
    np.testing.assert_allclose(shares, [[1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0], [0, 0, 0]])
    assert soft(np.zeros((2, 0)), 1.0).shape == (2, 0)


def test_the_radii_hold_more_and_more() -> None:
    rows = [row_of(np.random.default_rng(seed), 20, 5) for seed in range(10)]
    selection = Selection(selector="expected_share", neighbour_mass=0.0)
    for place in Select(selection)(table_of(rows)).to_pylist():
        within = [place[probability_column(km)] for km in RADII_KM]
        assert within == sorted(within) and within[0] > 0 and within[-1] <= 1
