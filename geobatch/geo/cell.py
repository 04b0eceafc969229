"""The hierarchy of S2 cells: parents, and how large a cell of a level is.

A cell of level L has four children of level L + 1, and its id is the common prefix of theirs, so a parent is a mask and no
geometry. Cells of one level differ in size by at most 2.1 in area; lengths here are mean edges (the square root of the
mean area), 9,220 km at level 0, half of it a level further down.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.geo.s2 import MAX_LEVEL, Ids, cell_tokens, levels, parse_cell_tokens

#: Mean edge in km of a face, the cell of level 0.
FACE_KM = EARTH_RADIUS_KM * math.sqrt(4 * math.pi / 6)


def parents(ids: ArrayLike, level: int) -> Ids:
    """The cells of `level` that hold cells of it or finer ones; any shape, the same shape back.

    Raises:
        ValueError: a cell is coarser than the level, or the level is outside 0 to 30.
    """
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"S2 has levels 0 to {MAX_LEVEL}, not {level}")
    cells = np.asarray(ids, np.uint64)
    if cells.size and int(levels(np.atleast_1d(cells)).min()) < level:
        raise ValueError(f"a cell coarser than level {level} has no parent of that level")
    closing = np.uint64(1 << (2 * (MAX_LEVEL - level)))
    # The bits above the closing one are the prefix.
    return (cells & ~(closing * np.uint64(2) - np.uint64(1))) | closing


def edge_km(level: int) -> float:
    """Mean edge, in km, of the cells of a level."""
    return FACE_KM * 0.5**level


def coarser(token: str, km: float) -> str:
    """The cell itself if its mean edge is at least `km`, else the finest of its parents that is so large (or the face)."""
    cell = parse_cell_tokens([token])
    level = min(int(levels(cell)[0]), max(0, math.floor(math.log2(FACE_KM / km))) if km > 0 else MAX_LEVEL)
    return cell_tokens(parents(cell, level))[0]
