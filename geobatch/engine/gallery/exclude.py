"""Rows that must not be among a query's neighbours: itself, its photographer's, its near duplicates.

A model that is trained or judged with a picture's own burst among its neighbours learns to copy. So a query may name its
image, its group, and a similarity from which on a row counts as the same scene. Search asks for more rows than wanted,
drops those, and asks for twice as many again for the queries that have too few left: exact where search is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery.stored import Rows, Vectors

#: Answers the queries at the positions (n,) with k rows each: similarities and rows, -1 where there is none.
Ask = Callable[[NDArray[np.intp], int], tuple[Vectors, Rows]]
#: A picture's similarity to its own copy is 1 only up to rounding: `above` 1.0 means copies, so this little less counts.
ROUNDING = 1e-5
#: Given the queries' positions (n,), similarities and rows (n, R): which to leave out.
Drop = Callable[[NDArray[np.intp], Vectors, Rows], NDArray[np.bool_]]


def dropping(own: Rows | None, group: Rows | None, groups: Rows | None, above: float | None) -> Drop:
    """Which rows to leave out.

    Args:
        own: (N,) row of each query, -1 for none.
        group: (N,) code of each query's group, -1 for none.
        groups: code of each gallery row's group, -1 for none.
        above: similarity from which on a row is left out, less `ROUNDING`.
    """

    def drop(at: NDArray[np.intp], similarities: Vectors, rows: Rows) -> NDArray[np.bool_]:
        left_out = rows < 0
        if own is not None:
            left_out |= rows == own[at, None]
        if group is not None and groups is not None:
            left_out |= (group[at, None] >= 0) & (groups[rows] == group[at, None])
        if above is not None:
            left_out |= similarities >= above - ROUNDING
        return left_out

    return drop


def search_without(ask: Ask, drop: Drop, queries: int, k: int, size: int, extra: int) -> tuple[Vectors, Rows]:
    """The k best rows that are not dropped; (N, k) with similarity -inf and row -1 where there are fewer.

    Args:
        queries: N, how many there are.
        size: rows of the gallery, or of the largest area of a query.
        extra: rows to ask for beyond k at first.
    """
    best = np.full((queries, k), -np.inf, np.float32)
    found = np.full((queries, k), -1, np.int64)
    waiting, width = np.arange(queries), min(k + extra, size)
    while len(waiting):
        similarities, rows = ask(waiting, width)
        left_out = drop(waiting, similarities, rows)
        # A stable sort moves what is left out to the end and keeps the others in order.
        kept = np.argsort(left_out, axis=1, kind="stable")[:, :k]
        gone = np.take_along_axis(left_out, kept, 1)
        columns = kept.shape[1]
        best[waiting, :columns] = np.where(gone, -np.inf, np.take_along_axis(similarities, kept, 1))
        found[waiting, :columns] = np.where(gone, -1, np.take_along_axis(rows, kept, 1))
        short = (~left_out).sum(axis=1) < k
        if width >= size:
            break
        waiting, width = waiting[short], min(2 * width, size)
    return best, found


def codes(names: Sequence[str | None], known: dict[str, int]) -> Rows:
    """The numbers of names, -1 where there is none or it is not known."""
    return np.array([-1 if name is None else known.get(name, -1) for name in names], np.int64)
