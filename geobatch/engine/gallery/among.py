"""Search within an area: each query may find some rows only.

An area is a set of rows: those within a box, a country, a circle around a hint. Three cases, by their cost:

- few rows for each query (the 100 tiles nearest to a hint): they are looked up and multiplied, many queries at once; exact.
  10,000 such queries among 100,000 vectors of 512 numbers take 1.6 s of one core, nearly all of it the looking up.
- one set for many queries (a country): its rows are looked up once and multiplied with all of them; exact.
- a tenth of the gallery or more, where there is an index: the index is first asked as if there were no area, for four times as
  many rows as wanted. The best of an area are the first of all that lie in it, so who has found enough of them is done, and the
  others, whose neighbours lie outside, are multiplied with the set.

The last was measured on 50,000 location features of GeoCLIP and boxes of a third and a half of the gallery, queries from
everywhere. Of the queries 0.34 and 0.51 were done by the index, with 0.998 of their 10 nearest. An index that skips what is not
allowed (FAISS's selectors), its effort raised by as much as the box is smaller, found 0.74 and 0.77: the neighbours of who
asks from outside lie in cells that a raised effort does not reach. Where it found 0.99 it took twice a product's time and more.

Queries share a set where they share the array: who asks for a country a thousand times passes one array a thousand times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery.finder import Finder
from geobatch.engine.gallery.stored import Rows, Vectors

_PAIRS = 4_096  # of queries and rows up to which a set is not worth a product of its own
_SHARE = 0.1  # of the gallery's rows from which on the index is asked first
_WIDE = 4  # times k rows that it is asked for
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
        self.rows = size
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

        few: list[tuple[int, NDArray[np.intp]]] = []
        large: list[tuple[Rows, NDArray[np.intp]]] = []
        for number, which in self._groups(at):
            rows = self.sets[number]
            if rows is None:
                keep(which, finder.search(np.ascontiguousarray(queries[which]), min(k, self.rows)))
            elif len(rows) * len(which) <= _PAIRS:
                few.append((number, which))
            elif finder.indexed and len(rows) >= _SHARE * self.rows:
                large.append((rows, which))
            else:
                keep(which, finder.among(np.ascontiguousarray(queries[which]), rows, k))
        for which, rows in self._padded(few):
            keep(which, finder.rank(np.ascontiguousarray(queries[which]), rows, k))
        for rows, which in large:
            asked = np.ascontiguousarray(queries[which])
            similarities, nearest, done = self._first(finder, asked, rows, k)
            keep(which[done], (similarities[done], nearest[done]))
            if not done.all():
                keep(which[~done], finder.among(np.ascontiguousarray(asked[~done]), rows, k))
        return best, found

    def _groups(self, at: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
        """Numbers of sets, and the positions in `at` of the queries that have them."""
        of = self.of[at]
        order = np.argsort(of, kind="stable")
        starts = np.flatnonzero(np.diff(of[order], prepend=-1))
        return [(int(of[which[0]]), which) for which in np.split(order, starts[1:]) if len(which)]

    def _first(self, finder: Finder, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows, NDArray[np.bool_]]:
        """The first k of all rows that lie in the set, and for which queries there are so many."""
        similarities, found = finder.search(queries, min(_WIDE * k, self.rows))
        allowed = np.zeros(self.rows + 1, np.bool_)  # one more: row -1 is not
        allowed[rows] = True
        outside = ~allowed[found]
        order = np.argsort(outside, axis=1, kind="stable")[:, :k]
        done = (~outside).sum(axis=1) >= min(k, len(rows))
        outside = np.take_along_axis(outside, order, 1)
        similarities = np.where(outside, -np.inf, np.take_along_axis(similarities, order, 1))
        return similarities, np.where(outside, -1, np.take_along_axis(found, order, 1)), done

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
        kept = np.sort(kept)
        kept = kept[np.concatenate([[True], kept[1:] > kept[:-1]])]
    if len(kept) and (kept[0] < 0 or kept[-1] >= size):
        raise ValueError(f"rows {kept[0]} to {kept[-1]} to search among, of a gallery of {size}")
    return kept
