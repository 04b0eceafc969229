"""Who answers a gallery's search: this process, or others that hold a part of it each."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from geobatch.engine.gallery.index import Index
from geobatch.engine.gallery.stored import Rows, Stored, Vectors


class Finder(Protocol):
    """Finds rows by vector and vectors by row. Rows count over the whole gallery."""

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """The k best rows for each query (N, W) of searched columns: similarities and rows, (N, k), best first."""
        ...

    def take(self, rows: Rows) -> Vectors:
        """Whole vectors (n, D) of rows (n,); zeros for row -1."""
        ...


class Local:
    """Vectors that this process maps, and an index over them if there is one.

    Args:
        stored: all rows.
        index: of the searched columns; without, search is exact.
        first, last: rows that are searched, where an index is not in use.
    """

    def __init__(self, stored: Stored, index: Index | None = None, first: int = 0, last: int | None = None) -> None:
        self.stored, self.index = stored, index
        self.first, self.last = first, len(stored) if last is None else last

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.search`."""
        if self.index is None:
            return self.stored.search(queries, k, self.first, self.last)
        return self.index.search(queries, k, self.stored)

    def take(self, rows: Rows) -> Vectors:
        """As `Finder.take`."""
        return self.stored.take(np.ascontiguousarray(rows, np.int64))
