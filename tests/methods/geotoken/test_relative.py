"""What the decoder is told about neighbours, against s2sphere's own cells and coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import s2sphere
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.methods.geotoken.inputs import codes_of, context
from geobatch.methods.geotoken.relative import Relative
from tests.methods.geotoken.tiny import TINY, arrays, batch_of, model_of

CONFIG = replace(TINY, relative=True, order="quadrant", level=7, group_size=2)


def leaf_of(latitude: float, longitude: float) -> tuple[int, int, int]:
    """Face and 30-bit coordinates of the leaf cell."""
    return s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude)).to_face_ij_orientation()[:3]


def slow_offset(cell: tuple[int, int, int], level: int, other: tuple[int, int, int], deep: int) -> list[float]:
    """From the centre of the level-`level` cell that holds the leaf `cell` to the centre of the level-`deep` cell that
    holds `other`, in units of the first."""
    size, small = 1 << (30 - level), 1 << (30 - deep)
    return [
        ((theirs // small + 0.5) * small - (mine // size + 0.5) * size) / size
        for mine, theirs in zip(cell[1:], other[1:], strict=True)
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(7, 2), (20, 1), (30, 3), (5, 1)]))
def test_offsets_are_those_of_the_cells(seed: int, tokens: tuple[int, int]) -> None:
    config = replace(CONFIG, level=tokens[0], group_size=tokens[1])
    relative = Relative(config)
    rng = np.random.default_rng(seed)
    latitude = rng.uniform(-89, 89, 2)
    longitude = rng.uniform(-180, 180, 2)
    # Near ones, far ones, and one that is missing.
    near_latitude = np.clip(latitude[:, None] + rng.normal(0, [0.01, 1.0, 60.0], (2, 3)), -90, 90)
    near_longitude = np.clip(longitude[:, None] + rng.normal(0, [0.01, 1.0, 60.0], (2, 3)), -180, 180)
    vectors, near_vectors, _, _ = arrays(config, 2, seed % 1000)
    near_latitude[0, 1] = np.nan
    batch = context(config, vectors, near_vectors, near_latitude, near_longitude)
    codes = torch.from_numpy(codes_of(latitude, longitude, config))
    features = relative._features(relative.near(batch), codes)
    assert features.shape == (2, config.length, 3, 8)
    levels = np.cumsum([0, *config.groups])
    for row in range(2):
        cell = leaf_of(latitude[row], longitude[row])
        for m in range(3):
            if np.isnan(near_latitude[row, m]):
                continue
            other = leaf_of(near_latitude[row, m], near_longitude[row, m])
            for t, level in enumerate(levels):
                found = features[row, t, m]
                assert found[4] == (cell[0] == other[0])
                offset = slow_offset(cell, int(level), other, config.level)
                if cell[0] == other[0]:
                    np.testing.assert_allclose(found[:2], np.clip(offset, -1.5, 1.5), atol=1e-5)
                    np.testing.assert_allclose(found[2:4], [x / (1 + abs(x)) for x in offset], atol=1e-5)
                    assert found[5] == all(abs(x) < 0.5 for x in offset)
                else:
                    assert not found[:4].any() and not found[5]


def test_similarities_are_cosines_and_their_distance_to_the_best_one() -> None:
    batch = batch_of(CONFIG)
    hidden = replace(batch, present_BM=torch.tensor([[True, False, True]] * 4))
    relative = Relative(CONFIG)
    codes = torch.zeros(4, 2, dtype=torch.long)
    features = relative._features(relative.near(hidden), codes)
    for row in range(4):
        cosines = [
            np.mean([float(torch.cosine_similarity(batch.views_BVD[row, v], near[v], dim=0)) for v in range(2)])
            for near in batch.neighbour_views_BMVD[row]
        ]
        best = max(cosines[0], cosines[2])
        np.testing.assert_allclose(features[row, :, :, 6], [cosines] * 2, atol=1e-6)
        np.testing.assert_allclose(features[row, :, :, 7], [[x - best for x in cosines]] * 2, atol=1e-6)


def test_before_the_face_there_is_nothing_to_tell() -> None:
    model, batch = model_of(CONFIG), batch_of(CONFIG)
    assert model.relative is not None
    near = model.relative.near(batch)
    with torch.inference_mode():
        assert not model.relative(near, torch.zeros(4, 0, dtype=torch.long)).any()
        told = model.relative(near, torch.zeros(4, 3, dtype=torch.long))
    assert told.shape == (4, 4, CONFIG.width) and not told[:, 0].any() and bool(told[:, 1:].any())


def test_without_a_single_neighbour_nothing_is_told() -> None:
    batch = batch_of(CONFIG)
    alone = replace(
        batch,
        neighbour_views_BMVD=batch.neighbour_views_BMVD[:, :0],
        neighbour_codes_BMT=batch.neighbour_codes_BMT[:, :0],
        neighbour_points_BM3=batch.neighbour_points_BM3[:, :0],
        present_BM=batch.present_BM[:, :0],
    )
    relative = Relative(CONFIG)
    told = relative(relative.near(alone), torch.zeros(4, 2, dtype=torch.long))
    assert told.shape == (4, 3, CONFIG.width) and not told.any()


def test_hilbert_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="set order to quadrant"):
        replace(CONFIG, order="hilbert")
