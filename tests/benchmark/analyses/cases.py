"""Recipe: cases of a few images in and around the five towns of `tests.benchmark.towns`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geobatch.benchmark.analyses import Case
from geobatch.benchmark.choices import CHOSEN
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.lists import Lists
from geobatch.geo.distance import haversine_km
from tests.benchmark.towns import regions

KM_PER_DEGREE = 111.19492664455873
QUICK = Bootstrap(resamples=50)


def case(true: ArrayLike, placed: ArrayLike, **more: Any) -> Case:
    """Of true and chosen places `(N, 2)` in degrees, NaN for failed images; with the gazetteer."""
    (north, east), (latitude, longitude) = (np.asarray(each, np.float64).reshape(-1, 2).T for each in (true, placed))
    known = regions()
    fields: dict[str, Any] = {
        "latitude": latitude,
        "longitude": longitude,
        "true_latitude": north,
        "true_longitude": east,
        "distances": {CHOSEN: haversine_km(latitude, longitude, north, east)},
        "lists": Lists(images=len(north)),
        "bootstrap": QUICK,
        "regions": known,
        "where": known.of(north, east),
        "guessed": known.of(latitude, longitude),
    }
    return Case(**{**fields, **more})


def shifted(true: ArrayLike, km: ArrayLike) -> np.ndarray:
    """Places so many kilometres north of the true ones."""
    return np.asarray(true, np.float64) + np.stack([np.asarray(km) / KM_PER_DEGREE, np.zeros(len(np.asarray(km)))], axis=1)
