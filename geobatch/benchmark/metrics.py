"""The field's figures: the share of images placed within 1, 25, 200, 750 and 2500 km, GeoScore,
the median and the mean, each with its interval.

A distance is a great circle on a sphere of 6371 km (`geobatch.geo.distance`), a radius includes its rim, and
an image that could not be placed (NaN) counts as wrong. Median and mean are over the placed images alone, as
published result files have them, so read them beside the count.

GeoScore is the game's: 5000·e^(−d/1492.7) points an image, as OSV-5M publishes it (Astruc et al. 2024);
a failed image scores 0 and counts. Intervals are `intervals`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.benchmark.intervals import (
    UNKNOWN,
    Bootstrap,
    Interval,
    mean_interval,
    median_interval,
    paired_difference,
    share_interval,
)
from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

__all__ = [
    "Bin",
    "Bootstrap",
    "Calibration",
    "Figures",
    "Interval",
    "calibration",
    "figures",
    "geoscore",
    "paired_difference",
    "share_interval",
    "shares",
]

Floats = NDArray[np.float64]

#: Kilometres over which a score of 5,000 falls to its e-th part.
SCORE_KM = 1492.7


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one way of choosing places got, over the same images as its rivals."""

    images: int
    placed: int
    shares: tuple[Interval, ...]
    radii: tuple[float, ...]
    median_km: float
    mean_km: float
    median: Interval = UNKNOWN
    """Of the placed images' distances, km."""
    mean: Interval = UNKNOWN
    """Of the placed images' distances, km."""
    geoscore: Interval = UNKNOWN
    """Mean points of all images, 0 to 5,000."""


def shares(distance_km: ArrayLike, radii: Sequence[float] = RADII_KM) -> Floats:
    """Shares `(R,)` of distances `(N,)` within the radii, NaN counting as beyond; NaN shares where N is 0."""
    distances = np.asarray(distance_km, np.float64)
    if not distances.size:
        return np.full(len(radii), np.nan)
    return within(distances[:, None], np.asarray(radii, np.float64)).mean(axis=0)


def figures(distance_km: ArrayLike, radii: Sequence[float] = RADII_KM, bootstrap: Bootstrap | None = None) -> Figures:
    """All figures of distances `(N,)` in km, NaN where an image was not placed."""
    distances = np.asarray(distance_km, np.float64)
    placed = distances[~np.isnan(distances)]
    found = shares(distances, radii)
    median, mean = median_interval(placed, bootstrap), mean_interval(placed, bootstrap)
    return Figures(
        images=distances.size,
        placed=placed.size,
        shares=tuple(share_interval(float(share), distances.size, bootstrap) for share in found),
        radii=tuple(radii),
        median_km=median.value,
        mean_km=mean.value,
        median=median,
        mean=mean,
        geoscore=mean_interval(geoscore(distances), bootstrap),
    )


def geoscore(distance_km: ArrayLike) -> Floats:
    """Points `(N,)` from 0 to 5,000 of distances `(N,)` in km; NaN, a failed image, has none: 0."""
    return np.nan_to_num(5000 * np.exp(-np.asarray(distance_km, np.float64) / SCORE_KM), nan=0.0)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images whose stated probabilities are close to each other: a point of the reliability diagram."""

    images: int
    stated: float
    """Mean of what was stated."""
    true: float
    """Share that is within the radius."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far stated probabilities of being within a radius can be believed."""

    km: float
    images: int
    stated: float
    """Mean stated probability."""
    true: float
    """Share that is within the radius."""
    error: float
    """Expected calibration error: mean |stated - true| over bins, weighted by their images."""
    brier: float
    """Mean squared difference of probability and outcome; 0.25 is what always saying one half gets."""
    log_loss: float
    """Mean negative logarithm of the probability of what came true, in nats; probabilities are kept a millionth off 0 and 1."""
    constant_loss: float
    """The same of the best constant, which knows the share within the radius and nothing of any image."""
    gain: Interval
    """By how much the constant's loss is larger, in nats, paired; without ends where no interval was asked for."""
    bins: tuple[Bin, ...]
    """Those that hold images, by rising probability."""


def calibration(
    probability: ArrayLike, distance_km: ArrayLike, km: float, bins: int = 10, bootstrap: Bootstrap | None = None
) -> Calibration:
    """Calibration of probabilities `(N,)` that the truth is within `km`, given distances `(N,)`.

    Expected calibration error over `bins` bins of equal width (Guo et al. 2017, equation 3), and the Brier
    score. Rows whose probability or distance is NaN are left out. With `bootstrap` the gain over the constant has an interval.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    said, distances = np.asarray(probability, np.float64), np.asarray(distance_km, np.float64)
    known = ~(np.isnan(said) | np.isnan(distances))
    said, hit = said[known], within(distances[known], km).astype(np.float64)
    # Sums of float32 weights pass 1 by their rounding.
    if np.any((said < -1e-6) | (said > 1 + 1e-6)):
        raise ValueError(f"a probability outside [0, 1] for {km} km: from {said.min()} to {said.max()}")
    if not said.size:
        nan = float("nan")
        return Calibration(
            km=km, images=0, stated=nan, true=nan, error=nan, brier=nan, log_loss=nan, constant_loss=nan, gain=UNKNOWN, bins=()
        )
    bin_of = np.clip((said * bins).astype(int), 0, bins - 1)
    gaps, counts = np.bincount(bin_of, said - hit, bins), np.bincount(bin_of, minlength=bins)
    stated, true = (np.bincount(bin_of, values, bins) for values in (said, hit))
    losses, constant = _losses(said, hit), _losses(np.full_like(hit, hit.mean()), hit)
    gain = Interval(value=float(np.mean(constant - losses)), low=np.nan, high=np.nan)
    return Calibration(
        km=km,
        images=said.size,
        stated=float(said.mean()),
        true=float(hit.mean()),
        error=float(np.abs(gaps).sum() / said.size),
        brier=float(np.mean((said - hit) ** 2)),
        log_loss=float(losses.mean()),
        constant_loss=float(constant.mean()),
        gain=gain if bootstrap is None else mean_interval(constant - losses, bootstrap),
        bins=tuple(
            Bin(images=int(counts[at]), stated=float(stated[at] / counts[at]), true=float(true[at] / counts[at]))
            for at in np.flatnonzero(counts)
        ),
    )


def _losses(said: Floats, hit: Floats) -> Floats:
    """Negative logarithms `(N,)` of the probabilities of what came true."""
    kept = np.clip(said, 1e-6, 1 - 1e-6)
    return np.asarray(-np.where(hit > 0, np.log(kept), np.log1p(-kept)))
