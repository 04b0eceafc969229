"""Whether a table's own doubts can be believed: the radius that should hold nine in ten, the area that should hold the truth.

A radius holds the truth where the place is no further from it than the radius; an area where the truth lies in that S2 cell.
Rows without one (null) are left out and counted as such: an area is null where not even a face of the cube is sure enough.
Whether probabilities are true is in `metrics.calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark.metrics import Bootstrap, Interval, share_interval
from geobatch.geo import cell, s2

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often something held the truth that says it does."""

    name: str
    images: int
    """Judged images that have one."""
    without: int
    """Placed ones that have none."""
    stated: float
    """Mean probability that it states."""
    held: Interval
    """Share of them that it held."""
    median_km: float
    """Of the radii, or of the cells' mean edges."""


def radius_coverage(
    radius_km: Floats, distance_km: Floats, stated: float = 0.9, bootstrap: Bootstrap | None = None
) -> Coverage | None:
    """Of radii `(N,)`, NaN where there is none, by the places' distances from the truth `(N,)`; None where no row has one."""
    placed = ~np.isnan(distance_km)
    there = placed & ~np.isnan(radius_km)
    if not there.any():
        return None
    return Coverage(
        name="radius_90_km",
        images=int(there.sum()),
        without=int((placed & ~there).sum()),
        stated=stated,
        held=share_interval(float(np.mean(distance_km[there] <= radius_km[there])), int(there.sum()), bootstrap),
        median_km=float(np.median(radius_km[there])),
    )


def area_coverage(
    areas: pa.ChunkedArray | pa.Array,
    probability: Floats,
    latitude: Floats,
    longitude: Floats,
    placed: NDArray[np.bool_],
    bootstrap: Bootstrap | None = None,
) -> Coverage | None:
    """Of S2 tokens `(N,)`, null where there is none, by the true places in degrees `(N,)`; None where no row has one."""
    tokens = areas.to_pylist()
    there = np.array([token is not None for token in tokens], bool)
    if not there.any():
        return None
    cells = s2.parse_cell_tokens([token for token in tokens if token is not None])
    held = cell.holds(cells, latitude[there], longitude[there])
    return Coverage(
        name="area",
        images=int(there.sum()),
        without=int((placed & ~there).sum()),
        stated=float(np.mean(probability[there])),
        held=share_interval(float(held.mean()), int(there.sum()), bootstrap),
        median_km=float(np.median([cell.edge_km(int(level)) for level in s2.levels(cells)])),
    )
