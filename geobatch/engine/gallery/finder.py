"""Who answers a gallery's search: this process, or others that hold a part of it each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np

from geobatch.engine.gallery.index import Index
from geobatch.engine.gallery.stored import Rows, Stored, Vectors


class Finder(Protocol):
    """Finds rows by vector and vectors by row. Rows count over the whole gallery.

    Attributes:
        indexed: whether `search` is much faster than a product with all rows.
    """

    indexed: bool

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """The k best rows for each query (N, W) of searched columns: similarities and rows, (N, k), best first."""
        ...

    def among(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `search`, exact, of `rows` (n,) only, which rise; min(k, n) columns."""
        ...

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """The k best of each query's own candidates (N, R), exact; -1 pads; min(k, R) columns."""
        ...

    def take(self, rows: Rows) -> Vectors:
        """Whole vectors (n, D) of rows (n,); zeros for row -1."""
        ...


class Local:
    """Vectors that this process maps, and an index over them if there is one.

    The index is opened when it is first searched: a stage that only looks up vectors and places does without it.

    Args:
        stored: all rows.
        kind: of index.
        opens: opens the index; None: search is exact.
    """

    def __init__(self, stored: Stored, kind: str = "flat", opens: Callable[[], Index] | None = None) -> None:
        self.stored, self.kind, self._opens = stored, kind, opens
        self.indexed = opens is not None

    @cached_property
    def index(self) -> Index | None:
        """The index, opened now at the latest."""
        return None if self._opens is None else self._opens()

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.search`."""
        if self.index is None:
            return self.stored.search(queries, k)
        return self.index.search(queries, k, self.stored)

    def among(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.among`."""
        return self.stored.search_rows(queries, rows, k)

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.rank`."""
        return self.stored.rank(queries, candidates, k)

    def take(self, rows: Rows) -> Vectors:
        """As `Finder.take`."""
        return self.stored.take(np.ascontiguousarray(rows, np.int64))
