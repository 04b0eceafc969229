"""The best tiles of each query, exactly, whatever the number of tiles: among all of them, or among those near a place.

Figures must not depend on an index, nor on the order in which equal tiles happen to be found: similarities are whole matrix
products of blocks, and of equal ones the tile of the lower row comes first, so that a model which gives every tile the same
vector scores like chance. Memory is two blocks of vectors and one of similarities (16 MiB), however many tiles there are; a
tile is compared with what a query already has, and only what beats the last of that is sorted.

`Centres.near` gives the candidates of CVG-Text's protocol: the 100 tiles nearest to a query's true place. Where several are
as far as the hundredth, to a millimetre, all of them belong, so that the answer does not depend on the order of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.geo.point import unit_vectors

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

#: Queries and tiles compared at once.
_QUERIES, _TILES = 512, 8192
#: Pairs compared at once where each query has tiles of its own, and tiles looked up beyond those asked for.
_PAIRS, _SPARE = 8192, 8
#: Kilometres by which distances are equal: east and west of a place, they differ in the last digits.
_EQUAL = 1e-6


class Views(Protocol):
    """Vectors by row; a gallery is one."""

    def __len__(self) -> int:
        """How many."""

    def vectors(self, rows: Rows) -> Vectors:
        """The rows' vectors `(n, D)`."""


class Held:
    """Vectors in an array `(N, D)`.

    Args:
        array: unit vectors.
    """

    def __init__(self, array: Vectors) -> None:
        self._array = np.asarray(array, np.float32)

    def __len__(self) -> int:
        return len(self._array)

    def vectors(self, rows: Rows) -> Vectors:
        """The rows' vectors."""
        return self._array[rows]


def best(queries: Views, tiles: Views, k: int) -> tuple[Vectors, Rows]:
    """The k tiles most similar to each query.

    Returns:
        Inner products and rows `(N, k)`, best first, equal ones by row; -inf and -1 where there are fewer tiles.
    """
    found = [
        _best(queries.vectors(_span(start, len(queries), _QUERIES)), tiles, k) for start in range(0, len(queries), _QUERIES)
    ]
    return _stacked(found, k)


def best_among(queries: Views, tiles: Views, k: int, among: Sequence[Rows]) -> tuple[Vectors, Rows]:
    """As `best`, each query among its own tiles only.

    Args:
        among: rows of each query's tiles, rising.
    """
    found, start = [], 0
    while start < len(queries):
        stop, pairs = start + 1, len(among[start])
        while stop < len(queries) and pairs + len(among[stop]) <= _PAIRS:
            pairs += len(among[stop])
            stop += 1
        rows = np.concatenate([np.zeros(0, np.int64), *among[start:stop]])
        owner = np.repeat(np.arange(stop - start), [len(each) for each in among[start:stop]])
        asked = queries.vectors(np.arange(start, stop))
        values = np.concatenate([
            np.einsum("nd,nd->n", tiles.vectors(rows[at : at + _PAIRS]), asked[owner[at : at + _PAIRS]])
            for at in range(0, max(1, len(rows)), _PAIRS)
        ])  # fmt: skip
        found.append(_first(owner, values.astype(np.float32), rows, stop - start, k))
        start = stop
    return _stacked(found, k)


class Centres:
    """Where tiles lie.

    Args:
        latitude, longitude: `(M,)` degrees; tiles without a place (NaN) are near to nothing.
    """

    def __init__(self, latitude: Floats, longitude: Floats) -> None:
        self._rows = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
        self._latitude, self._longitude = latitude[self._rows], longitude[self._rows]

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(unit_vectors(self._latitude, self._longitude))

    def near(self, latitude: Floats, longitude: Floats, count: int) -> list[Rows]:
        """The rows, rising, of the `count` tiles nearest to each place `(N,)`, with all that are as far as the last; none of a
        place that is NaN.
        """
        known = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
        answer = [np.zeros(0, np.int64) for _ in latitude]
        if not len(self._rows) or not len(known):
            return answer
        latitude, longitude = latitude[known], longitude[known]
        width = min(count + _SPARE, len(self._rows))
        _, found = self._tree.query(unit_vectors(latitude, longitude), k=np.arange(1, width + 1))
        km = haversine_km(latitude[:, None], longitude[:, None], self._latitude[found], self._longitude[found])
        limit = np.sort(km, axis=1)[:, min(count, width) - 1] + _EQUAL
        for at, query in enumerate(known):
            rows, far = found[at], km[at]
            if width < len(self._rows) and far.max() <= limit[at]:  # there may be more that are as far
                rows = np.arange(len(self._rows))
                far = haversine_km(latitude[at], longitude[at], self._latitude, self._longitude)
            answer[query] = np.sort(self._rows[rows[far <= limit[at]]])
        return answer

    def within(self, latitude: Floats, longitude: Floats, metres: float) -> NDArray[np.int64]:
        """How many tiles lie within `metres` of each place `(N,)`; none of a place that is NaN."""
        known = np.isfinite(latitude) & np.isfinite(longitude)
        counts = np.zeros(len(latitude), np.int64)
        if len(self._rows) and known.any():
            # The rim belongs to it, as in `geobatch.geo.distance.within`, whatever a chord is rounded to.
            chord = 2 * np.sin(min(metres / 1000 / EARTH_RADIUS_KM, np.pi) / 2) * (1 + 1e-9) + 1e-12
            asked = unit_vectors(latitude[known], longitude[known])
            counts[known] = self._tree.query_ball_point(asked, chord, return_length=True)
        return counts


def _span(start: int, count: int, size: int) -> Rows:
    return np.arange(start, min(start + size, count), dtype=np.int64)


def _best(asked: Vectors, tiles: Views, k: int) -> tuple[Vectors, Rows]:
    count = len(asked)
    values, rows = np.full((count, k), -np.inf, np.float32), np.full((count, k), -1, np.int64)
    for start in range(0, len(tiles), _TILES):
        block = asked @ tiles.vectors(_span(start, len(tiles), _TILES)).T
        mask = block > values[:, -1:]  # an equal tile of a later block is behind
        crowded = np.flatnonzero(mask.sum(axis=1) > 4 * k)
        if crowded.size:
            some = block[crowded]
            mask[crowded] &= some >= np.partition(some, some.shape[1] - k, axis=1)[:, -k, None]
        owner, column = np.nonzero(mask)
        if not owner.size:
            continue
        old = np.flatnonzero(rows.ravel() >= 0)
        values, rows = _first(
            np.concatenate([old // k, owner]),
            np.concatenate([values.ravel()[old], block[owner, column]]),
            np.concatenate([rows.ravel()[old], column + start]),
            count,
            k,
        )
    return values, rows


def _first(owner: NDArray[np.intp], values: Vectors, rows: Rows, count: int, k: int) -> tuple[Vectors, Rows]:
    """Of values with their owners the k largest of each of `count` owners, equal ones by row."""
    order = np.lexsort((rows, -values, owner))
    owner, values, rows = owner[order], values[order], rows[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = place < k
    best_values, best_rows = np.full((count, k), -np.inf, np.float32), np.full((count, k), -1, np.int64)
    best_values[owner[kept], place[kept]] = values[kept]
    best_rows[owner[kept], place[kept]] = rows[kept]
    return best_values, best_rows


def _stacked(found: list[tuple[Vectors, Rows]], k: int) -> tuple[Vectors, Rows]:
    empty = np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
    return np.concatenate([empty[0], *(each[0] for each in found)]), np.concatenate([empty[1], *(each[1] for each in found)])
