"""A fit on made pools: what it says of pools it never saw, against what is so; its maps; what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.benchmark.metrics import calibration as judged
from geobatch.errors import UserError
from geobatch.geo import cell, s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.calibrate import FLATTEST, asked_of, conformal, fit, fit_platt, learn
from geobatch.methods.geotoken.calibration import FILE, Calibration, platt
from geobatch.methods.geotoken.config import Sampling, Selection, Selector
from geobatch.methods.geotoken.select import Select, reselected
from geobatch.schema import RADII_KM, probability_column
from tests.methods.geotoken.pools import known
from tests.methods.geotoken.tiny import TINY, examples_of, model_of

UNSEEN = 4000


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit(*known(1000, seed=1))


@pytest.fixture(scope="module")
def unseen() -> tuple[pa.Table, np.ndarray, np.ndarray]:
    return known(UNSEEN, seed=2)


def loss(probability: np.ndarray, hit: np.ndarray) -> float:
    """Mean negative log-probability of outcomes."""
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(-np.log(np.where(hit, kept, 1 - kept)).mean())


def test_probabilities_radius_and_area_hold_on_pools_the_fit_never_saw(
    fitted: Calibration, unseen: tuple[pa.Table, np.ndarray, np.ndarray]
) -> None:
    table, latitude, longitude = unseen
    placed = Select(Selection(), None, fitted)(table)
    km = haversine_km(placed["latitude"].to_numpy(), placed["longitude"].to_numpy(), latitude, longitude)
    for limit in RADII_KM:
        said, hit = placed[probability_column(limit)].to_numpy().astype(float), km <= limit
        assert judged(said, km, limit).error < 0.05
        constant = loss(np.full(UNSEEN, hit.mean()), hit)
        # Who is lost shows in nothing, so beyond 25 km only the constant can be reached, with 1,000 images about.
        assert loss(said, hit) < (0.8 if limit == 25 else 1.15) * constant
    assert 0.88 < np.mean(km <= placed["radius_90_km"].to_numpy()) < 0.92
    tokens = placed["area"].to_pylist()
    cells = s2.parse_cell_tokens([token for token in tokens if token])
    there = np.array([token is not None for token in tokens])
    held = cell.holds(cells, latitude[there], longitude[there])
    said = placed["area_probability"].to_numpy(zero_copy_only=False).astype(float)[there]
    assert there.mean() > 0.9 and said.min() > 0.89 and held.mean() == pytest.approx(said.mean(), abs=0.04)


def test_a_clear_image_is_sure_and_an_unclear_one_is_not(
    fitted: Calibration, unseen: tuple[pa.Table, np.ndarray, np.ndarray]
) -> None:
    table, latitude, longitude = unseen
    placed = Select(Selection(), None, fitted)(table)
    km = haversine_km(placed["latitude"].to_numpy(), placed["longitude"].to_numpy(), latitude, longitude)
    radius = placed["radius_90_km"].to_numpy()
    third = np.argsort(np.argsort(radius)) * 3 // UNSEEN
    assert np.median(radius[third == 2]) > 2 * np.median(radius[third == 0])
    assert [round(float(np.mean((km <= radius)[third == part])), 1) for part in range(3)] == [0.9] * 3


def test_the_fit_trusts_the_place_between_and_a_pool_without_one_still_has_a_posterior(fitted: Calibration) -> None:
    table, latitude, longitude = known(600, seed=3)
    ours, best = Select(Selection(), None, fitted)(table), Select(Selection(selector="log_probability"), None, fitted)(table)
    far = [haversine_km(one["latitude"].to_numpy(), one["longitude"].to_numpy(), latitude, longitude) for one in (ours, best)]
    assert np.median(far[0]) < np.median(far[1])
    without, latitude, longitude = known(600, seed=3, between=False)
    placed = Select(Selection(), None, fitted)(without)
    within = np.stack([placed[probability_column(km)].to_numpy() for km in RADII_KM], axis=1)
    assert np.all(np.isfinite(within)) and np.all(np.diff(within, axis=1) >= 0)


def test_it_comes_back_from_its_file_and_chooses_the_same(fitted: Calibration, tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None
    fitted.save(tmp_path)
    assert Calibration.load(tmp_path) == fitted
    table, _, _ = known(50, seed=4)
    assert Select(Selection(), None, str(tmp_path))(table).equals(Select(Selection(), None, fitted)(table))
    text = (tmp_path / FILE).read_text()
    for broken, said in ((text.replace('"version": 1', '"version": 99'), "another version"), ("{}", "no calibration")):
        (tmp_path / FILE).write_text(broken)
        with pytest.raises(UserError, match=said):
            Calibration.load(tmp_path)


def test_a_written_table_is_chosen_from_as_it_was(fitted: Calibration) -> None:
    table, _, _ = known(80, seed=5)
    for selector in ("expected_share", "expected_distance", "log_probability"):
        how = Selection(selector=selector)
        placed = Select(how, None, fitted)(table)
        again = reselected(Select(Selection(calibrated=False), None, fitted)(table), how, fitted)
        assert again["latitude"].equals(placed["latitude"]) and again["longitude"].equals(placed["longitude"])


def test_without_the_calibration_the_draws_speak_for_themselves(fitted: Calibration) -> None:
    table, _, _ = known(30, seed=6)
    assert Select(Selection(calibrated=False), None, fitted)(table).equals(Select(Selection())(table))


def test_the_order_of_the_rows_does_not_matter_and_unknown_ones_are_left_out() -> None:
    table, latitude, longitude = known(260, seed=7)
    latitude[:10] = np.nan
    order = np.random.default_rng(0).permutation(260)
    one, other = fit(table, latitude, longitude), fit(table.take(pa.array(order)), latitude[order], longitude[order])
    assert one == other and one.images == 250


@pytest.mark.parametrize(
    ("asked", "used"),
    [("log_probability", "log_probability"), ("expected_distance", "expected_distance"), ("similarity", "expected_share")],
)
def test_it_says_by_whom_its_places_were_chosen(asked: Selector, used: Selector) -> None:
    table, latitude, longitude = known(220, seed=10)
    found = fit(table, latitude, longitude, Selection(selector=asked))
    assert found.selector == used
    assert replace(found, selector=asked) == replace(fit(table, latitude, longitude, Selection(selector=used)), selector=asked)


def test_too_few_images_are_refused() -> None:
    table, latitude, longitude = known(300, seed=8)
    latitude[150:] = np.nan
    with pytest.raises(UserError, match=r"150 located images .* too few .*give 200 or more"):
        fit(table, latitude, longitude)


def test_platt_finds_the_map_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.02, 0.98, 200_000)
    a, b = fit_platt(mass, rng.random(len(mass)) < platt(mass, -0.7, 0.6))
    assert (a, b) == (pytest.approx(-0.7, abs=0.03), pytest.approx(0.6, abs=0.03))


def test_platt_leaves_masses_alone_that_outcomes_say_little_of() -> None:
    a, b = fit_platt(np.full(20, 0.999), np.ones(20, bool))
    assert abs(a) < 0.1 and b == pytest.approx(1, abs=0.1)


def test_platt_never_turns_masses_around() -> None:
    mass, hit = np.linspace(0.1, 0.9, 400), np.linspace(0.95, 0.1, 400) > 0.5
    a, b = fit_platt(mass, hit)
    assert b == FLATTEST and platt(mass, a, b).mean() == pytest.approx(hit.mean(), abs=1e-3)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_conformal_is_a_rank(ratios: list[float], mass: float) -> None:
    found = conformal(ratios, mass)
    rank = sum(ratio <= found for ratio in ratios)
    assert found in ratios and (rank >= (len(ratios) + 1) * mass - 1e-9 or rank == len(ratios))


def test_conformal_holds_its_share_of_the_next_ones() -> None:
    rng = np.random.default_rng(0)
    draw = partial(rng.lognormal, 0, 1)
    assert np.mean([draw() <= conformal(draw(49)) for _ in range(8000)]) == pytest.approx(0.9, abs=0.012)


@pytest.mark.parametrize("between", [False, True])
def test_images_kept_out_are_asked_as_retrieval_would(between: bool) -> None:
    config = replace(TINY, between=between)
    held = examples_of(config, images=30).some(np.array([3, 7, 20]))
    table = asked_of(held, 5, config)
    assert table["image_id"].to_pylist() == ["000000005", "000000006", "000000007"]
    for at, row in enumerate((3, 7, 20)):
        assert table["vector"][at].as_py() == pytest.approx(held.vectors[row])
        near = table["neighbour_vectors"][at].as_py()
        assert len(table["neighbours"][at]) == config.neighbours and len(near) == config.neighbours * held.vectors.shape[1]
        for place, (one, found) in enumerate(zip(held.neighbours[row], table["neighbours"][at].as_py(), strict=True)):
            assert found["latitude"] == (None if one < 0 else held.gallery.latitude[one])
            assert found["longitude"] == (None if one < 0 else held.gallery.longitude[one])
            assert (found["image_id"] is None) == (between and not place)
            width = held.vectors.shape[1]
            assert found["similarity"] == pytest.approx(held.vectors[row] @ near[place * width : (place + 1) * width], rel=1e-5)


def test_a_network_learns_from_images_kept_out_of_its_training() -> None:
    fitted = learn(model_of(TINY), examples_of(TINY, images=240), Sampling(samples=8))
    assert fitted.images == 240
    # Random weights know nothing: whatever holds 90 % is as wide as the Earth, and nothing is likely near.
    placed = Select(None, None, fitted)(known(50, seed=9)[0])
    assert np.median(placed["radius_90_km"].to_numpy()) > 8000 and max(placed[probability_column(25)].to_pylist()) < 0.4
