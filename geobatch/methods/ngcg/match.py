"""Vectors of texts or photographs meet the tiles of a gallery; the most similar tile's centre is the place.

The candidates are the `k` most similar tiles, each a place of its own: tiles that overlap (zoom levels of one street, views of
one building) stay apart, as R@k counts them. `score` is the cosine with the best tile, a candidate's `score` and `similarity`
its own, its origin "tile"; `footprint_km`, the width of the ground that the best tile shows, is how finely the answer can be
meant at all. A cosine is no probability, and nothing calibrated is known of this encoder, so the probability columns stay
empty.

The gallery is searched exactly where it is small, else by its index (`geobatch.engine.gallery`), within the row's area where
one is asked for (`geobatch.methods.ngcg.area`).

A gallery whose tiles have no places (`build_gallery --places none`) answers which tile, not where: it is for
evaluate_retrieval.py, and refused here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.engine.gallery import Gallery, Rows, Vectors, load
from geobatch.engine.gallery.members import members
from geobatch.engine.gallery.sharded import open_sharded
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.area import Area, Bounds
from geobatch.schema import CANDIDATES, LOCATED, NEIGHBOURS, SAID
from geobatch.service import Service
from geobatch.stage import Stage, rejected
from geobatch.store import Store, StoreConfig


class Match(Stage):
    """Adds the place, the candidates and the footprint; drops the vector.

    Args:
        gallery: folder of a gallery that the same encoder made.
        k: tiles that are candidates, fewer where the gallery or the area has fewer.
        area: where rows may be found; None: anywhere.
        store: reaches the area's file of points.
        fingerprint: that the gallery must have, so that a run is not made of two; None: any.
        gpu: search on the GPU that this process sees, where FAISS is built for one; parts search on the CPU.
        shards: actors that hold a part of the gallery each; 0: this stage opens all of it.

    Raises:
        UserError: no gallery, one without places, one that changed since the run began or is never cut, or an area that holds
            no tile.
    """

    drops = ("vector",)
    adds = (*LOCATED, SAID[1])

    def __init__(
        self,
        gallery: str,
        k: int = 10,
        area: Area | None = None,
        store: StoreConfig | None = None,
        fingerprint: str | None = None,
        gpu: bool = False,
        shards: int = 0,
    ) -> None:
        self.k = k
        if shards:
            self.parts = members(gallery, shards, fingerprint)
            self.gallery = open_sharded(Path(gallery), self.parts.ask, fingerprint)
        else:
            self.gallery = load(Path(gallery), gpu=gpu, fingerprint=fingerprint)
        placed(self.gallery, gallery)
        self.bounds = Bounds(area, self.gallery, Store(store)) if area is not None and area != Area() else None

    @classmethod
    def services(cls, gallery: str, shards: int = 0, fingerprint: str | None = None, **_: Any) -> list[Service]:
        """What the stage asks, given the arguments of its constructor (`geobatch.service.serving`)."""
        return [members(gallery, shards, fingerprint)] if shards else []

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `vector`, unit vectors (N, D) as lists, and `image_id` where there is an area of each row's own.

        Raises:
            Rejection: a vector is missing or not finite.
            UserError: vectors of another length than the gallery's.
        """
        queries, ids = _queries(table), table["image_id"].to_pylist()
        similarities = np.full((len(ids), self.k), -np.inf, np.float32)
        rows = np.full((len(ids), self.k), -1, np.int64)
        fates: dict[int, Rejection] = {}
        first = 0
        for among in self.bounds.parts(ids) if self.bounds is not None else [[None] * len(ids)]:
            fates |= {row: each for row, each in enumerate(among, first) if isinstance(each, Rejection)}
            asked = [row for row in range(first, first + len(among)) if row not in fates]
            if asked:
                found = self._search(queries[asked], [each for each in among if not isinstance(each, Rejection)])
                width = found[0].shape[1]
                similarities[asked, :width], rows[asked, :width] = found
            fates |= {row: Rejection("no_tile", "the search found none") for row in asked if rows[row, 0] < 0}
            first += len(among)
        for field, column in zip(self.adds, self._columns(similarities, rows), strict=True):
            table = table.append_column(field, column)
        return rejected(table, "match", fates)

    def _search(self, queries: Vectors, within: list[Rows | None]) -> tuple[Vectors, Rows]:
        """Similarities and rows (N, at most k), best first; -inf and -1 where a row's area has fewer."""
        if all(each is None for each in within):
            return self.gallery.search(queries, self.k)
        return self.gallery.search(queries, self.k, among=within)

    def _columns(self, similarities: Vectors, rows: Rows) -> list[pa.Array]:
        """The columns of `adds` for the tiles (N, k) found, -1 for none."""
        none, best = rows[:, 0] < 0, rows[:, 0]
        latitude, longitude = self.gallery.places(rows)
        footprints = self.gallery.footprints(best)
        wide = np.full(len(rows), np.nan, np.float32) if footprints is None else footprints
        there = rows >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
        kept, cosine = rows[there], similarities[there]
        values = {
            "image_id": self.gallery.ids(kept),
            "latitude": pa.array(latitude[there]),
            "longitude": pa.array(longitude[there]),
            "score": pa.array(cosine),
            "count": pa.nulls(len(kept), pa.int32()),
            "similarity": pa.array(cosine),
            "origin": pa.array(["tile"] * len(kept), pa.string()),
        }
        lists = [
            pa.ListArray.from_arrays(
                offsets, _structs(values, kind.value_type), type=kind, mask=pa.array(none)
            )
            for kind in (CANDIDATES, NEIGHBOURS)
        ]  # fmt: skip
        numbers = [latitude[:, 0], longitude[:, 0], similarities[:, 0]]
        return [
            *(pa.array(each, field.type, mask=none) for each, field in zip(numbers, LOCATED, strict=False)),
            *(pa.nulls(len(rows), field.type) for field in LOCATED[len(numbers) : -len(lists)]),
            *lists,
            pa.array(wide, pa.float32(), mask=none | ~np.isfinite(wide)),
        ]


def placed(gallery: Gallery, name: str) -> None:
    """Raises:
    UserError: a tile of the gallery has no place.
    """
    without = int(np.sum(~np.isfinite(gallery.latitude)))
    if without:
        raise UserError(f"{without:,} of the {len(gallery):,} tiles of {name} have no place: such a gallery is for "
                        "evaluate_retrieval.py; build it with --places truth, names, xyz, geotiff or exif")  # fmt: skip


def _structs(values: dict[str, pa.Array], kind: pa.StructType) -> pa.StructArray:
    return pa.StructArray.from_arrays([values[field.name].cast(field.type) for field in kind], fields=list(kind))


def _queries(table: pa.Table) -> NDArray[np.float32]:
    lists = table["vector"].to_numpy()
    if any(each is None or not np.isfinite(each).all() for each in lists):
        raise Rejection("failed", "its vector is missing or not finite")
    return np.stack(lists).astype(np.float32)
