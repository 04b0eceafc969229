"""Indexes that look at a part of the gallery, and how much of it.

An index only nominates: `refine`·k rows (k at least 15), which are then ranked by exact inner product with the stored
vectors. So similarities are exact whatever the kind, and an index may hold coarse copies of the vectors.

    ivf     cells around k-means centres, 8 bits a component; looks into `probes` cells
    hnsw    a graph of neighbours, 8 bits a component; keeps `probes` open ends. Its build takes longest, and it is never cut
            in two, so `auto` leaves it out above a million rows
    pq      ivf with 4 bits for every 4 components, read 32 rows at a time; 64 bytes a row at 512 dimensions

On 200,000 × 512 of GeoCLIP's location features, recall@15 / speed over flat search: ivf 0.9947 / 95 ×, pq 0.9930 / 263 ×,
with 4 and 8 of 1,024 cells.

Not covered: indexes that are trained anew as rows are appended; after a gallery has doubled a rebuild pays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np

from geobatch.engine.gallery.stored import BLOCK, Rows, Stored, Vectors

Kind = Literal["auto", "flat", "ivf", "hnsw", "pq"]

#: Neighbours that recall is measured for, the paper's M; asked for fewer, an index nominates as for so many.
NEIGHBOURS = 15

_PER_CELL = 40  # training rows a centre; FAISS warns below 39
_EDGES = 24  # of a node in the graph


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """How a gallery is stored and searched."""

    kind: Kind = "auto"
    """Kind of index; auto measures and takes the fastest that reaches --recall, or flat (exact) where none pays."""
    recall: float = 0.99
    """Share of the 15 nearest vectors that an index must find, measured on vectors that it does not hold."""
    worthwhile: float = 2.0
    """Speed over flat search that an index must reach, or flat search is kept."""
    flat_below: int = 50_000
    """Galleries with fewer images are flat without a measurement."""
    precision: Literal["auto", "float32", "float16"] = "auto"
    """Of stored vectors; auto: float32 up to 1 GiB, else float16."""
    searched: tuple[str, ...] = ()
    """Views that are searched, of those the encoder has; default: all."""


class Index:
    """A trained FAISS index with the effort it searches at.

    Args:
        kind: "ivf", "hnsw" or "pq".
        faiss_index: over inner products, ids are rows.
        probes: cells or open ends.
        refine: candidates for each neighbour asked for.
    """

    def __init__(self, kind: str, faiss_index: Any, probes: int, refine: int) -> None:
        self.kind, self.faiss = kind, faiss_index
        self.probes, self.refine = probes, refine
        self._apply()

    def candidates(self, queries: Vectors, k: int) -> Rows:
        """(N, refine·k) rows that may be the nearest, for k of at least `NEIGHBOURS`; -1 where the cells hold fewer."""
        self._apply()
        rows: Rows = self.faiss.search(queries, min(self.refine * max(k, NEIGHBOURS), self.faiss.ntotal))[1]
        return rows

    def search(self, queries: Vectors, k: int, stored: Stored) -> tuple[Vectors, Rows]:
        """As `Stored.search`; a query that finds fewer than k is searched exactly."""
        similarities, rows = stored.rank(queries, self.candidates(queries, k), k)
        short = np.flatnonzero((rows < 0).any(axis=1)) if rows.shape[1] == k else np.arange(len(rows))
        if len(short):
            exact = stored.search(np.ascontiguousarray(queries[short]), k)
            if len(short) == len(rows):
                return exact
            similarities[short], rows[short] = exact
        return similarities, rows

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Takes in more rows without moving what it learnt."""
        self.faiss.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(rows, np.int64))

    def _apply(self) -> None:
        if self.kind == "hnsw":
            graph: Any = faiss.downcast_index(self.faiss.index)
            graph.hnsw.efSearch = self.probes
        else:
            faiss.extract_index_ivf(self.faiss).nprobe = self.probes


def cells(rows: int) -> int:
    """Centres for so many rows: the power of two nearest to twice the square root, at most what the rows can train."""
    most = max(int(np.log2(max(rows / _PER_CELL, 2))), 1)
    return int(2 ** min(round(np.log2(2 * np.sqrt(max(rows, 1)))), most))


def untrained(kind: str, rows: int, width: int) -> Any:
    """An empty FAISS index for about `rows` vectors of `width` components."""
    inner = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        graph: Any = faiss.index_factory(width, f"HNSW{_EDGES}_SQ8", inner)
        graph.hnsw.efConstruction = 100
        return faiss.IndexIDMap(graph)
    pieces = next(m for m in range(max(width // 4, 1), 0, -1) if width % m == 0)
    spec = f"IVF{cells(rows)},SQ8" if kind == "ivf" else f"IVF{cells(rows)},PQ{pieces}x4fsr"
    return faiss.index_factory(width, spec, inner)


def trained(kind: str, stored: Stored, rows: int | None = None, seed: int = 0) -> Index:
    """An index that has learnt from a sample of the stored vectors and holds none of them.

    Args:
        rows: how many it will hold, which decides its number of cells; default: all that are stored.
    """
    wanted = len(stored) if rows is None else rows
    made = untrained(kind, wanted, stored.width)
    count = min(len(stored), max(_PER_CELL * cells(wanted), 16_384))
    sample = np.sort(np.random.default_rng(seed).choice(len(stored), count, replace=False)).astype(np.int64)
    vectors = stored.take(sample, searched=True)
    made.train(vectors)
    return Index(kind, made, 1, 2)


def fill(index: Index, stored: Stored, leave: Rows, first: int = 0) -> None:
    """Adds every stored row from `first` on but those of the sorted `leave`, block by block."""
    for start, block in stored.blocks(first, size=BLOCK):
        rows = np.arange(start, start + len(block), dtype=np.int64)
        kept = ~np.isin(rows, leave, assume_unique=True)
        index.add(rows[kept], block[kept])
