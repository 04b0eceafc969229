"""Recipe: a gazetteer of five towns, and galleries of a few places, small enough to count by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.benchmark.regions import Regions
from geobatch.geo.distance import haversine_km

Floats = NDArray[np.float64]

CODES = {"FR": "France", "DE": "Germany", "BR": "Brazil"}


@dataclass(frozen=True)
class Town:
    city: str
    state: str
    country: str


class Towns:
    """Paris and Versailles in one region, Lyon in another; Berlin; Manaus."""

    towns = (
        Town("Paris", "Île-de-France", "France"),
        Town("Versailles", "Île-de-France", "France"),
        Town("Lyon", "Rhône-Alpes", "France"),
        Town("Berlin", "Berlin", "Germany"),
        Town("Manaus", "Amazonas", "Brazil"),
    )
    latitude = np.array([48.857, 48.804, 45.76, 52.52, -3.1])
    longitude = np.array([2.352, 2.12, 4.84, 13.4, -60.02])
    people = np.array([2_000_000, 85_000, 500_000, 3_500_000, 2_000_000])

    def nearest(self, latitude: Floats, longitude: Floats) -> NDArray[np.int64]:
        away = haversine_km(np.asarray(latitude)[:, None], np.asarray(longitude)[:, None], self.latitude, self.longitude)
        return np.asarray(away.argmin(axis=1), np.int64)

    def __getitem__(self, index: int) -> Town:
        return self.towns[index]


def regions() -> Regions:
    """Of these towns."""
    return Regions(Towns(), CODES)


class Ground:
    """A gallery that knows nothing but places."""

    def __init__(self, *places: tuple[float, float]) -> None:
        self.latitude, self.longitude = np.array(places, np.float64).reshape(-1, 2).T

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int = 1) -> tuple[Floats, NDArray[np.int64]]:
        away = haversine_km(np.asarray(latitude)[:, None], np.asarray(longitude)[:, None], self.latitude, self.longitude)
        rows = away.argsort(axis=1)[:, :k]
        return np.take_along_axis(away, rows, axis=1), rows
