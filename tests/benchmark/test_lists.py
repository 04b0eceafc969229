"""One pass over lists against a plain loop over every image, and that batches change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark.choices import BETWEEN, NEIGHBOUR, ORACLE, POOL, SCORE
from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.lists import MASKED_KM, Reading
from geobatch.benchmark.places import Places, bare
from geobatch.benchmark.truth import Truth, truth_of
from geobatch.geo.distance import haversine_km
from geobatch.schema import RADII_KM
from tests.benchmark.places import row, table
from tests.benchmark.test_evaluate import QUICK
from tests.benchmark.towns import regions

IMAGES = 200


def somewhere(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    """An entry of a list around the towns of the recipe."""
    return {"latitude": float(rng.uniform(44, 54)), "longitude": float(rng.uniform(1, 15)), **more}


@pytest.fixture(scope="module")
def made() -> tuple[pa.Table, Truth]:
    rng = np.random.default_rng(3)
    rows = []
    for at in range(IMAGES):
        draws = [
            somewhere(
                rng, score=float(rng.normal()), count=int(rng.integers(1, 4)), origin="sample" if rng.random() < 0.8 else "x"
            )
            for _ in range(rng.integers(0, 6))
        ]
        near = [
            somewhere(rng, image_id=f"g{n}" if rng.random() < 0.8 else None, similarity=float(rng.random()))
            for n in range(rng.integers(0, 7))
        ]
        rows.append(row(str(at), 1.0 if rng.random() < 0.9 else None, candidates=draws or None, neighbours=near or None))
    latitude, longitude = rng.uniform(44, 54, IMAGES), rng.uniform(1, 15, IMAGES)
    return table(*rows), truth_of([str(at) for at in range(IMAGES)], latitude, longitude, "t")


def reading(places: pa.Table, truth: Truth) -> Reading:
    towns = regions()
    found = Reading(
        truth.latitude,
        truth.longitude,
        pool_neighbours=3,
        choosers={"first": lambda some: some},
        regions=towns,
        where=towns.of(truth.latitude, truth.longitude),
    )
    for at in range(0, IMAGES, 64):
        found.take(places.slice(at, 64), np.arange(at, min(at + 64, IMAGES)))
    return found


def test_a_pass_equals_a_loop(made: tuple[pa.Table, Truth]) -> None:
    places, truth = made
    towns = regions()
    found = reading(places, truth).found
    draws = dict.fromkeys(RADII_KM, 0)
    for at, one in enumerate(places.to_pylist()):
        here = (truth.latitude[at], truth.longitude[at])
        lists = {
            name: [(each, float(haversine_km(each["latitude"], each["longitude"], *here))) for each in one[name] or []]
            for name in ("candidates", "neighbours")
        }
        sampled = [pair for pair in lists["candidates"] if pair[0]["origin"] == "sample"]
        images = [pair for pair in lists["neighbours"] if pair[0]["image_id"] is not None]
        between = [pair for pair in lists["neighbours"] if pair[0]["image_id"] is None]
        likeliest = max(sampled, key=lambda pair: pair[0]["score"], default=None)
        expected = {
            NEIGHBOUR: images[0][1] if images else np.nan,
            BETWEEN: between[0][1] if between else np.nan,
            SCORE: likeliest[1] if likeliest else np.nan,
            ORACLE: min((km for _, km in sampled), default=np.nan),
            POOL: min((km for _, km in [*lists["candidates"], *lists["neighbours"][:3]]), default=np.nan),
            "first": np.nan if one["status"] == "rejected" else float(haversine_km(one["latitude"], one["longitude"], *here)),
        }
        assert {name: km[at] for name, km in found.distances.items()} == pytest.approx(expected, nan_ok=True)
        assert found.similarity[at] == pytest.approx(images[0][0]["similarity"] if images else np.nan, nan_ok=True, abs=1e-6)
        assert found.score_latitude[at] == pytest.approx(likeliest[0]["latitude"] if likeliest else np.nan, nan_ok=True)
        true = towns.of(*(np.array([axis]) for axis in here))
        for name, km in found.masked.items():
            left = [far for each, far in images if _left(name, each, far, true)]
            assert km[at] == pytest.approx(left[0] if left else np.nan, nan_ok=True), name
        for radius in RADII_KM:
            draws[radius] += sum(each["count"] for each, km in sampled if km <= radius)
    assert set(found.masked) == {*(f"images within {km} km" for km in MASKED_KM), "its country", "its continent"}
    for at, radius in enumerate(RADII_KM):
        assert sum(int(held[at] @ np.arange(held.shape[1])) for held in found.draws.values()) == draws[radius]
    assert sum(int(held[0].sum()) for held in found.draws.values()) == int(np.sum(~np.isnan(found.distances[SCORE])))


def _left(mask: str, entry: dict[str, Any], km: float, true: Any) -> bool:
    if mask.startswith("images within"):
        return km > float(mask.split()[2])
    lies = regions().of(np.array([entry["latitude"]]), np.array([entry["longitude"]]))
    return bool(getattr(lies, mask.split()[1])[0] != getattr(true, mask.split()[1])[0])


def test_parts_of_any_length_change_nothing(made: tuple[pa.Table, Truth]) -> None:
    places, truth = made
    whole = Places.of(places)

    def pieces() -> Iterator[pa.Table]:
        lists = next(whole.lists())
        for low, high in ((0, 1), (1, 70), (70, 70), (70, IMAGES)):
            yield lists.slice(low, high - low)

    beside = Beside(regions=regions())
    one = evaluate(whole, truth, beside=beside, bootstrap=QUICK)
    other = evaluate(Places(held=whole.held, lists=pieces), truth, beside=beside, bootstrap=QUICK)
    assert one.as_dict() == other.as_dict()
    some = truth_of([str(at) for at in range(0, IMAGES, 3)], truth.latitude[::3], truth.longitude[::3], "t")
    third = evaluate(Places(held=whole.held, lists=pieces), some, beside=beside, bootstrap=QUICK)
    for name, km in third.distances.items():
        assert np.array_equal(km, one.distances[name][::3], equal_nan=True)


def test_a_bare_table_has_all_that_is_asked_for() -> None:
    found = Places.of(bare(pa.array(["a", "b"]), np.array([1.0, np.nan]), np.array([2.0, 3.0])))
    assert found.held["reason"].to_pylist() == [None, "no_place"] and found.ids("x") == ["a", "b"]
    assert [len(part) for _, part in found.batches()] == [2]
