"""Choosing a place, against loops that read like the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geobatch.geo import centre
from geobatch.geo.distance import haversine_km
from geobatch.geo.point import lat_lon, unit_vectors
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]


def slow_distance(option: Floats, candidates: Floats, weights: Floats) -> float:
    km = [float(haversine_km(*lat_lon(option), *lat_lon(one))) for one in candidates]
    return sum(w * d for w, d in zip(weights, km, strict=True) if w) / weights.sum()


def slow_mass(option: Floats, candidates: Floats, weights: Floats, km: float) -> float:
    near = [float(haversine_km(*lat_lon(option), *lat_lon(one))) <= km for one in candidates]
    return sum(w for w, hit in zip(weights, near, strict=True) if w and hit) / weights.sum()


def slow_share(option: Floats, candidates: Floats, weights: Floats) -> float:
    return float(np.mean([slow_mass(option, candidates, weights, km) for km in RADII_KM]))


def pools(seed: int, images: int, k: int, spread: float) -> tuple[Floats, Floats]:
    """Candidates around two modes of an image, some of weight 0."""
    rng = np.random.default_rng(seed)
    modes = rng.normal(size=(images, 2, 3))
    points = modes[np.arange(images)[:, None], rng.integers(0, 2, (images, k))] + rng.normal(size=(images, k, 3)) * spread
    weights = rng.exponential(size=(images, k)) * (rng.random((images, k)) < 0.8)
    weights[:, 0] += 0.01
    return points / np.linalg.norm(points, axis=2, keepdims=True), weights


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.sampled_from([1e-4, 3e-2, 0.3]), st.booleans())
def test_choices_equal_the_definitions(seed: int, k: int, spread: float, same_pool: bool) -> None:
    candidates, weights = pools(seed, 3, k, spread)
    options = None if same_pool else pools(seed + 1, 3, 5, spread)[0]
    by_distance = centre.least_expected_distance(candidates, weights, options)
    by_share = centre.most_expected_share(candidates, weights, options)
    for at in range(3):
        allowed = [j for j in range(k) if weights[at, j] > 0] if options is None else list(range(5))
        answers = candidates[at] if options is None else options[at]
        distance = {j: slow_distance(answers[j], candidates[at], weights[at]) for j in allowed}
        share = {j: slow_share(answers[j], candidates[at], weights[at]) for j in allowed}
        assert distance[int(by_distance[at])] == pytest.approx(min(distance.values()), abs=1e-6)
        best = max(share.values())
        tied = [j for j in allowed if share[j] > best - 1e-9]
        assert int(by_share[at]) in tied
        assert distance[int(by_share[at])] == pytest.approx(min(distance[j] for j in tied), abs=1e-6)


def test_mass_within_equals_the_definition() -> None:
    candidates, weights = pools(5, 20, 9, 0.02)
    chosen = candidates[:, 0]
    found = centre.mass_within(chosen, candidates, weights, RADII_KM)
    slow = [[slow_mass(chosen[at], candidates[at], weights[at], km) for km in RADII_KM] for at in range(20)]
    assert np.allclose(found, slow, atol=1e-12)
    assert np.all(np.diff(found, axis=1) >= 0) and np.all(found <= 1)


def test_the_two_losses_differ_where_they_should() -> None:
    # Three places within 1 km of one another hold 45 %, four lie apart along a line to the east: the share
    # wants the cluster (its eastern end, which is nearer to the rest), the distance the middle of it all.
    latitude = np.zeros((1, 7))
    longitude = np.array([[0.0, 0.004, 0.008, 60.0, 70.0, 80.0, 90.0]])
    weights = np.array([[0.15, 0.15, 0.15, 0.15, 0.15, 0.15, 0.10]])
    candidates = unit_vectors(latitude, longitude)
    assert centre.most_expected_share(candidates, weights).tolist() == [2]
    assert centre.least_expected_distance(candidates, weights).tolist() == [3]


def test_poles_and_antimeridian_are_ordinary() -> None:
    candidates = unit_vectors([[0, 0, 0], [89, 89, 89]], [[179, -179, 180], [0, 120, -120]])
    assert centre.least_expected_distance(candidates, np.ones((2, 3)))[0] == 2
    options = unit_vectors([[0, 0], [90, 60]], [[0, 179.5], [0, 0]])
    assert centre.least_expected_distance(candidates, np.ones((2, 3)), options).tolist() == [1, 0]


def test_padding_is_never_chosen_whatever_it_holds() -> None:
    candidates, weights = pools(3, 50, 6, 0.1)
    wide = np.concatenate([np.full((50, 4, 3), np.nan), candidates], axis=1)
    padded = np.concatenate([np.zeros((50, 4)), weights], axis=1)
    for choose in (centre.least_expected_distance, centre.most_expected_share):
        assert np.array_equal(choose(wide, padded), choose(candidates, weights) + 4)
        options = np.concatenate([np.zeros((50, 2, 3)), candidates], axis=1)
        plain = choose(candidates, weights, candidates)
        assert np.array_equal(choose(wide, padded, options), plain + 2)
    assert np.allclose(
        centre.mass_within(candidates[:, 0], wide, padded), centre.mass_within(candidates[:, 0], candidates, weights)
    )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, weights = pools(4, 101, 7, 0.1)
    whole = centre.least_expected_distance(candidates, weights), centre.most_expected_share(candidates, weights)
    monkeypatch.setattr(centre, "CHUNK", 300)
    assert np.array_equal(whole[0], centre.least_expected_distance(candidates, weights))
    assert np.array_equal(whole[1], centre.most_expected_share(candidates, weights))


def test_a_radius_is_sharp_to_a_metre_and_padding_is_in_none() -> None:
    candidates = unit_vectors([[0, 0, 0]], np.degrees([[0, 0.999 / 6371, 1.001 / 6371]]))
    assert np.allclose(centre.mass_within(candidates[:, 0], candidates, [[0.5, 0.3, 0.2]], [0.998, 1, 1.002]), [[0.5, 0.8, 1]])
    pair_and_one = unit_vectors([[0, 0, 0]], np.degrees([[0, 0.99 / 6371, 1]]))
    assert centre.most_expected_share(pair_and_one, [[0.3, 0.3, 0.4]], radii=[1]).tolist() == [1]
    assert centre.most_expected_share(pair_and_one, [[0.3, 0.3, 0.4]], radii=[0.98]).tolist() == [2]
    # Beyond a quarter of the Earth even a zero vector's cosine of 0 would lie within.
    options = np.concatenate([np.zeros((1, 1, 3)), unit_vectors([[0.0]], [[180.0]])], axis=1)
    assert centre.most_expected_share(candidates, [[0.5, 0.3, 0.2]], options, radii=[12_000]).tolist() == [1]


def test_a_radius_around_the_earth_takes_all() -> None:
    candidates = unit_vectors([[0, 0]], [[0, 180]])
    found = centre.mass_within(candidates[:, 0], candidates, [[0.5, 0.5]], [1, 20_000, 20_016, 1e9])
    assert found.tolist() == [[0.5, 0.5, 1, 1]]


def test_what_cannot_be_chosen_from_is_refused() -> None:
    candidates, weights = pools(0, 2, 3, 0.1)
    for bad in (np.zeros((2, 3)), -weights, np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="weights must be finite"):
            centre.least_expected_distance(candidates, bad)
    with pytest.raises(ValueError, match="do not fit"):
        centre.least_expected_distance(candidates, weights[:, :2])
    with pytest.raises(ValueError, match=r"options \(N, J, 3\)"):
        centre.most_expected_share(candidates, weights, candidates[:1])
    with pytest.raises(ValueError, match="without a single option"):
        centre.most_expected_share(candidates, weights, np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match="one chosen vector"):
        centre.mass_within(candidates[0], candidates, weights)
