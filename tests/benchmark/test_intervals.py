"""Intervals against real resampling of every image, and that they cover as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geobatch.benchmark.intervals import Bootstrap, Interval, mean_interval, median_interval, share_difference

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


@pytest.mark.parametrize("images", [20, 301])
def test_a_median_is_resampled_as_it_is_image_by_image(images: int) -> None:
    km = np.random.default_rng(images).exponential(500, images)
    found, (low, high) = median_interval(km), resampled(km, lambda some: float(np.median(some)))
    assert found.value == np.median(km)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.12 * width) and found.high == pytest.approx(high, abs=0.12 * width)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 20_015) | st.just(float("nan")), max_size=40))
def test_ends_enclose_and_lie_within_the_values(values: list[float]) -> None:
    known = [one for one in values if not np.isnan(one)]
    for interval in (mean_interval, median_interval):
        found = interval(values, Bootstrap(resamples=60))
        if not known:
            assert np.isnan([found.value, found.low, found.high]).all()
            continue
        rounding = 1e-9 * (1 + max(known))
        assert min(known) - rounding <= found.low <= found.high <= max(known) + rounding


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
    assert share_difference(ours, ours) == Interval(value=0, low=0, high=0)
    with pytest.raises(ValueError, match="the same images twice"):
        share_difference(ours, theirs[:2])
