"""Points on the sphere: degrees and unit vectors, the grid that hides an exact place, and WKB.

Degrees are WGS 84 latitude and longitude read as angles on a sphere; the flattening of the Earth (up to 0.2°
between geodetic and geocentric latitude) is left out everywhere, as the field's metric leaves it out.

`coarsen` cuts the sphere into bands of equal height and each band into cells of equal width, counted at the
band's widest parallel, so that no cell is higher or wider than asked for. Rounding the degrees themselves
would not do: at 70° N a grid of 0.1° is 11 km high and 4 km wide, and beside the pole its cells vanish. The
centre of a cell depends on two integers only, so that coarsening twice changes no bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.distance import EARTH_RADIUS_KM

Floats = NDArray[np.float64]

_WKB = np.dtype([("little_endian", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])


def unit_vectors(latitude: ArrayLike, longitude: ArrayLike) -> Floats:
    """Unit vectors `(..., 3)` of points in degrees; x points at (0, 0), y at (0, 90), z at the North Pole."""
    phi, lam = np.radians(np.asarray(latitude, np.float64)), np.radians(np.asarray(longitude, np.float64))
    phi, lam = np.broadcast_arrays(phi, lam)
    out = np.empty((*phi.shape, 3))
    cos_phi = np.cos(phi)
    out[..., 0] = cos_phi * np.cos(lam)
    out[..., 1] = cos_phi * np.sin(lam)
    out[..., 2] = np.sin(phi)
    return out


def lat_lon(xyz: ArrayLike) -> tuple[Floats, Floats]:
    """Latitudes and longitudes in degrees of vectors `(..., 3)` of any length; the zero vector gives NaN."""
    vectors = np.asarray(xyz, np.float64)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    flat = np.hypot(x, y)
    nowhere = (flat == 0) & (z == 0)
    latitude = np.where(nowhere, np.nan, np.degrees(np.arctan2(z, flat)))
    longitude = np.where(nowhere, np.nan, np.degrees(np.arctan2(y, x)))
    return latitude, longitude


def valid(latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.bool_]:
    """Where latitude is in [-90, 90] and longitude in [-180, 180]; NaN, None and infinities are not."""
    phi, lam = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    return (np.abs(phi) <= 90) & (np.abs(lam) <= 180)


def coarsen(latitude: ArrayLike, longitude: ArrayLike, km: float) -> tuple[Floats, Floats]:
    """Centres of the grid cells, each at most `km` high and wide, that hold the points.

    A point moves by less than `km` (by at most 0.71 × `km`, half a diagonal, where cells are small against
    the Earth). The same point always gets the same centre, and a centre is its own. NaN stays NaN.

    Raises:
        ValueError: `km` is not a positive number.
    """
    if not (np.isfinite(km) and km > 0):
        raise ValueError(f"coarsen needs a positive number of kilometres, not {km}")
    phi, lam = np.broadcast_arrays(np.asarray(latitude, np.float64), np.asarray(longitude, np.float64))
    km_per_degree = np.pi * EARTH_RADIUS_KM / 180
    bands = np.ceil(180 * km_per_degree / km)
    height = 180 / bands
    band = np.clip(np.floor((phi + 90) / height), 0, bands - 1)
    south, north = band * height - 90, (band + 1) * height - 90
    widest = np.where(south * north <= 0, 0.0, np.minimum(np.abs(south), np.abs(north)))
    cells = np.maximum(np.ceil(360 * km_per_degree * np.cos(np.radians(widest)) / km), 1)
    cell = np.mod(np.floor((lam + 180) * cells / 360), cells)
    return (south + north) / 2, (cell + 0.5) * 360 / cells - 180


def wkb_points(latitude: ArrayLike, longitude: ArrayLike) -> list[bytes | None]:
    """WKB points (little-endian, x = longitude) of two columns `(N,)`; None where either is NaN or None."""
    phi, lam = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    points = np.empty(phi.shape, _WKB)
    points["little_endian"], points["type"] = 1, 1
    points["x"], points["y"] = lam, phi
    blob, width = points.tobytes(), _WKB.itemsize
    known = ~(np.isnan(phi) | np.isnan(lam))
    return [blob[row * width : (row + 1) * width] if there else None for row, there in enumerate(known.tolist())]
