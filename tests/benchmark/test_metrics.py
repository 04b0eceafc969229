"""Metrics against published summary rows, and intervals against real resampling."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from geobatch.benchmark.metrics import Bootstrap, calibration, figures, paired_difference, share_interval, shares
from geobatch.geo.distance import haversine_km
from geobatch.schema import RADII_KM

#: Published per-image results that end with a blank line, a second header and their own summary.
RESULTS = [
    "results__im2gps__ISNs_M-fstar-S3.csv",
    "results__im2gps__base-vgg-c_L-m.csv",
    "results__im2gps__base-vgg_L-m.csv",
    "results__im2gps__base_L-m.csv",
    "results__im2gps__base_M-fstar.csv",
    "results__im2gps__base_M-m.csv",
]


@pytest.mark.parametrize("name", RESULTS)
def test_published_results_give_their_own_summary(realdata: Path, name: str) -> None:
    with (realdata / "benchmarks" / "GeoEstimation" / name).open(newline="") as lines:
        rows = [row for row in csv.reader(lines) if row]
    header, images, summary = rows[0], rows[1:-2], [float(cell) for cell in rows[-1]]
    assert len(images) == 237 and rows[-2][0].startswith("street acc")
    columns = {title: np.array([row[at] for row in images]) for at, title in enumerate(header)}
    numbers = {title: cells.astype(float) for title, cells in columns.items() if title != "img_id"}
    km = haversine_km(*(numbers[axis] for axis in ("gt_lat", "gt_long", "predicted_lat", "predicted_long")))
    found = figures(km)
    assert np.abs(km - numbers["great_circle_distance"]).max() < 0.006 + 1e-9
    assert [share.value for share in found.shares] == pytest.approx(summary[:5], abs=1e-6)
    assert found.mean_km == pytest.approx(summary[5], abs=0.01)
    assert (found.images, found.placed, found.radii) == (237, 237, RADII_KM)


def test_an_image_without_a_place_is_wrong_and_in_no_mean() -> None:
    found = figures([0.5, 1.0, 30.0, np.nan])
    assert [share.value for share in found.shares] == [0.5, 0.5, 0.75, 0.75, 0.75]
    assert (found.images, found.placed, found.median_km, found.mean_km) == (4, 3, 1.0, 10.5)


def test_nothing_has_no_figures() -> None:
    nothing, unplaced = figures([]), figures([np.nan, np.nan])
    assert np.all(np.isnan([nothing.shares[0].value, nothing.shares[0].low, nothing.median_km]))
    assert unplaced.shares[-1].value == 0 and np.isnan(unplaced.mean_km)
    assert np.all(np.isnan(shares([])))
    assert np.isnan(paired_difference([], [], 25).value)


def test_share_interval_is_the_bootstrap_by_resampling() -> None:
    rng = np.random.default_rng(7)
    km = np.where(rng.random(300) < 0.37, 10.0, 100.0)
    resampled = [shares(rng.choice(km, km.size), [25])[0] for _ in range(4000)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    found = figures(km, [25]).shares[0]
    assert found.value == np.mean(km <= 25)
    assert found.low == pytest.approx(low, abs=0.008) and found.high == pytest.approx(high, abs=0.008)


def test_paired_interval_is_the_bootstrap_by_resampling() -> None:
    rng = np.random.default_rng(8)
    ours = np.where(rng.random(300) < 0.5, 10.0, 100.0)
    theirs = np.where(rng.random(300) < 0.8, ours, np.where(rng.random(300) < 0.4, 10.0, 100.0))
    picks = rng.integers(0, 300, (4000, 300))
    resampled = (ours[picks] <= 25).mean(axis=1) - (theirs[picks] <= 25).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    found = paired_difference(ours, theirs, 25)
    assert found.value == pytest.approx(np.mean(ours <= 25) - np.mean(theirs <= 25))
    assert found.low == pytest.approx(low, abs=0.008) and found.high == pytest.approx(high, abs=0.008)
    unpaired = share_interval(float(np.mean(ours <= 25)), 300)
    assert found.high - found.low < unpaired.high - unpaired.low


def test_an_interval_covers_the_true_share_as_often_as_it_says() -> None:
    rng = np.random.default_rng(9)
    covered = []
    for seed in range(600):
        how = Bootstrap(resamples=1000, confidence=0.9, seed=seed)
        one = share_interval(rng.binomial(4000, 0.3) / 4000, 4000, how)
        covered.append(one.low <= 0.3 <= one.high)
    assert 0.87 < np.mean(covered) < 0.93


def test_a_seed_repeats_and_another_does_not() -> None:
    how = [Bootstrap(resamples=50, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (share_interval(0.3, 1000, each) for each in how)
    assert one == same != other


def test_a_paired_difference_needs_pairs() -> None:
    with pytest.raises(ValueError, match="the same images twice"):
        paired_difference([1.0, 2.0], [1.0], 25)


def test_calibration_of_what_is_true_is_small_and_of_boasting_large() -> None:
    rng = np.random.default_rng(3)
    said = rng.random(20_000)
    km = np.where(rng.random(20_000) < said, 10.0, 100.0)
    honest, boast = calibration(said, km, 25), calibration(np.sqrt(said), km, 25)
    assert honest.error < 0.015 and honest.brier == pytest.approx(1 / 6, abs=0.005)
    assert boast.error == pytest.approx(np.mean(np.sqrt(said)) - np.mean(said), abs=0.01)
    assert boast.brier > honest.brier
    assert honest.log_loss < min(boast.log_loss, honest.constant_loss)


def test_calibration_by_hand() -> None:
    # Bins [0.0, 0.1): says 0.05 and is right; [0.9, 1.0]: says 0.9 and 1.0, one of them right.
    found = calibration([0.05, 0.9, 1.0, np.nan, 0.5], [25.0, 1.0, 99.0, 1.0, np.nan], 25)
    assert (found.images, found.km) == (3, 25)
    assert found.error == pytest.approx((0.95 + abs(1.9 - 1)) / 3)
    assert found.brier == pytest.approx((0.95**2 + 0.1**2 + 1) / 3)
    assert (found.stated, found.true) == (pytest.approx(1.95 / 3), pytest.approx(2 / 3))
    assert found.log_loss == pytest.approx(-(np.log(0.05) + np.log(0.9) + np.log(1e-6)) / 3, rel=1e-6)
    assert found.constant_loss == pytest.approx(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3)
    assert [(one.images, one.stated, one.true) for one in found.bins] == [(1, 0.05, 1.0), (2, pytest.approx(0.95), 0.5)]


def test_calibration_refuses_what_is_no_probability_and_takes_rounding() -> None:
    assert calibration([1 + 1e-7], [1.0], 25).images == 1
    assert calibration([np.nan], [1.0], 25).images == 0
    for said in (1.1, -0.1):
        with pytest.raises(ValueError, match="a probability outside"):
            calibration([said], [1.0], 25)
