"""Which rows are kept out of training: those of whole places, so that none is on both sides.

A place is a cell of S2's level 13, 1.1 km wide: photographs of a burst, or of one square, are not split between what is learnt
from and what is measured on. Cells come in the order in which a seeded permutation of the rows meets them, so that rows of
which no two share a cell are split as the permutation has them.

Where each place has more rows than are wanted, the smallest one is given up for training, and as many of its rows as are wanted
are kept out, if that is not much: figures from one place say little, but nothing of it was seen.

Not covered: neighbours on both sides of a cell's edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.geo import s2

#: S2's level of a place.
LEVEL = 13

#: No more than twice what is wanted, or this part of all rows, is given up for a place to measure on.
_LOST = 20

Rows = NDArray[np.int64]


def split(latitude: ArrayLike, longitude: ArrayLike, wanted: int, seed: int, least: int = 1) -> tuple[Rows, Rows]:
    """Rows to train on and rows kept out, both ascending.

    Args:
        latitude, longitude: `(N,)` degrees.
        wanted: rows kept out at most; a place is kept out if it fits into what is left of them.
        seed: of the order.
        least: rows to train on, without which nothing is kept out.
    """
    _, numbers, sizes = np.unique(s2.cell_ids(latitude, longitude, LEVEL), return_inverse=True, return_counts=True)
    held, taken = np.zeros(len(sizes), bool), 0
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(numbers))
    for place in numbers[order].tolist():
        if taken == wanted:
            break
        if not held[place] and taken + sizes[place] <= wanted:
            held[place], taken = True, taken + int(sizes[place])
    given_up = min(max(2 * wanted, len(numbers) // _LOST), len(numbers) - least)
    if wanted > 0 and not taken and sizes.min() <= given_up:
        smallest = np.argmin(sizes)
        return np.flatnonzero(numbers != smallest), np.sort(order[numbers[order] == smallest][:wanted])
    return np.flatnonzero(~held[numbers]), np.flatnonzero(held[numbers])


def shared(latitude: ArrayLike, longitude: ArrayLike) -> bool:
    """Whether any two of the rows `(N,)` are of one place."""
    cells = s2.cell_ids(latitude, longitude, LEVEL)
    return len(np.unique(cells)) < cells.size
