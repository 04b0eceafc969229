"""Intervals against real resampling of every image, and that they cover as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geobatch.benchmark.intervals import Bootstrap, Difference, mean_interval, median_interval, share_difference

Floats = NDArray[np.float64]


def resampled(values: Floats, figure: Callable[[Floats], float], count: int = 2000) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    drawn = [figure(rng.choice(values, values.size)) for _ in range(count)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("images", [21, 700])
def test_a_mean_is_resampled_as_it_is_image_by_image(images: int) -> None:
    km = np.random.default_rng(images).exponential(500, images) ** 1.2
    found, (low, high) = mean_interval(km), resampled(km, lambda some: float(some.mean()))
    assert found.value == pytest.approx(km.mean())
    width = high - low
    assert found.low == pytest.approx(low, abs=0.08 * width) and found.high == pytest.approx(high, abs=0.08 * width)


@pytest.mark.parametrize("misses", [10, 900])
@pytest.mark.parametrize("images", [3000, 100_000])
@pytest.mark.parametrize("back", [0, 3])
def test_a_mean_of_rare_and_large_errors_is_no_surer_than_they_are(images: int, misses: int, back: int) -> None:
    kinds = np.array([10_000.0, -5000.0, 0.0])
    counts = np.array([misses, back, images - misses - back])
    found = mean_interval(np.repeat(kinds, counts))
    # A resample of so few kinds of values is a draw of how many of each there are.
    drawn = np.random.default_rng(1).multinomial(images, counts / images, 20_000) @ kinds / images
    low, high = np.quantile(drawn, [0.025, 0.975])
    one = 10_000 / images  # a miss more or less
    assert found.value == pytest.approx(kinds @ counts / images)
    assert abs(found.low - low) <= max(one, 0.04 * (high - low)) and abs(found.high - high) <= max(one, 0.04 * (high - low))


def test_three_misses_of_three_thousand() -> None:
    found = mean_interval(np.append(np.zeros(2997), np.full(3, 10_000.0)))
    assert (found.value, found.low) == (10, 0) and found.high == pytest.approx(23.3, abs=3.4)
    both = mean_interval(np.concatenate([np.zeros(2988), np.full(9, 5000.0), np.full(3, -5000.0)]))
    assert both.value == 10 and both.low < 0 < both.high


@pytest.mark.parametrize("images", [20, 301])
def test_a_median_is_resampled_as_it_is_image_by_image(images: int) -> None:
    km = np.random.default_rng(images).exponential(500, images)
    found, (low, high) = median_interval(km), resampled(km, lambda some: float(np.median(some)))
    assert found.value == np.median(km)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.12 * width) and found.high == pytest.approx(high, abs=0.12 * width)


def test_a_mean_of_many_lies_within_its_values() -> None:
    for values in (np.full(5000, 0.1), np.append(np.zeros(4000), 1e-9), np.append(np.full(4000, 7.0), [0.0, 1.0])):
        found = mean_interval(values)
        assert values.min() <= found.low <= found.high <= values.max()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 20_015) | st.just(float("nan")), max_size=40))
def test_ends_enclose_and_lie_within_the_values(values: list[float]) -> None:
    known = [one for one in values if not np.isnan(one)]
    for interval in (mean_interval, median_interval):
        found = interval(values, Bootstrap(resamples=60))
        if not known:
            assert np.isnan([found.value, found.low, found.high]).all()
            continue
        assert min(known) <= found.low <= found.high <= max(known)


def test_intervals_cover_the_true_figures_as_often_as_they_say() -> None:
    rng = np.random.default_rng(9)
    hits = {mean_interval: 0, median_interval: 0}
    true = {mean_interval: 500.0, median_interval: 500 * np.log(2)}
    for seed in range(200):
        km = rng.exponential(500, 120)
        for interval, figure in true.items():
            found = interval(km, Bootstrap(resamples=200, confidence=0.9, seed=seed))
            hits[interval] += found.low <= figure <= found.high
    assert all(0.83 < each / 200 < 0.96 for each in hits.values()), hits


def test_a_difference_of_what_is_true() -> None:
    ours, theirs = np.array([True, True, False, False]), np.array([True, False, False, True])
    found = share_difference(ours, theirs)
    assert (found.value, found.low, found.high) == (0, -0.5, 0.5) or found.low < 0 < found.high
    assert share_difference(ours, ours) == Difference(value=0, low=0, high=0, p=1)
    with pytest.raises(ValueError, match="the same images twice"):
        share_difference(ours, theirs[:2])


@pytest.mark.parametrize(
    ("only_ours", "only_theirs", "p", "sure"), [(4, 0, 0.125, 0), (6, 0, 0.03125, 1), (1, 9, 22 / 1024, -1)]
)
def test_a_few_images_are_no_sure_difference(only_ours: int, only_theirs: int, p: float, sure: int) -> None:
    ours, theirs = np.zeros((2, 3000), bool)
    ours[:only_ours], theirs[3000 - only_theirs :] = True, True
    found = share_difference(ours, theirs)
    assert found.p == pytest.approx(p) and found.sure == sure and (found.low > 0 or found.high < 0)
