"""Vectors as they lie on the disk, mapped into memory, and exact search over them.

Rows are float16 or float32, in one array a segment. float16 rounds a component of a unit vector by a relative 2⁻¹¹, which
moves an inner product by about 1e-4 at 512 dimensions: less than neighbours differ by, and half of the disk. Exact search
multiplies blocks of `BLOCK` rows, converted where they are float16, so its memory does not grow with the gallery; a float32
array is multiplied where it lies.

Only some columns may be asked for (the searched views of a vector): they are copied block by block.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Halves = NDArray[np.float16] | NDArray[np.float32]

BLOCK = 65_536
_RANKED = 64 * 128  # candidates ranked at once: 75 MB of 2304 floats (twice as many: a quarter slower); at least one query's
_MANY = 16_384  # rows looked up together after which mapped pages are let go: 4 KB each, or 64 KB read ahead


class Stored:
    """The rows of one or more arrays as if they were one.

    Args:
        arrays: (n, D) each, float16 or float32, memory-mapped or not.
        columns: slices of the D columns that are searched; default: all.
        owners: whatever the arrays' memory belongs to, kept alive.
    """

    def __init__(self, arrays: Sequence[Halves], columns: Sequence[slice] | None = None, owners: Sequence[object] = ()) -> None:
        self.arrays, self.owners = list(arrays), owners
        self.dimension = int(self.arrays[0].shape[1])
        self.starts = np.concatenate([[0], np.cumsum([len(array) for array in self.arrays])]).astype(np.int64)
        kept = list(columns or [slice(0, self.dimension)])
        # Neighbouring slices are one: a view of the whole is never copied.
        while len(kept) > 1 and all(a.stop == b.start for a, b in pairwise(kept)):
            kept = [slice(kept[0].start, kept[-1].stop)]
        self.columns = kept
        self.width = sum(each.stop - each.start for each in kept)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, rows: Rows, searched: bool = False) -> Vectors:
        """The rows (n,) as float32: (n, D), or only the searched columns; row -1 is all zeros."""
        if len(self.arrays) == 1 and len(rows) and rows.min() >= 0:
            only = self.arrays[0][rows]
            if len(rows) > _MANY:
                release(self.arrays[0])
            return np.ascontiguousarray(self._of(only) if searched else only, np.float32)
        found = np.zeros((len(rows), self.width if searched else self.dimension), np.float32)
        segment = np.searchsorted(self.starts, rows, side="right") - 1
        for number, array in enumerate(self.arrays):
            at = np.flatnonzero((segment == number) & (rows >= 0))
            if len(at):
                got = array[rows[at] - self.starts[number]]
                found[at] = self._of(got) if searched else got
                if len(at) > _MANY:
                    release(array)
        return found

    def blocks(self, first: int = 0, last: int | None = None, size: int = BLOCK) -> Iterator[tuple[int, Vectors]]:
        """(row, searched columns as contiguous float32) from row `first` up to `last`; mapped pages are let go after."""
        end = len(self) if last is None else last
        for number, array in enumerate(self.arrays):
            begin = max(first, int(self.starts[number]))
            stop = min(end, int(self.starts[number + 1]))
            for start in range(begin, stop, size):
                offset = int(self.starts[number])
                piece = array[start - offset : min(start + size, stop) - offset]
                yield start, np.ascontiguousarray(self._of(piece), np.float32)
                release(array)

    def search(self, queries: Vectors, k: int, first: int = 0, last: int | None = None) -> tuple[Vectors, Rows]:
        """The k rows with the largest inner product of the searched columns: similarities and rows, both (N, k), best first.

        Args:
            queries: (N, W) float32, W the searched columns.
            first, last: rows to look at, default all.
        """
        best, found = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        for start, block in self._pieces(first, len(self) if last is None else last):
            similarities, rows = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best, found = merged([(best, found), (similarities, rows + start)], k)
        return best, found

    def search_rows(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `search`, of the given rows (n,) only: min(k, n) columns."""
        best, found = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            block = self.take(some, searched=True)
            similarities, at = faiss.knn(queries, block, min(k, len(some)), metric=faiss.METRIC_INNER_PRODUCT)
            best, found = merged([(best, found), (similarities, some[at])], k)
        return best, found

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """The k best of each query's candidates (N, R) by exact inner product; -1 pads, and stays last."""
        parts = []
        step = max(1, _RANKED // max(1, candidates.shape[1]))
        for start in range(0, len(queries), step):
            rows = candidates[start : start + step]
            known = self.take(rows.ravel(), searched=True).reshape(*rows.shape, self.width)
            similarities = np.einsum("nrd,nd->nr", known, queries[start : start + step], optimize=True)
            similarities[rows < 0] = -np.inf
            parts.append(merged([(similarities, rows)], k))
        if not parts:
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, Vectors]]:
        """Blocks, or whole arrays where FAISS can read them in place."""
        for number, array in enumerate(self.arrays):
            begin, stop = max(first, int(self.starts[number])), min(last, int(self.starts[number + 1]))
            if begin >= stop:
                continue
            if array.dtype == np.float32 and self.width == self.dimension and array.flags.c_contiguous:
                offset = int(self.starts[number])
                yield begin, np.asarray(array[begin - offset : stop - offset], np.float32)
            else:
                yield from self.blocks(begin, stop)

    def _of(self, array: Halves) -> Halves:
        if self.width == self.dimension:
            return array
        return np.concatenate([array[:, each] for each in self.columns], axis=1)


def merged(parts: Sequence[tuple[Vectors, Rows]], k: int) -> tuple[Vectors, Rows]:
    """The k best of several answers (N, k_i) to the same queries, best first, equal ones by row."""
    similarities = np.concatenate([part[0] for part in parts], axis=1)
    rows = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((rows, -similarities), axis=1)[:, :k]
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1)


def release(array: Halves) -> None:
    """Gives the pages of a mapped array back: they count as this process's memory while they are mapped."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)
