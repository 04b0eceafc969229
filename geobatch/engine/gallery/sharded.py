"""A gallery held by several processes: each looks through its rows, the answers are merged.

Rows are cut into ranges of equal length. A part maps the vectors of its range, and of an index over cells keeps the entries
of its range, cut out of the file as it is opened; cells and effort are the whole index's. So every part looks into the
same cells, all parts together look at the same rows as one process would, and since what they nominate is ranked exactly, the
merged answer is the whole gallery's: equal for flat search, and at least as good for an index, because each part nominates as
many rows as the whole would. Names and places (about 60 bytes an image) stay with whoever asks.

Not covered: a graph (hnsw) is one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from geobatch.engine.gallery.files import open_index, open_places, open_stored
from geobatch.engine.gallery.gallery import Gallery
from geobatch.engine.gallery.index import Index
from geobatch.engine.gallery.record import read_record
from geobatch.engine.gallery.stored import Rows, Vectors, merged
from geobatch.errors import UserError

#: Calls a method of every part and gives their answers in order.
Ask = Callable[..., list[Any]]

_ID_RANGE = 0  # FAISS's InvertedLists::SUBSET_TYPE_ID_RANGE


class Part:
    """The rows of one range.

    Args:
        folder: of the gallery.
        number: of the part, from 0.
        of: how many parts there are.
        threads: that search here.
        fingerprint: of the gallery when the run began, so that a part started again is one of the same; default: any.

    Raises:
        UserError: no gallery, one that is never cut, or one that changed since the run began.
    """

    def __init__(self, folder: str, number: int, of: int, threads: int = 1, fingerprint: str | None = None) -> None:
        record = read_record(Path(folder), fingerprint)
        check_cut(record, of)
        self.stored = open_stored(Path(folder), record)
        self.first, self.last = (record["rows"] * at // of for at in (number, number + 1))
        self.index: Index | None = None
        if record["kind"] != "flat":
            self.index = _cut(open_index(Path(folder), record), self.first, self.last)
        faiss.omp_set_num_threads(threads)

    def search(self, queries: Vectors, k: int, exact: bool) -> tuple[Vectors, Rows]:
        """As `Stored.search` over this part; without `exact` by the index, if there is one, and -1 where it finds fewer."""
        if self.index is None or exact:
            return self.stored.search(queries, k, self.first, self.last)
        return self.stored.rank(queries, self.index.candidates(queries, k), k)

    def among(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.among` over this part."""
        own = rows[np.searchsorted(rows, self.first) : np.searchsorted(rows, self.last)]
        return self.stored.search_rows(queries, own, k)

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.rank` over this part: what lies elsewhere is moved behind, and left out where no query has any."""
        here = (candidates >= self.first) & (candidates < self.last)
        order = np.argsort(~here, axis=1, kind="stable")[:, : int(here.sum(axis=1).max(initial=0))]
        own = np.take_along_axis(np.where(here, candidates, -1), order, 1)
        return self.stored.rank(queries, own, k)

    def take(self, rows: Rows) -> tuple[Rows, Vectors]:
        """Positions in `rows` (n,) of those that lie here, and their vectors."""
        at = np.flatnonzero((rows >= self.first) & (rows < self.last))
        return at, self.stored.take(rows[at])


class Sharded:
    """A finder that asks parts.

    Args:
        ask: calls a method of every part.
        dimension: of a whole vector.
        indexed: whether the parts have an index.
    """

    def __init__(self, ask: Ask, dimension: int, indexed: bool) -> None:
        self.ask, self.dimension, self.indexed = ask, dimension, indexed

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.search`."""
        similarities, rows = merged(self.ask("search", queries, k, False), k)
        short = np.flatnonzero((rows < 0).any(axis=1)) if rows.shape[1] == k else np.arange(len(rows))
        if len(short):
            exact = merged(self.ask("search", np.ascontiguousarray(queries[short]), k, True), k)
            if len(short) == len(rows):
                return exact
            similarities[short], rows[short] = exact
        return similarities, rows

    def among(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.among`."""
        return merged(self.ask("among", queries, rows, k), k)

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.rank`."""
        return merged(self.ask("rank", queries, candidates, k), min(k, candidates.shape[1]))

    def take(self, rows: Rows) -> Vectors:
        """As `Finder.take`."""
        found = np.zeros((len(rows), self.dimension), np.float32)
        for at, vectors in self.ask("take", rows):
            found[at] = vectors
        return found


def parts(folder: str, shards: int, threads: int, fingerprint: str | None = None) -> list[dict[str, Any]]:
    """Arguments of each `Part`."""
    alike = {"folder": folder, "of": shards, "threads": threads, "fingerprint": fingerprint}
    return [{**alike, "number": number} for number in range(shards)]


def open_sharded(folder: Path, ask: Ask, fingerprint: str | None = None) -> Gallery:
    """The gallery whose parts `ask` reaches; only names and places are read here.

    Raises:
        UserError: no gallery, or one that has another fingerprint than was given.
    """
    record = read_record(folder, fingerprint)
    return Gallery(Sharded(ask, record["dimension"], record["kind"] != "flat"), open_places(folder, record), record)


def check_cut(record: dict[str, Any], shards: int) -> None:
    """Raises:
    UserError: a graph cannot be cut, nor a gallery into more parts than rows.
    """
    if record["kind"] == "hnsw" and shards > 1:
        raise UserError("an hnsw index is one piece; build the gallery with --indexing.kind pq or ivf, or ask for no shards")
    if shards > record["rows"]:
        raise UserError(f"{record['rows']} images make no {shards} shards; ask for fewer")


def _cut(index: Index, first: int, last: int) -> Index:
    """The entries of rows first … last of an index over cells."""
    whole = index.faiss
    if first == 0 and last == whole.ntotal:
        return index
    if index.kind == "ivf":  # mapped: only what is kept comes into memory
        kept: Any = faiss.ArrayInvertedLists(whole.nlist, whole.code_size)
        whole.invlists.copy_subset_to(kept, _ID_RANGE, first, last)
        kept.this.disown()
        whole.replace_invlists(kept, True)
        whole.ntotal = last - first
    else:  # lists of 32 rows interleaved are not mapped, and not copied in part
        whole.remove_ids(faiss.IDSelectorNot(faiss.IDSelectorRange(first, last)))
    return index
