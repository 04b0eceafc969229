"""Points for tests: anywhere on the sphere, and the corners where projections break."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

LATITUDES = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -45.0, -0.0, 0.0, 35.26438968, 45.0, 90.0]))
LONGITUDES = st.one_of(
    st.floats(-180, 180), st.sampled_from([-180.0, -135.0, -90.0, -45.0, -0.0, 0.0, 45.0, 90.0, 135.0, 180.0])
)
POINTS = st.tuples(LATITUDES, LONGITUDES)


def uniform(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes of points uniform on the sphere."""
    rng = np.random.default_rng(seed)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)
