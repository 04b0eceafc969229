"""The hierarchy of S2 cells: parents, how large a cell of a level is, and the finest that holds a share of a distribution.

A cell of level L has four children of level L + 1, and its id is the common prefix of theirs, so a parent is a mask and no
geometry. Cells of one level differ in size by at most 2.1 in area; lengths here are mean edges (the square root of the
mean area), 9,220 km at level 0, half of it a level further down.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.geo.s2 import MAX_LEVEL, Ids, cell_ids, cell_tokens, levels, parse_cell_tokens

Floats = NDArray[np.float64]

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


def finest(ids: ArrayLike, weights: ArrayLike, mass: float | NDArray[np.float64], level: int = MAX_LEVEL) -> tuple[Ids, Floats]:
    """The finest cell that holds a mass of weighted points, for each of N rows.

    Two cells without a common parent cannot both hold more than half, so for a mass above 0.5 the way down from the faces,
    always into the heaviest child, finds the only answer; it ends at the level of the answer, a dozen steps for most.

    Args:
        ids: `(N, P)` leaf cells, of level 30.
        weights: `(N, P)`, not negative; 0 where a row has fewer points. They need not sum to 1.
        mass: above 0; one number, or one a row.
        level: beyond which no cell is given.

    Returns:
        cells `(N,)`, 0 where not even a face holds the mass, and what they hold `(N,)`, 0 there.

    Raises:
        ValueError: shapes that do not fit, or cells that are no leaves.
    """
    cells, load = np.asarray(ids, np.uint64), np.asarray(weights, np.float64)
    if cells.ndim != 2 or cells.shape != load.shape:
        raise ValueError(f"cells (N, P) and weights (N, P) do not fit: {cells.shape} and {load.shape}")
    if np.any(load[~(cells & np.uint64(1)).astype(bool)] > 0):
        raise ValueError("points are leaf cells; make them with cell_ids at level 30")
    wanted = np.broadcast_to(np.asarray(mass, np.float64), len(cells))
    found, held = np.zeros(len(cells), np.uint64), np.zeros(len(cells))
    rows = np.arange(len(cells))
    for depth in range(level + 1):
        child = (cells >> np.uint64(61 - 2 * depth)).astype(np.int64)
        child = child if depth == 0 else child & 3
        kinds = 6 if depth == 0 else 4
        flat = (np.arange(len(rows))[:, None] * kinds + child).ravel()
        sums = np.bincount(flat, load.ravel(), len(rows) * kinds).reshape(len(rows), kinds)
        best = sums.argmax(axis=1)
        enough = sums[np.arange(len(rows)), best] >= wanted[rows]
        if not enough.any():
            break
        rows, best, sums = rows[enough], best[enough], sums[enough]
        cells, load = cells[enough], np.where(child[enough] == best[:, None], load[enough], 0.0)
        # The cell is the common prefix of its points: any of them names it.
        one = cells[np.arange(len(rows)), load.argmax(axis=1)]
        found[rows], held[rows] = parents(one, depth), sums[np.arange(len(rows)), best]
    return found, held


def holds(ids: ArrayLike, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.bool_]:
    """Whether cells `(N,)` hold places `(N,)` in degrees; a cell of 0, that is none, holds nothing."""
    cells = np.asarray(ids, np.uint64)
    out = np.zeros(len(cells), bool)
    there = cells > 0
    leaf = cell_ids(np.asarray(latitude, np.float64)[there], np.asarray(longitude, np.float64)[there], MAX_LEVEL)
    lowest = cells[there] & (~cells[there] + np.uint64(1))
    # Leaves of a cell lie within its lowest bit of it, on both sides.
    out[there] = (leaf >= cells[there] - lowest + np.uint64(1)) & (leaf <= cells[there] + (lowest - np.uint64(1)))
    return out
