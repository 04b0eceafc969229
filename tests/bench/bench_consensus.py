"""Minimum expected loss against a single pass, the mean on the sphere and the geometric median, on simulated answers.

What is simulated, and how its numbers were chosen, is told in `tests/methods/geolocsft/simulate.py`. A row is a setting, its
rival the best of the ways that are not ours, its ratio our mean of the shares within 1, 25, 200, 750 and 2500 km over the
rival's. `measured` is the whole table: shares, their mean, and ours less that with the paired 95 % interval over the same
images. Where a way is better than ours beyond its interval at a radius, the table says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.metrics import paired_difference, shares
from geobatch.schema import RADII_KM
from tests.methods.geolocsft.simulate import SETTINGS, difference, distance_km, simulate, ways

IMAGES, DRAWS = 6000, 10

#: Not those by which the weights of `Consensus` were chosen, which are 1 to 13.
SEEDS = (101, 102, 103, 104, 105, 106)
OURS, OURS_WITHOUT = "consensus with single pass", "consensus"

Distances = dict[str, NDArray[np.float64]]


def judged(setting: str, images: int = IMAGES, draws: int = DRAWS, seeds: tuple[int, ...] = SEEDS) -> Distances:
    """Distances in km to the truth, by way of choosing, over all seeds."""
    far: dict[str, list[NDArray[np.float64]]] = {}
    for seed in seeds:
        drawn = simulate(images, draws, SETTINGS[setting], seed)
        for way, places in ways(drawn).items():
            far.setdefault(way, []).append(distance_km(places, drawn.truth))
    return {way: np.concatenate(parts) for way, parts in far.items()}


def worse_at(far: Distances, ours: str, rival: str) -> list[int]:
    """The radii, km, at which ours is worse than the rival beyond the paired 95 % interval."""
    return [km for km in RADII_KM if paired_difference(far[ours], far[rival], km).high < 0]


def run() -> list[dict[str, object]]:
    """A row for each setting."""
    return [_row(setting, judged(setting)) for setting in SETTINGS]


def _row(setting: str, far: Distances) -> dict[str, object]:
    means = {way: float(shares(distances).mean()) for way, distances in far.items()}
    rival = max((way for way in far if way not in (OURS, OURS_WITHOUT)), key=lambda way: means[way])
    return {
        "name": f"{OURS} (1 + {DRAWS - 1} answers), setting {setting}",
        "rival": f"{rival}, the best of five others",
        "ratio": means[OURS] / means[rival],
        "measured": f"{len(far[OURS]):,} images; " + "; ".join(_told(far, way, means[way]) for way in far),
    }


def _told(far: Distances, way: str, mean: float) -> str:
    figures = "/".join(f"{100 * share:.1f}" for share in shares(far[way]))
    if way == OURS:
        return f"{way} {figures}, mean {100 * mean:.2f}"
    gap, better = difference(far[OURS], far[way]), worse_at(far, OURS, way)
    beaten = f", better at {'/'.join(map(str, better))} km" if better else ""
    return (
        f"{way} {figures}, mean {100 * mean:.2f} ({100 * gap.value:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]{beaten})"
    )
