"""Search within an area: each query may find some rows only.

An area is a set of rows: those within a box, a country, a circle around a hint. Three cases, by their cost:

- few rows for each query (the 100 tiles nearest to a hint): they are looked up and multiplied, many queries at once; exact.
- one set for many queries (a country): its rows are looked up once and multiplied with all of them; exact.
- a fifth of the gallery or more, where there is an index: the index looks for rows of the set only, with its effort raised by
  as much as the set is smaller than the gallery, and what it nominates is ranked exactly. Below that share, multiplying the
  set is faster than raising the effort.

Queries share a set where they share the array: who asks for a country a thousand times passes one array a thousand times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery.finder import Finder
from geobatch.engine.gallery.stored import Rows, Vectors

_PAIRS = 4_096  # of queries and rows up to which a set is not worth a product of its own
_AT_ONCE = 1_024  # queries whose rows are looked up together, sorted by how many they have


class Areas:
    """The rows that each of N queries may find.

    Args:
        among: N arrays of rows in any order, or None for all; queries with the same array object share it.
        size: rows of the gallery.

    Raises:
        ValueError: a row that the gallery does not have.
    """

    def __init__(self, among: Sequence[NDArray[np.int64] | None], size: int) -> None:
        numbers: dict[int, int] = {}
        self.sets: list[Rows | None] = []
        self.of = np.zeros(len(among), np.int64)
        for query, rows in enumerate(among):
            if id(rows) not in numbers:
                numbers[id(rows)] = len(self.sets)
                self.sets.append(None if rows is None else _checked(rows, size))
            self.of[query] = numbers[id(rows)]
        self.size = max((size if rows is None else len(rows) for rows in self.sets), default=0)

    def search(self, finder: Finder, queries: Vectors, at: NDArray[np.intp], k: int) -> tuple[Vectors, Rows]:
        """The k best rows of its area for each query (n, W), which are those at the positions `at` (n,) of the N.

        Returns:
            similarities and rows (n, k), best first, -inf and -1 where an area holds fewer.
        """
        best = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)

        def keep(which: NDArray[np.intp], answer: tuple[Vectors, Rows]) -> None:
            width = answer[1].shape[1]
            best[which, :width], found[which, :width] = answer

        order = np.argsort(self.of[at], kind="stable")
        starts = np.flatnonzero(np.diff(self.of[at][order], prepend=-1))
        few: list[tuple[int, NDArray[np.intp]]] = []
        for which in np.split(order, starts[1:]) if len(order) else []:
            number = int(self.of[at[which[0]]])
            rows = self.sets[number]
            if rows is None:
                keep(which, finder.search(np.ascontiguousarray(queries[which]), k))
            elif len(rows) * len(which) <= _PAIRS:
                few.append((number, which))
            else:
                keep(which, finder.among(np.ascontiguousarray(queries[which]), rows, k))
        for which, rows in self._padded(few):
            keep(which, finder.rank(np.ascontiguousarray(queries[which]), rows, k))
        return best, found

    def _padded(self, few: list[tuple[int, NDArray[np.intp]]]) -> list[tuple[NDArray[np.intp], Rows]]:
        """Queries and their rows (n, R), -1 behind the shorter ones; queries with as many rows are together."""
        pairs = [(rows, query) for number, which in few if (rows := self.sets[number]) is not None for query in which]
        pairs.sort(key=lambda pair: len(pair[0]))
        out = []
        for start in range(0, len(pairs), _AT_ONCE):
            some = pairs[start : start + _AT_ONCE]
            counts = np.array([len(rows) for rows, _ in some])
            padded = np.full((len(some), counts.max()), -1, np.int64)
            padded[np.arange(counts.max()) < counts[:, None]] = np.concatenate([rows for rows, _ in some])
            out.append((np.array([query for _, query in some], np.intp), padded))
        return out


def _checked(rows: NDArray[np.int64], size: int) -> Rows:
    """Rising, each once."""
    kept = np.asarray(rows, np.int64).ravel()
    if not (kept[1:] > kept[:-1]).all():
        kept = np.unique(kept)
    if len(kept) and (kept[0] < 0 or kept[-1] >= size):
        raise ValueError(f"rows {kept[0]} to {kept[-1]} to search among, of a gallery of {size}")
    return kept
