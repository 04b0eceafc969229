"""How dense a gallery is over the Earth: a grid of degrees, in 255 steps of the logarithm.

Counts a cell are divided by its share of the area of one at the equator, so that the poles do not seem empty. Null places and
NaN (a gallery that is only retrieved from) are passed over.

Not covered: detail below a degree, 111 km.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS, COLUMNS = 180, 360


def density(parts: Iterable[pa.Table]) -> NDArray[np.uint8]:
    """`(ROWS, COLUMNS)` from 90° N and 180° W: 0 none, 255 the densest cell.

    Args:
        parts: tables with `latitude` and `longitude`.
    """
    counts = np.zeros(ROWS * COLUMNS, np.float64)
    for table in parts:
        latitude, longitude = (table[axis].to_numpy().astype(np.float64) for axis in ("latitude", "longitude"))
        there = np.isfinite(latitude) & np.isfinite(longitude)
        row = np.clip((90 - latitude[there]) * (ROWS / 180), 0, ROWS - 1).astype(np.intp)
        column = np.clip((longitude[there] + 180) * (COLUMNS / 360), 0, COLUMNS - 1).astype(np.intp)
        counts += np.bincount(row * COLUMNS + column, minlength=counts.size)
    grid = counts.reshape(ROWS, COLUMNS)
    middle = np.radians(90 - (np.arange(ROWS) + 0.5) * (180 / ROWS))
    shade = np.log1p(grid / np.cos(middle)[:, None])
    # A cell that holds anything shows; 255 times the largest over itself may come out a hair above 255.
    return np.minimum(np.ceil(255 * shade / max(shade.max(), 1e-9)), 255).astype(np.uint8)
