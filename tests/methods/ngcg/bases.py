"""Tiny bases of every family for the tests of this room, and what to show them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.engine import tiny

BASES: dict[str, Callable[[Path], Path]] = {
    "internvl": tiny.internvl,
    "idefics3": tiny.smolvlm,
    "smolvlm": partial(tiny.smolvlm, kind="smolvlm"),
    "qwen2_5_vl": tiny.qwen25vl,
}

TEXTS = [
    "A coast with sandy beaches, north-east of the city.",
    "desert",
    "High mountains, a valley with a river and a lake; dense green forest in the south, about 250 km from the nearest city.",
    "snow and ice",
    "Überall Wald, 東京, and a tile <image> that is none.",
]

texts = st.lists(st.sampled_from(TEXTS) | st.text(min_size=1, max_size=60), min_size=1, max_size=5)
shapes = st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3))
pictures = st.lists(
    shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape, fill=st.integers(0, 255))), min_size=1, max_size=4
)


def noise(count: int, side: int = 70, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures that no two of are alike."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))
