"""Smoothed targets against s2sphere's cells, one child at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import s2sphere
import torch

from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import codes_of, hilbert
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.smoothing import child_centres, targets
from tests.methods.geotoken.tiny import TINY, batch_of

KINDS = [replace(TINY, level=6), replace(TINY, level=7, group_size=2), replace(TINY, level=6, order="quadrant")]


def places(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def by_hand(latitude: float, longitude: float, config: GeoToken, km: float) -> list[dict[int, float]]:
    """For each token, the share of each Hilbert child, from s2sphere's own cells and its chords."""
    truth = s2sphere.LatLng.from_degrees(latitude, longitude)
    leaf = s2sphere.CellId.from_lat_lng(truth)
    parents, level = [[s2sphere.CellId.from_face_pos_level(face, 0, 0) for face in range(6)]], 0
    for levels in config.groups:
        cells = [leaf.parent(level)]
        for _ in range(levels):
            cells = [child for cell in cells for child in cell.children()]
        parents.append(cells)
        level += levels
    out = []
    for cells in parents:
        away = [truth.get_distance(cell.to_lat_lng()).radians * 6371.0 for cell in cells]
        weights = [math.exp((min(away) - x) / km) for x in away]
        out.append({token: weight / sum(weights) for token, weight in enumerate(weights)})
    return out


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("km", [25.0, 400.0, 5000.0])
def test_shares_are_those_of_s2s_own_cells(config: GeoToken, km: float) -> None:
    latitude, longitude = places()
    codes = codes_of(latitude, longitude, config)
    found = targets(codes, latitude, longitude, config, km)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
    for row in range(len(codes)):
        for t, shares in enumerate(by_hand(latitude[row], longitude[row], config, km)):
            for code in range(config.vocabularies[t]):
                words = codes[row : row + 1, : t + 1].copy()
                words[0, t] = code
                token = hilbert(words, config.groups[:t])[0, t] if config.order == "quadrant" else code
                assert float(found[row, t, code]) == pytest.approx(shares[int(token)], abs=2e-6)
    assert not found[:, 0, 6:].any()


def test_the_right_child_is_among_the_children() -> None:
    latitude, longitude = places(200)
    for config in KINDS:
        codes = codes_of(latitude, longitude, config)
        lat, lon = child_centres(codes, config.length - 1, config)
        right = np.take_along_axis(lat, codes[:, -1:], 1)[:, 0], np.take_along_axis(lon, codes[:, -1:], 1)[:, 0]
        assert np.array_equal(codes_of(*right, config), codes)


def test_a_small_distance_leaves_the_nearest_child_alone_and_a_large_one_none() -> None:
    config = replace(TINY, level=4)
    latitude, longitude = places(100)
    codes = codes_of(latitude, longitude, config)
    hard = targets(codes, latitude, longitude, config, 0.01)
    assert float(hard.amax(-1).min()) > 0.99
    # S2's cells are not Voronoi cells of their centres, but nearly.
    assert float((hard.argmax(-1).numpy() == codes).mean()) > 0.9
    flat = targets(codes, latitude, longitude, config, 1e9)
    torch.testing.assert_close(flat[:, 1:, :4], torch.full((100, 4, 4), 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("token", [0, 3])
def test_a_border_is_as_wide_at_every_level(token: int) -> None:
    """How the share of the child across falls with the distance from the border does not depend on the cells' size."""
    config = replace(TINY, level=3)
    # Along the equator: 45 degrees east is a border of faces, 0 one of a face's quarters and of all smaller cells beside it.
    step = np.linspace(0.5, 60, 7)
    latitude = np.full(7, 0.01 if token == 0 else 5.0)
    longitude = 45.0 + np.degrees(step / 6371.0)
    if token:
        edge = longitude_of_border(config, token)
        longitude = edge + np.degrees(step / 6371.0 / np.cos(np.radians(5.0)))
    found = targets(codes_of(latitude, longitude, config), latitude, longitude, config, 100.0)[:, token]
    right, across = found.sort(-1, descending=True).values[:, :2].T
    ratio = (across / right).numpy()
    # Twice the distance from the border is the difference of the distances to both centres, up to where the border is not
    # half-way between them, which a constant factor takes up.
    slope, at_border = np.polyfit(step, np.log(ratio), 1)
    assert slope == pytest.approx(-2 / 100.0, rel=0.05) and abs(at_border) < 0.4


def longitude_of_border(config: GeoToken, token: int) -> float:
    """Where token `token`, alone, first changes east of 20 degrees at 5 degrees north."""
    longitude = np.linspace(20, 44, 200_001)
    codes = codes_of(np.full_like(longitude, 5.0), longitude, config)
    changed = (codes[1:, token] != codes[:-1, token]) & (codes[1:, :token] == codes[:-1, :token]).all(1)
    return float(longitude[1:][changed][0])


def test_the_loss_against_shares_is_written_out() -> None:
    torch.manual_seed(0)
    model, batch = GeoTokenModel(TINY).eval(), batch_of()
    latitude, longitude = places(4)
    codes = codes_of(latitude, longitude, TINY)
    soft = targets(codes, latitude, longitude, TINY, 500.0)
    with torch.inference_mode():
        logits = model.logits(model.encode(batch), torch.from_numpy(codes))
        found = float(model(batch, torch.from_numpy(codes), soft))
    total = 0.0
    for t, x in enumerate(logits):
        log = x.double().log_softmax(-1).numpy()
        total -= TINY.weights[t] * float((soft[:, t, : x.shape[1]].double().numpy() * log).sum()) / 4
    assert found == pytest.approx(total / sum(TINY.weights), rel=1e-5)
    hard = torch.nn.functional.one_hot(torch.from_numpy(codes), 6).float()
    with torch.inference_mode():
        assert float(model(batch, torch.from_numpy(codes), hard)) == pytest.approx(
            float(model(batch, torch.from_numpy(codes))), rel=1e-6
        )
