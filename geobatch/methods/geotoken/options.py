"""What the judge may choose from: the pool as one numbered list of distinct places, the same list for the same row.

First the place that the selector chose, so that number 1 means "leave it"; then the candidates, most often drawn first, then
by log-probability, then from south to north; then the nearest neighbours as they were retrieved. Whatever lies within
`merge_km` of a place that is listed already adds its evidence to that one and gets no number: thirty draws of a sure model are
one place.

What a judge can gain is bounded by the list. On 2,000 crops of the embedded world it names 32 places on average, the best of
which lies within 25 km for 95.2 % of the images (the selector's own: 84.0 %). Merged at 5 km it is 21 places and still 95.2 %,
at 25 km 6 places and 90.2 %; with 10 candidates instead of 30 it is 90.8 %, without neighbours 95.0 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geobatch.geo import point
from geobatch.geo.distance import haversine_km


@dataclass(frozen=True)
class Option:
    """A place with a number.

    Fields:
        latitude, longitude: degrees.
        draws: of the model, here and within the merging distance.
        similarity: the largest cosine of a neighbour that was merged into it; None: no neighbour was.
    """

    latitude: float
    longitude: float
    draws: int = 0
    similarity: float | None = None


def options(
    place: tuple[float, float],
    candidates: Sequence[Mapping[str, Any]],
    neighbours: Sequence[Mapping[str, Any]],
    merge_km: float,
    most: int = 30,
) -> list[Option]:
    """The numbered list of one image; the first is `place`.

    Args:
        place: latitude and longitude in degrees.
        candidates: structs of `geobatch.schema.CANDIDATES`.
        neighbours: structs of `geobatch.schema.NEIGHBOURS`, nearest first.
        merge_km: places this near to each other are one; 0 merges only what is equal.
        most: candidates that are listed at most, before any are merged.
    """
    listed = [
        Option(*place),
        *(Option(each["latitude"], each["longitude"], each["count"] or 0) for each in sorted(candidates, key=_rank)[:most]),
        *(Option(each["latitude"], each["longitude"], 0, each["similarity"]) for each in neighbours),
    ]
    latitude, longitude = (np.array([getattr(each, name) for each in listed], np.float64) for name in ("latitude", "longitude"))
    there = point.valid(latitude, longitude)
    near = haversine_km(latitude[:, None], longitude[:, None], latitude, longitude) <= merge_km
    kept: dict[int, list[Option]] = {}
    for row in np.flatnonzero(there).tolist():
        home = next((first for first in kept if near[first, row]), row)
        kept.setdefault(home, []).append(listed[row])
    return [_merged(group) for group in kept.values()]


def _rank(candidate: Mapping[str, Any]) -> tuple[float, ...]:
    score, latitude, longitude = (candidate[name] for name in ("score", "latitude", "longitude"))
    worth = -math.inf if score is None or math.isnan(score) else score
    where = (math.inf, math.inf) if latitude is None or longitude is None else (latitude, longitude)
    return (-(candidate["count"] or 0), -worth, *where)


def _merged(group: list[Option]) -> Option:
    cosines = [each.similarity for each in group if each.similarity is not None]
    return Option(group[0].latitude, group[0].longitude, sum(each.draws for each in group), max(cosines, default=None))
