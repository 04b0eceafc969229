"""Each analysis by hand or against a slow reference, and that it says what its numbers show."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark.analyses import (
    ALL,
    Case,
    Finding,
    analysed,
    attract,
    collapse,
    cover,
    coverage,
    density,
    doubt,
    leakage,
    levels,
    masked,
    nearest,
    oracle,
    seeds,
)
from geobatch.benchmark.choices import CHOSEN, NEIGHBOUR, ORACLE, SCORE
from geobatch.benchmark.lists import Lists
from geobatch.benchmark.metrics import calibration
from geobatch.benchmark.regions import Regions
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from geobatch.schema import RADII_KM
from tests.benchmark.analyses.cases import QUICK, case, shifted
from tests.benchmark.towns import Ground, Town, Towns

PARIS, LYON, BERLIN, MANAUS = (48.857, 2.352), (45.76, 4.84), (52.52, 13.4), (-3.1, -60.02)
NOWHERE = (np.nan, np.nan)


def found(said: Finding | str) -> Finding:
    assert isinstance(said, Finding), said
    assert said.sentence.endswith(".") and "nan" not in said.sentence
    assert len({tuple(row) for row in said.rows}) <= 1
    json.dumps(said.as_dict(), allow_nan=False)
    return said


# Levels


@settings(max_examples=60, deadline=None)
@given(*[st.floats(-80, 80), st.floats(-179, 179)] * 2)
def test_a_sequence_leaves_where_its_tokens_differ(north: float, east: float, other: float, west: float) -> None:
    for lat, lon in ((other, west), (north + 1e-4, east), (north, east)):
        ours, theirs = s2.tokens([lat], [lon]), s2.tokens([north], [east])
        differing = np.flatnonzero(ours[0] != theirs[0])
        expected = int(differing[0]) if differing.size else 21
        assert levels.left_at(*(np.array([each]) for each in (lat, lon, north, east))).tolist() == [expected]


def test_levels_cascade() -> None:
    true = [PARIS] * 4
    one = found(levels.analyse(case(true, [PARIS, MANAUS, shifted([PARIS], [400])[0], NOWHERE])))
    assert one.figures["judged"] == "the chosen place" and one.figures["images"] == 3
    assert sum(row["left"] for row in one.rows) == 2 and one.rows[0]["held_until"] == 3
    assert all(row["held_until"] >= after["held_until"] for row, after in zip(one.rows, one.rows[1:], strict=False))
    assert one.rows[-1]["held_until"] == 1 and len(one.rows) == 21
    assert one.figures["misses_of_200km"] == 2 and one.figures["of_them_left_by_level_6"] == 1
    assert "100 % of the 2 misses beyond 200 km had left the truth by level 6" in one.sentence
    assert "half have left the truth by level" in one.sentence and "and of the 2 that had left so early 0 %" in one.sentence
    assert levels.analyse(case([PARIS], [NOWHERE])) == "no image has a place"


def test_sequences_that_hold_have_not_left() -> None:
    held = found(levels.analyse(case([PARIS] * 5, [PARIS] * 4 + [MANAUS]))).sentence
    assert "80 % hold the truth to level 20 (0.0088 km cells); most that leave do so at level 0; 100 %" in held
    assert "level 21" not in held
    assert found(levels.analyse(case([PARIS], [PARIS]))).sentence.endswith(
        "100 % hold the truth to level 20 (0.0088 km cells); no image missed by more than 200 km, and none had left by level 6."
    )


def test_a_border_is_no_distance() -> None:
    # 0.0001° west of the edge of a face, the truth as far east of it: another face, 22 m away.
    one = found(levels.analyse(case([(10.0, 45.0001)], [(10.0, 44.9999)])))
    assert one.figures["median_level"] == 0 and one.rows[0]["near_the_border"] == 1
    assert "100 % lie within 25 km all the same" in one.sentence


def test_the_likeliest_draw_is_judged_where_there_is_one() -> None:
    lists = Lists(images=2)
    lists.score_latitude[:], lists.score_longitude[:] = [PARIS[0], np.nan], [PARIS[1], np.nan]
    made = case([PARIS, PARIS], [MANAUS, MANAUS], lists=lists)
    made.distances[SCORE] = np.array([0.0, np.nan])
    one = found(levels.analyse(made))
    assert (one.figures["judged"], one.figures["images"], one.figures["median_level"]) == ("the likeliest draw", 1, 21)


# Oracle


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9))
def test_draws_held_are_those_of_all_ways_to_draw(draws: int, k: int) -> None:
    for inside in range(draws + 1):
        ways = list(combinations(range(draws), min(k, draws)))
        hits = sum(any(one < inside for one in way) for way in ways)
        assert oracle.held(draws, k)[inside] == pytest.approx(hits / len(ways))


def test_the_gap_by_number_of_candidates() -> None:
    lists = Lists(images=4)
    # Two images of 4 draws with 1 and 4 of them within every radius, one of 2 draws with none, one failed.
    lists.draws = {4: np.tile([0, 1, 0, 0, 1], (len(RADII_KM), 1)), 2: np.tile([1, 0, 0], (len(RADII_KM), 1))}
    made = case([PARIS] * 4, [PARIS, MANAUS, MANAUS, NOWHERE], lists=lists)
    made.distances[SCORE] = np.array([9000.0, 0.0, 9000.0, np.nan])
    made.distances[ORACLE] = np.array([0.0, 0.0, 9000.0, np.nan])
    one = found(oracle.analyse(made))
    assert [(row["candidates"], row["within_25km"]) for row in one.rows] == [
        (1, pytest.approx((0.25 + 1) / 4)),
        (2, pytest.approx((0.5 + 1) / 4)),
        (3, pytest.approx((0.75 + 1) / 4)),
        (4, 0.5),
    ]
    assert one.figures["gap"]["25km"] == 0.25 and "and there may be no gap to close" in one.sentence
    assert oracle.analyse(case([PARIS], [PARIS])) == "the table has no draws"


def test_the_gap_closed_has_an_interval() -> None:
    lists = Lists(images=200)
    lists.draws = {1: np.tile([100, 100], (len(RADII_KM), 1))}
    far, right = np.full(200, 9000.0), np.full(200, 9000.0)
    right[:100] = 0
    # The oracle has 100 of 200, the likeliest draw none, the chosen place 50.
    made = case([PARIS] * 200, [PARIS] * 50 + [MANAUS] * 150, lists=lists)
    made.distances.update({SCORE: far, ORACLE: right})
    one = found(oracle.analyse(made))
    assert one.figures["closed"]["25km"] == 0.5
    # Half of some 100: a binomial share's deviation of 0.05.
    assert one.figures["closed_low"]["25km"] == pytest.approx(0.4, abs=0.04)
    assert one.figures["closed_high"]["25km"] == pytest.approx(0.6, abs=0.04)
    assert "so the selector closes 50.0 % [" in one.sentence


# The gallery


def test_coverage_by_region() -> None:
    true = [PARIS] * 30 + [BERLIN] * 25 + [MANAUS] * 20
    placed = [PARIS] * 30 + [BERLIN] * 20 + [PARIS] * 5 + [PARIS] * 20
    gallery = Ground(*[PARIS] * 5, *[LYON] * 3, *[BERLIN] * 2)
    one = found(coverage.analyse(case(true, placed, gallery=gallery)))
    rows = {row["region"]: row for row in one.rows}
    assert [row["kind"] for row in one.rows] == ["continent", "continent", "country", "country", "country"]
    assert (rows["France"]["gallery"], rows["France"]["images"], rows["France"]["right_region"]) == (8, 30, 1)
    assert (rows["Germany"]["gallery"], rows["Germany"]["within_200km"]["value"]) == (2, 0.8)
    assert (rows["Brazil"]["gallery"], rows["Brazil"]["within_25km"]["value"], rows["Europe"]["gallery"]) == (0, 0, 10)
    # Three countries in order are no correlation.
    assert one.figures["rank_correlation"] is None and "3 countries have 20 images, too few" in one.sentence
    assert one.figures["images_in_countries_without_gallery"] == 20
    assert "of the images of Europe (10 in the gallery) and 0.0 % [0.0, 0.0] of South America's (0)" in one.sentence
    assert "--gallery" in str(coverage.analyse(case(true, placed)))
    assert coverage.analyse(case(true, placed, regions=None, gallery=gallery)) == "there is no gazetteer"


def test_coverage_of_eight_countries_of_one_continent() -> None:
    towns = Towns()
    towns.latitude, towns.longitude = np.arange(8.0) * 5, np.zeros(8)
    towns.people, towns.towns = np.ones(8, np.int64), tuple(Town(f"c{at}", "s", f"C{at}") for at in range(8))
    places = np.repeat(np.stack([towns.latitude, towns.longitude], axis=1), 20, axis=0)
    # Of the k-th country 2k images are placed right, and the gallery has k of it.
    right = np.arange(160) % 20 < 2 * (np.arange(160) // 20)
    placed = np.where(right[:, None], places, 80.0)
    gallery = Ground(*np.repeat(np.stack([towns.latitude, towns.longitude], axis=1), np.arange(8), axis=0))
    for codes, said in (({"FR": "C0"}, "Fewer than two continents have 20 images; "), ({}, "Fewer than two continents")):
        known = Regions(towns, codes)
        of = {"where": known.of(*places.T), "guessed": known.of(*placed.T)}
        one = found(coverage.analyse(case(places, placed, regions=known, gallery=gallery, **of)))
        assert one.figures["rank_correlation"] == pytest.approx(1) and one.sentence.startswith(said)
        assert "over 8 countries the rank correlation" in one.sentence and "is +1.00" in one.sentence


def test_masked_retrieval() -> None:
    lists = Lists(images=4)
    lists.masked = {"images within 25 km": np.array([100.0, 30.0, np.nan, np.nan]), "its country": np.full(4, np.nan)}
    made = case([PARIS] * 4, [PARIS] * 4, lists=lists)
    made.distances[NEIGHBOUR] = np.array([1.0, 30.0, 5.0, np.nan])
    one = found(masked.analyse(made))
    assert [row["masked"] for row in one.rows] == ["nothing", "images within 25 km", "its country"]
    assert [row["with_a_neighbour_left"] for row in one.rows] == [3, 2, 0]
    assert [row["within_200km"]["value"] for row in one.rows] == [0.75, 0.5, 0]
    assert "within 25 km of the truth for at least 50.0 % [" in one.sentence and "(2 images have a listed" in one.sentence
    assert "without its country for at least 0.0 %" in one.sentence and "(0 have one left)" in one.sentence
    assert masked.analyse(case([PARIS], [PARIS])) == "the table has no neighbours"


def test_distance_to_the_gallery_and_leakage() -> None:
    true = [PARIS] * 30 + [MANAUS] * 30
    placed = np.concatenate([shifted([PARIS] * 30, [10.0] * 30), shifted([MANAUS] * 30, [900.0] * 30)])
    gallery = Ground(PARIS, shifted([MANAUS], [300.0])[0])
    made = case(true, placed, gallery=gallery)
    one = found(nearest.analyse(made))
    assert [(row["nearest_gallery_image"], row["images"]) for row in one.rows] == [("below 0.1 km", 30), ("200 to 750 km", 30)]
    assert [row["within_25km"]["value"] for row in one.rows] == [1, 0]
    assert (
        one.figures["beyond_200km"] == 0.5 and "100.0 % [100.0, 100.0] of the images whose nearest lies below" in one.sentence
    )
    leaked = found(leakage.analyse(made))
    assert [(row["left_out"], row["images"]) for row in leaked.rows] == [
        ("nothing", 60),
        ("what has a gallery image within 0.1 km", 30),
        ("what has a gallery image within 1 km", 30),
    ]
    assert leaked.figures["drop_25km"] == 0.5 and "accuracy falls by 50.0 points [" in leaked.sentence
    # Half the images are right and marked: the fall is the share right of a resample, since none right remains.
    assert leaked.figures["drop_25km_low"] == pytest.approx(0.5 - 1.96 * (0.25 / 60) ** 0.5, abs=0.05)
    made.lists.similarity[:] = np.linspace(0.5, 0.97, 60)
    alike = {row["left_out"]: row["images_left_out"] for row in found(leakage.analyse(made)).rows}
    assert alike["first neighbours at least 0.95 alike"] == 3 and alike["first neighbours at least 0.99 alike"] == 0
    assert alike["the most alike tenth"] == 6 and alike["the most alike hundredth"] == 1
    # One image left out of 60 says nothing.
    few = case(true, placed)
    few.lists.similarity[0] = 1.0
    assert leakage.analyse(few) == "no mark of near-duplicates parts the images into two groups of at least 20"
    assert "give --gallery" in str(nearest.analyse(case(true, placed)))
    assert "give --gallery" in str(leakage.analyse(case(true, placed)))


# Ground


def test_density_and_cover() -> None:
    true = [PARIS] * 25 + [(0.0, -140.0)] * 30
    placed = [*[PARIS] * 25, *[PARIS] * 30]
    one = found(density.analyse(case(true, placed)))
    assert [(row["people"], row["images"]) for row in one.rows] == [("nobody counted", 30), ("above 1,000 / km²", 25)]
    assert one.figures["nobody_counted"] == 30 / 55 and [row["within_25km"]["value"] for row in one.rows] == [0, 1]
    kinds = (("forest", "desert", "sea"), np.array([0] * 25 + [2] * 29 + [-1]))
    two = found(cover.analyse(case(true, placed, cover=kinds)))
    assert [(row["cover"], row["images"]) for row in two.rows] == [("forest", 25), ("sea", 29)]
    assert two.figures["images"] == 54 and "of the images of forest and 0.0 %" in two.sentence
    assert "no map" in str(cover.analyse(case(true, placed)))
    assert density.analyse(case(true, placed, regions=None)) == "there is no gazetteer"
    few = found(density.analyse(case(true[:44], placed[:44])))
    assert "fewer than two bands of density have 20 images" in few.sentence and len(few.rows) == 2
    near = found(nearest.analyse(case(true[:44], placed[:44], gallery=Ground(PARIS))))
    assert "; fewer than two bands have 20 images" in near.sentence and len(near.rows) == 2


# Chance, collapse, attraction


def test_spread_over_seeds() -> None:
    true = [PARIS] * 3
    runs = {f"seed {n}": shifted(true, [0.0, 40.0 * n, np.nan]).T for n in (1, 2)}
    made = case(true, [*true[:2], NOWHERE], seeds={name: (run[0], run[1]) for name, run in runs.items()})
    one = found(seeds.analyse(made))
    assert (one.figures["runs"], one.figures["images"], one.figures["steady_within_1km"]) == (3, 2, 0.5)
    # 0, 40 and 80 km along a meridian: the middle is 40 km, the root mean square √(3200 / 3).
    assert one.figures["mean_spread_km"] == pytest.approx((3200 / 3) ** 0.5 / 2, rel=1e-6)
    assert one.figures["mean_variance_km2"] == pytest.approx(1600 / 3, rel=1e-6)
    at = one.rows[1]
    assert (at["radius_km"], at["flipping"]) == (25, pytest.approx(1 / 3))
    assert at["deviation_of_runs"] == pytest.approx(np.std([2 / 3, 1 / 3, 1 / 3], ddof=1))
    assert "--seeds" in str(seeds.analyse(case(true, true)))


def test_the_spread_of_each_image_by_hand() -> None:
    true = [PARIS] * 4
    runs = {f"seed {n}": shifted(true, [0.0, 40.0 * n, 20.0 * n, np.nan]).T for n in (1, 2)}
    made = case(
        true,
        [*true[:3], NOWHERE],
        seeds={name: (run[0], run[1]) for name, run in runs.items()},
        run_by_all=np.array([True, True, True, True]),
    )
    rows = seeds.by_image(made, ["a", "b", "c", "d"])
    assert rows is not None and rows["image_id"].to_pylist() == ["a", "b", "c", "d"]
    assert rows["placed"].to_pylist() == [3, 3, 3, 0] and set(rows["runs"].to_pylist()) == {3}
    # 0, 40 and 80 km, or half as far: about the middle one. Of the pairs two are 20 km apart, and none 40.
    assert rows["variance_km2"].to_pylist()[:3] == pytest.approx([0, 3200 / 3, 800 / 3], rel=1e-5, abs=1e-9)
    assert rows["variance_km2"][3].as_py() is None and rows["agreed_25km"].to_pylist() == [1, 0, pytest.approx(2 / 3), 0]
    figures = found(seeds.analyse(made)).figures
    assert figures["variance_km2"]["value"] == pytest.approx((3200 + 800) / 9, rel=1e-5)
    assert figures["variance_km2"]["low"] < figures["variance_km2"]["value"] < figures["variance_km2"]["high"]
    assert figures["agreed_25km"]["value"] == pytest.approx(5 / 12)
    fewer = seeds.by_image(replace(made, run_by_all=np.array([True, False, True, False])), ["a", "b", "c", "d"])
    assert fewer is not None and fewer["image_id"].to_pylist() == ["a", "c"]
    assert seeds.by_image(case(true, true), ["a"] * 4) is None


def test_antipodes_have_a_spread() -> None:
    half = haversine_km(0, 0, 0, 180)
    assert seeds.spread_km(np.zeros((2, 1)), np.array([[0.0], [180.0]]))[0] == pytest.approx(half / 2**0.5)


def test_collapse() -> None:
    rng = np.random.default_rng(0)
    true = np.stack([rng.uniform(-50, 50, 100), rng.uniform(-170, 170, 100)], axis=1)
    placed = true.copy()
    placed[:60] = PARIS
    one = found(collapse.analyse(case(true, placed)))
    assert (one.figures["different_places"], one.figures["commonest"]) == (41, 60)
    assert one.figures["images_that_share_a_place"] == 0.6 and one.rows[0]["near"] == "Paris (France)"
    assert one.rows[0]["images"] == 60 and one.rows[0]["within_25km"] == 0 and len(one.rows) == 1
    assert one.figures["effective_cells"] < 12 and one.figures["effective_cells_of_the_truth"] > 99
    assert "they crowd together" in one.sentence
    assert "60.0 % share theirs with images taken elsewhere, 60 images the commonest such place" in one.sentence
    # Many places for one truth, and one place for images that were taken in one.
    wider = found(collapse.analyse(case([PARIS] * 100, true)))
    assert "they are spread wider than the truth is" in wider.sentence
    same = found(collapse.analyse(case([PARIS] * 9 + [LYON], [BERLIN] * 9 + [PARIS])))
    assert same.figures["images_that_share_a_place"] == 0 and not same.rows and same.figures["commonest"] == 9
    spread = found(collapse.analyse(case(true, true)))
    assert "spread about as the truth is" in spread.sentence and not spread.rows
    assert collapse.analyse(case([PARIS], [NOWHERE])) == "no image has a place"


def test_places_that_attract() -> None:
    true = [MANAUS] * 30 + [PARIS] * 10 + [BERLIN] * 10
    placed = [*[PARIS] * 20, *[MANAUS] * 10, *[PARIS] * 10, *[BERLIN] * 10]
    one = found(attract.analyse(case(true, placed)))
    first = one.rows[0]
    assert (first["misses"], first["images_of_there"], first["commonest_origin"]) == (20, 10, "Brazil")
    assert first["expected"] == pytest.approx(20 * 10 / 50) and len(one.rows) == 1
    assert first["near"].endswith("(France)") and "with 20 misses where 4.0 were to be expected" in one.sentence
    assert "more than 200 km off" in str(attract.analyse(case(true, true)))


def test_a_cell_with_one_miss_hides_no_other() -> None:
    # One miss in a place where nothing was taken, excess 1; three at Berlin where 2.4 were to be expected, excess 0.6.
    true = [MANAUS] * 4 + [BERLIN] * 6
    placed = [(20.0, 20.0), *[BERLIN] * 3, *[BERLIN] * 6]
    one = found(attract.analyse(case(true, placed)))
    assert [(row["misses"], row["expected"]) for row in one.rows] == [(3, pytest.approx(2.4))]


def test_doubt() -> None:
    km_off = np.where(np.arange(40) < 20, 1.0, 500.0)
    said = [calibration(np.full(40, 0.9), km_off, km, bootstrap=QUICK) for km in (25, 750)]
    one = found(doubt.analyse(case([PARIS], [PARIS], calibration=said)))
    assert one.figures["worst_radius_km"] == 25 and one.figures["worst_error"] == pytest.approx(0.4)
    assert "90.0 % is stated and 50.0 % true (too sure" in one.sentence
    assert one.figures["radii_better_than_a_constant"] == []
    assert doubt.analyse(case([PARIS], [PARIS])) == "the table states no probabilities"


def test_doubts_are_called_what_they_are() -> None:
    near, far = np.full(40, 1.0), np.where(np.arange(40) < 20, 1.0, 500.0)
    sure = calibration(np.ones(40), near, 25, bootstrap=QUICK)
    assert "100.0 % is stated and 100.0 % true (as stated; expected" in found(
        doubt.analyse(case([PARIS], [PARIS], calibration=[sure]))
    ).sentence  # fmt: skip
    # 0.7 said of what is always so, 0.3 of what never is: on the average right, of no image, yet more than a constant says.
    mixed = calibration(np.where(np.arange(40) < 20, 0.7, 0.3), far, 25, bootstrap=QUICK)
    one = found(doubt.analyse(case([PARIS], [PARIS], calibration=[mixed])))
    assert "(off in both directions;" in one.sentence and "at 1 of 1 radii" in one.sentence
    # The constant's loss is log 2 of every image, the stated one's -log 0.7.
    assert mixed.gain.value == pytest.approx(np.log(1.4)) and mixed.gain.low == pytest.approx(np.log(1.4), rel=0.1)
    # Better by chance alone: of three images one is told well.
    chance = calibration(np.array([0.6, 0.6, 0.5]), np.array([1.0, 1.0, 500.0]), 25, bootstrap=QUICK)
    assert chance.log_loss < chance.constant_loss and chance.gain.low <= 0
    assert "at 0 of 1 radii" in found(doubt.analyse(case([PARIS], [PARIS], calibration=[chance]))).sentence


def test_what_cannot_be_analysed_says_why() -> None:
    bare = Case(
        **{axis: np.array([1.0]) for axis in ("latitude", "longitude", "true_latitude", "true_longitude")},
        distances={CHOSEN: np.array([0.0])},
        lists=Lists(images=1),
    )
    findings, unmade = analysed(bare)
    assert {one.name for one in findings} | unmade.keys() == {*ALL} and not {one.name for one in findings} & unmade.keys()
    assert {one.name for one in findings} == {"levels", "collapse"}
    assert analysed(bare, ()) == ([], {})
