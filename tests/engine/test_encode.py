"""Files of pictures: exact below 100 pixels, near and small above."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from geobatch.benchmark.world import World
from geobatch.engine.encode import encoded


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("shape", [(1, 1), (99, 400), (48, 48), (2000, 7)])
def test_small_pictures_stay_exact(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data, kind = encoded(picture)
    assert kind == "png" and np.array_equal(pixels(data), picture)


def test_a_photograph_is_within_two_levels_and_a_third_of_its_size() -> None:
    picture = World().cut([47.0], [8.0])[0]
    picture = np.asarray(Image.fromarray(picture).resize((336, 336), Image.Resampling.BICUBIC))
    data, kind = encoded(picture)
    assert kind == "jpeg"
    assert np.abs(pixels(data).astype(int) - picture).mean() < 2
    assert len(data) < picture.size / 3
    assert encoded(picture)[0] == data
