"""Where a gallery's rows lie: the nearest to a place, all within a circle, all in a box.

Places are kept as unit vectors in a k-d tree, so that nothing is special at the poles and the antimeridian; what the tree
finds by chords is measured again as great circles. Rows without a place (NaN) are in no answer.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.engine.gallery.stored import Rows
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.geo.point import unit_vectors

Floats = NDArray[np.float64]

_SPARE = 4  # more rows than asked for that `near` ranks by haversine: equal distances in space may differ in the last digit
_MANY = 10_000  # rows in a circle above which all places are multiplied, 2 ms a million: the tree's lists take 40 bytes a row
_AT_ONCE = 256  # circles that the tree is asked for together
_SLACK = 1e-7  # of a chord, 0.6 m: a circle's edge is decided by haversine


class Ground:
    """Places of rows.

    Args:
        latitude, longitude: (n,) degrees, NaN where a row has no place.
    """

    def __init__(self, latitude: Floats, longitude: Floats) -> None:
        self.latitude, self.longitude = latitude, longitude

    @cached_property
    def rows(self) -> Rows:
        """Those that have a place, rising."""
        return np.flatnonzero(np.isfinite(self.latitude) & np.isfinite(self.longitude)).astype(np.int64)

    @cached_property
    def _space(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(unit_vectors(self.latitude[self.rows], self.longitude[self.rows]))

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int) -> tuple[Floats, Rows]:
        """As `Gallery.near`."""
        lat, lon = np.atleast_1d(np.asarray(latitude, np.float64)), np.atleast_1d(np.asarray(longitude, np.float64))
        width = min(k, len(self.rows))
        if not width:
            return np.zeros((len(lat), 0)), np.zeros((len(lat), 0), np.int64)
        wide = list(range(1, min(k + _SPARE, len(self.rows)) + 1))
        rows = self.rows[self._space.query(unit_vectors(lat, lon), k=wide)[1]]
        km = haversine_km(lat[:, None], lon[:, None], self.latitude[rows], self.longitude[rows])
        order = np.lexsort((rows, km), axis=1)[:, :width]
        return np.take_along_axis(km, order, 1), np.take_along_axis(rows, order, 1)

    def within(self, latitude: ArrayLike, longitude: ArrayLike, radius_km: ArrayLike) -> list[Rows]:
        """As `Gallery.within`."""
        lat, lon = np.atleast_1d(np.asarray(latitude, np.float64)), np.atleast_1d(np.asarray(longitude, np.float64))
        lat, lon, km = np.broadcast_arrays(lat, lon, np.asarray(radius_km, np.float64))
        found = [np.zeros(0, np.int64)] * len(lat)
        asked = np.flatnonzero(np.isfinite(lat) & np.isfinite(lon) & (km >= 0))
        if not len(asked) or not len(self.rows):
            return found
        points = unit_vectors(lat[asked], lon[asked])
        chords = 2 * np.sin(np.minimum(km[asked] / EARTH_RADIUS_KM, np.pi) / 2) + _SLACK
        counts = self._space.query_ball_point(points, chords, return_length=True)
        for at, query in enumerate(asked):
            if counts[at] > _MANY:
                close = np.flatnonzero(self._space.data @ points[at] >= 1 - chords[at] ** 2 / 2 - 1e-12)
                found[query] = self._circle(self.rows[close], lat[query], lon[query], km[query])
        few = np.flatnonzero((counts > 0) & (counts <= _MANY))
        for start in range(0, len(few), _AT_ONCE):
            some = few[start : start + _AT_ONCE]
            lists = self._space.query_ball_point(points[some], chords[some], return_sorted=True)
            for at, each in zip(some, lists, strict=True):
                query = asked[at]
                found[query] = self._circle(self.rows[np.array(each, np.int64)], lat[query], lon[query], km[query])
        return found

    def _circle(self, rows: Rows, latitude: float, longitude: float, km: float) -> Rows:
        return rows[haversine_km(latitude, longitude, self.latitude[rows], self.longitude[rows]) <= km]

    def inside(self, south: float, west: float, north: float, east: float) -> Rows:
        """As `Gallery.inside`."""
        if not -90 <= south <= north <= 90 or not (abs(west) <= 360 and abs(east) <= 360):
            raise ValueError(f"{south}, {west}, {north}, {east} is no box of south, west, north, east in degrees")
        width = 360.0 if east - west >= 360 else (east - west) % 360
        lat, lon = self.latitude[self.rows], self.longitude[self.rows]
        within = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= width)
        return self.rows[within]
