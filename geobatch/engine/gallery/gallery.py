"""An opened gallery, and the three questions asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from geobatch.engine.gallery.among import Areas
from geobatch.engine.gallery.exclude import codes, dropping, search_without
from geobatch.engine.gallery.files import broken, late, open_places, open_stored, stamp
from geobatch.engine.gallery.finder import Finder, Local
from geobatch.engine.gallery.gpu import on_gpu
from geobatch.engine.gallery.ground import Floats, Ground
from geobatch.engine.gallery.record import FOOTPRINT, GROUP, INDEX, PLACES, RECORD, columns_of, read_record, write_record
from geobatch.engine.gallery.stored import Rows, Vectors
from geobatch.errors import UserError


class Gallery:
    """Vectors, the places of their rows, and their names. Row numbers are int64 throughout; row -1 is none.

    Args:
        finder: finds rows by vector and vectors by row.
        places: columns image_id, latitude, longitude (NaN where a row has none), group and footprint_km where known.
        record: what `gallery.json` says; "kind", "fingerprint", "dimension", "views" and "searched" are always there.
    """

    def __init__(self, finder: Finder, places: pa.Table, record: dict[str, Any]) -> None:
        self._finder = finder
        self._places = places
        self._ids = places["image_id"].combine_chunks()
        self.record = record
        self.latitude: Floats = places["latitude"].to_numpy()
        self.longitude: Floats = places["longitude"].to_numpy()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def dimension(self) -> int:
        """Length of a vector, all views together."""
        return int(self.record["dimension"])

    @property
    def views(self) -> dict[str, int]:
        """Names and sizes of the views that a vector is made of, in order."""
        return dict(self.record["views"])

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, of names, places, groups, footprints and vectors, and of the index where it decides what is found."""
        return str(self.record["fingerprint"])

    @property
    def grouped(self) -> bool:
        """Whether rows have groups."""
        return GROUP in self._places.column_names

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._ids.to_pylist())}

    @cached_property
    def _groups(self) -> tuple[dict[str, int], Rows]:
        """Numbers of the groups' names, and of each row's group."""
        if not self.grouped:
            raise UserError("this gallery knows no groups; build it with --groups")
        encoded = pc.dictionary_encode(self._places[GROUP].combine_chunks())
        names = {name: code for code, name in enumerate(encoded.dictionary.to_pylist())}
        return names, pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)

    @cached_property
    def _ground(self) -> Ground:
        return Ground(self.latitude, self.longitude)

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        exclude_ids: Sequence[str | None] | None = None,
        exclude_groups: Sequence[str | None] | None = None,
        exclude_above: float | None = None,
        among: Sequence[Rows | None] | None = None,
    ) -> tuple[Vectors, Rows]:
        """The k rows most similar to each vector in the searched views, best first.

        Args:
            vectors: (N, D) unit vectors, all views.
            k: at least 1.
            exclude_ids: one image_id (or None) for each vector that must not be among its rows: itself, in training.
            exclude_groups: one group (or None) for each vector none of whose rows must be among its rows.
            exclude_above: rows at least so similar are taken for the same scene and left out.
            among: for each vector the rows it may find, None for all (`geobatch.engine.gallery.among`). Exact, but where
                a tenth of the gallery or more is left and it has an index: then as exact as that. Vectors that share an area
                should pass the same array.

        Returns:
            similarities (N, k) float32, the mean of the searched views' cosines, and rows (N, k); fewer columns than k where
            the gallery has fewer rows to give. Where groups, duplicates or its area leave a vector fewer rows than others, the
            rest are similarity -inf and row -1.

        Raises:
            UserError: vectors of another length than the gallery's, or groups that the gallery does not know.
            ValueError: `among` is not as long as the vectors, or has rows that there are not.
        """
        queries = self._queries(vectors)
        areas = None if among is None else Areas(among, len(self))
        if areas is not None and len(areas.of) != len(queries):
            raise ValueError(f"{len(areas.of)} sets of rows to search among for {len(queries)} vectors")

        def ask(at: NDArray[np.intp], width: int) -> tuple[Vectors, Rows]:
            some = queries if len(at) == len(queries) else np.ascontiguousarray(queries[at])
            return self._finder.search(some, width) if areas is None else areas.search(self._finder, some, at, width)

        if exclude_ids is None and exclude_groups is None and exclude_above is None:
            return ask(np.arange(len(queries)), min(k, len(self)))
        own = None if exclude_ids is None else codes(exclude_ids, self._row_of)
        group, groups = None, None
        if exclude_groups is not None:
            names, groups = self._groups
            group = codes(exclude_groups, names)
        only_ids = exclude_groups is None and exclude_above is None
        width = min(k, len(self) - 1 if only_ids else len(self))
        drop = dropping(own, group, groups, exclude_above)
        most = len(self) if areas is None else areas.size
        return search_without(ask, drop, len(queries), width, most, 1 if only_ids else k)

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int = 1) -> tuple[Floats, Rows]:
        """The k rows nearest on the sphere to each of N places in degrees: km (N, k) and rows (N, k), nearest first; fewer
        columns where fewer rows have a place.
        """
        return self._ground.near(latitude, longitude, k)

    def within(self, latitude: ArrayLike, longitude: ArrayLike, radius_km: ArrayLike) -> list[Rows]:
        """The rows, rising, at most `radius_km` (one, or N) from each of N places in degrees; none for a place that is NaN."""
        return self._ground.within(latitude, longitude, radius_km)

    def inside(self, south: float, west: float, north: float, east: float) -> Rows:
        """The rows, rising, in a box of degrees, edges included; one with west > east crosses the antimeridian.

        Raises:
            ValueError: south > north, or numbers that are no degrees.
        """
        return self._ground.inside(south, west, north, east)

    @property
    def placed(self) -> bool:
        """Whether every row has a place; a gallery made to be retrieved from only may have rows without."""
        return len(self._ground.rows) == len(self)

    def footprints(self, rows: Rows) -> Vectors | None:
        """Sides in km of the ground that the rows show, float32 in their shape, NaN where unknown or row -1; None where the
        gallery knows none.
        """
        if FOOTPRINT not in self._places.column_names:
            return None
        return np.where(rows < 0, np.float32(np.nan), self._footprints[rows])

    @cached_property
    def _footprints(self) -> Vectors:
        return np.asarray(self._places[FOOTPRINT].to_numpy(), np.float32)

    def groups_of(self, names: Sequence[str | None]) -> list[str | None] | None:
        """The group of each image_id, None where it is not in the gallery or in no group; None where the gallery knows none."""
        if not self.grouped:
            return None
        rows = codes(names, self._row_of)
        groups: list[str | None] = self._places[GROUP].take(pa.array(rows, mask=rows < 0)).to_pylist()
        return groups

    def places(self, rows: Rows) -> tuple[Floats, Floats]:
        """Latitudes and longitudes in degrees, in the shape of `rows`; NaN for row -1."""
        missing = rows < 0
        return np.where(missing, np.nan, self.latitude[rows]), np.where(missing, np.nan, self.longitude[rows])

    def ids(self, rows: Rows) -> pa.Array:
        """The image_ids of the rows, flattened; null for row -1."""
        flat = rows.ravel()
        return self._ids.take(pa.array(flat, mask=flat < 0))

    def vectors(self, rows: Rows) -> Vectors:
        """The rows' whole vectors, `(*rows.shape, D)`; zeros for row -1."""
        return self._finder.take(rows.ravel()).reshape(*rows.shape, self.dimension)

    def save(self, folder: Path) -> None:
        """Writes a small flat gallery's files, the record last.

        Raises:
            UserError: it is none: only `build` writes what does not fit into memory.
        """
        if not isinstance(self._finder, Local) or self.record["kind"] != "flat":
            raise UserError("only a flat gallery is saved from memory; build this one in its folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RECORD, INDEX, PLACES):  # new files: readers of the old ones still map them
            (folder / name).unlink(missing_ok=True)
        index = faiss.IndexFlatIP(self.dimension)
        for _, block in self._finder.stored.blocks():
            index.add(block)
        faiss.write_index(index, str(folder / INDEX))
        pq.write_table(self._places, folder / PLACES)
        segment = {"rows": len(self), "places": PLACES, "vectors": INDEX}
        write_record(folder, {**self.record, "segments": [segment]})

    def _queries(self, vectors: ArrayLike) -> Vectors:
        """The searched columns, scaled so that their inner product is the mean of the searched views' cosines."""
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UserError(
                f"queries of shape {queries.shape} for a gallery of {self.dimension}-d vectors; "
                "use the encoder that built the gallery, or build it again"
            )
        if len(self.record["searched"]) == len(self.views):
            return queries
        columns = columns_of(self.views, self.record["searched"])
        scale = np.float32(len(self.views) / len(columns))
        return np.concatenate([queries[:, each] for each in columns], axis=1) * scale


def load(folder: Path, searched: Sequence[str] | None = None, *, gpu: bool = False, fingerprint: str | None = None) -> Gallery:
    """Opens a gallery's folder.

    Args:
        searched: views to search, of a flat gallery; default: what the record says.
        gpu: search on the GPU that this process sees, where FAISS is built for one.
        fingerprint: that it must have; default: any.

    Raises:
        UserError: it is none, it is not finished, its files do not belong together, its index searches other views, or it has
            another fingerprint.
    """
    record = read_record(folder, fingerprint)
    if searched is not None and list(searched) != record["searched"]:
        if record["kind"] != "flat":
            raise UserError(f"the index of {folder} searches {', '.join(record['searched'])}; build it again to search others")
        record = {**record, "searched": list(searched)}
    stored, places = open_stored(folder, record), open_places(folder, record)
    if record["kind"] == "flat":
        local = Local(stored)
        return Gallery(on_gpu(local) if gpu else local, places, record)
    index = folder / record["index"]
    if not index.is_file() or index.stat().st_size != record["index_bytes"]:
        raise broken(folder, ValueError(f"{record['index']} is gone or cut short"))
    local = Local(stored, record["kind"], partial(late, folder, record, stamp(index)))
    return Gallery(on_gpu(local) if gpu else local, places, record)
