"""Great-circle distance as the field measures it: haversine on a sphere of 6371 km, `<=` at the radii.

The usual form takes arcsin(√a), whose error grows to about 0.1 m beside the antipode, because 1 - a is lost
to rounding. Here 1 - a is computed from its own sum of squares and both meet in arctan2: 1e-9 km or better at
any distance. The ellipsoid is left out on purpose (up to 0.56 % of a distance): published figures leave it
out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS_KM = 6371.0


def haversine_km(lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike) -> NDArray[np.float64]:
    """Great-circle distances in km between points in degrees; shapes broadcast, NaN gives NaN."""
    phi1, phi2 = np.radians(np.asarray(lat1, np.float64)), np.radians(np.asarray(lat2, np.float64))
    half = np.radians(np.asarray(lon2, np.float64) - np.asarray(lon1, np.float64)) / 2
    parallel = np.cos(phi1) * np.cos(phi2)
    near = np.sin((phi2 - phi1) / 2) ** 2 + parallel * np.sin(half) ** 2
    far = np.sin((phi1 + phi2) / 2) ** 2 + parallel * np.cos(half) ** 2
    # cos(90°) rounds to 6e-17 and stays positive; a latitude a hair beyond 90° would turn `parallel`
    # negative.
    return 2 * EARTH_RADIUS_KM * np.arctan2(np.sqrt(np.maximum(near, 0)), np.sqrt(np.maximum(far, 0)))


def within(distance_km: ArrayLike, km: ArrayLike) -> NDArray[np.bool_]:
    """Whether distances lie within a radius, the radius itself included; NaN (no place) does not."""
    return np.asarray(np.asarray(distance_km, np.float64) <= np.asarray(km, np.float64))
