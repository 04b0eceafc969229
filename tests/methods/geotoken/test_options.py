"""The numbered list beside a slow reference, and what holds for any pool."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.options import Option, options
from tests.methods.geotoken.judging import BESIDE_PARIS, CAIRO, LYON, PARIS, ROME, candidate, neighbour

#: Few values, so that places repeat and lie near each other; a pole and both sides of the antimeridian among them.
DEGREES = st.sampled_from([-90.0, -0.001, 0.0, 0.001, 0.01, 45.0, 45.005, 90.0])
PLACES = st.tuples(DEGREES, st.one_of(DEGREES, st.sampled_from([-180.0, -179.9995, 179.9995, 180.0])))
CANDIDATES = st.lists(
    st.builds(lambda at, n, score: candidate(*at, n, score), PLACES, st.integers(0, 3), st.sampled_from([-9.0, -2.0]))
)
NEIGHBOURS = st.lists(
    st.builds(lambda at, cosine: neighbour(*at, cosine), PLACES, st.sampled_from([0.1, 0.5, 0.9])), max_size=5
)
KM = st.sampled_from([0.0, 0.5, 1.0, 20.0])


def slowly(place: tuple[float, float], candidates: list[Any], neighbours: list[Any], km: float, most: int) -> list[Option]:
    """One after the other, each to the first listed place that is near."""
    order = sorted(candidates, key=lambda each: (-each["count"], -each["score"], each["latitude"], each["longitude"]))[:most]
    found = [[*place, 0, None]]
    for each in [*order, *neighbours]:
        at = (each["latitude"], each["longitude"])
        home = next((one for one in found if float(haversine_km(one[0], one[1], *at)) <= km), None)
        if home is None:
            found.append(home := [*at, 0, None])
        home[2] += each.get("count", 0)
        if "similarity" in each and each["similarity"] is not None:
            home[3] = each["similarity"] if home[3] is None else max(home[3], each["similarity"])
    return [Option(*one) for one in found]


@settings(max_examples=200, deadline=None)
@given(PLACES, CANDIDATES, NEIGHBOURS, KM, st.integers(1, 8), st.randoms(use_true_random=False))
def test_any_pool(place: Any, candidates: Any, neighbours: Any, km: float, most: int, random: Any) -> None:
    listed = options(place, candidates, neighbours, km, most)
    assert listed == slowly(place, candidates, neighbours, km, most)
    assert (listed[0].latitude, listed[0].longitude) == place
    shuffled = random.sample(candidates, len(candidates))
    assert options(place, shuffled, neighbours, km, most) == listed, "the numbers depend on the order of the candidates"
    latitude, longitude = (np.array([getattr(each, name) for each in listed]) for name in ("latitude", "longitude"))
    far = haversine_km(latitude[:, None], longitude[:, None], latitude, longitude) + np.diag([math.inf] * len(listed))
    assert (far > km).all(), "two numbers name one place"
    assert sum(each.draws for each in listed) == sum(sorted((each["count"] for each in candidates), reverse=True)[:most])


def test_the_order_and_what_is_merged() -> None:
    candidates = [
        candidate(*LYON, 3, -9.0),
        candidate(*ROME, 9, -5.0),
        candidate(*BESIDE_PARIS, 2, -1.0),
        candidate(*CAIRO, 3, -1.0),
    ]
    near = [neighbour(*PARIS, 0.7), neighbour(10.0, 20.0, 0.6), neighbour(*PARIS, 0.8), neighbour(*ROME, 0.5)]
    listed = options(PARIS, candidates, near, merge_km=1.0)
    assert listed == [
        Option(*PARIS, 2, 0.8),
        Option(*ROME, 9, 0.5),
        Option(*CAIRO, 3),
        Option(*LYON, 3),
        Option(10.0, 20.0, 0, 0.6),
    ]
    assert options(PARIS, candidates, near, merge_km=0.0)[-2:] == [Option(*BESIDE_PARIS, 2), Option(10.0, 20.0, 0, 0.6)]
    assert [each.draws for each in options(PARIS, candidates, [], 1.0, most=1)] == [0, 9]


def test_what_has_no_coordinates_has_no_number() -> None:
    lost = {**candidate(*ROME, 5), "latitude": None}
    nameless = {**neighbour(*ROME, 0.5), "longitude": float("nan")}
    unscored = {**candidate(*LYON, 5), "score": None, "count": None}
    assert options(PARIS, [lost, unscored], [nameless], 1.0) == [Option(*PARIS), Option(*LYON)]
