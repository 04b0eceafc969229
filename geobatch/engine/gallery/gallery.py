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

from geobatch.engine.gallery.exclude import codes, dropping, search_without
from geobatch.engine.gallery.finder import Finder, Local
from geobatch.engine.gallery.gpu import on_gpu
from geobatch.engine.gallery.index import Index
from geobatch.engine.gallery.record import GROUP, INDEX, PLACES, RECORD, changed, columns_of, read_record, write_record
from geobatch.engine.gallery.stored import Halves, Rows, Stored, Vectors
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.geo.point import unit_vectors

Floats = NDArray[np.float64]

_SPARE = 4  # more rows than asked for that `near` ranks by haversine: equal distances in space may differ in the last digit


class Gallery:
    """Vectors, the places of their rows, and their names. Row numbers are int64 throughout; row -1 is none.

    Args:
        finder: finds rows by vector and vectors by row.
        places: columns image_id, latitude, longitude, and group where the gallery has groups.
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
        """SHA-256, hex, of names, places, groups and vectors, and of the index where it decides what is found."""
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
    def _space(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(unit_vectors(self.latitude, self.longitude))

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        exclude_ids: Sequence[str | None] | None = None,
        exclude_groups: Sequence[str | None] | None = None,
        exclude_above: float | None = None,
    ) -> tuple[Vectors, Rows]:
        """The k rows most similar to each vector in the searched views, best first.

        Args:
            vectors: (N, D) unit vectors, all views.
            k: at least 1.
            exclude_ids: one image_id (or None) for each vector that must not be among its rows: itself, in training.
            exclude_groups: one group (or None) for each vector none of whose rows must be among its rows.
            exclude_above: rows at least so similar are taken for the same scene and left out.

        Returns:
            similarities (N, k) float32, the mean of the searched views' cosines, and rows (N, k); fewer columns than k where
            the gallery has fewer rows to give. Where groups or duplicates leave a vector fewer rows than others, the rest are
            similarity -inf and row -1.

        Raises:
            UserError: vectors of another length than the gallery's, or groups that the gallery does not know.
        """
        queries = self._queries(vectors)
        if exclude_ids is None and exclude_groups is None and exclude_above is None:
            return self._finder.search(queries, min(k, len(self)))
        own = None if exclude_ids is None else codes(exclude_ids, self._row_of)
        group, groups = None, None
        if exclude_groups is not None:
            names, groups = self._groups
            group = codes(exclude_groups, names)
        only_ids = exclude_groups is None and exclude_above is None
        width = min(k, len(self) - 1 if only_ids else len(self))
        drop = dropping(own, group, groups, exclude_above)
        return search_without(self._finder.search, drop, queries, width, len(self), 1 if only_ids else k)

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int = 1) -> tuple[Floats, Rows]:
        """The k rows nearest on the sphere to each of N places in degrees: km (N, k) and rows (N, k),
        nearest first.
        """
        lat, lon = np.atleast_1d(np.asarray(latitude, np.float64)), np.atleast_1d(np.asarray(longitude, np.float64))
        width = min(k, len(self))
        wide = list(range(1, min(k + _SPARE, len(self)) + 1))
        rows = self._space.query(unit_vectors(lat, lon), k=wide)[1].astype(np.int64)
        km = haversine_km(lat[:, None], lon[:, None], self.latitude[rows], self.longitude[rows])
        order = np.lexsort((rows, km), axis=1)[:, :width]
        return np.take_along_axis(km, order, 1), np.take_along_axis(rows, order, 1)

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
        raise _broken(folder, ValueError(f"{record['index']} is gone or cut short"))
    local = Local(stored, record["kind"], partial(_late, folder, record, _stamp(index)))
    return Gallery(on_gpu(local) if gpu else local, places, record)


def open_stored(folder: Path, record: dict[str, Any]) -> Stored:
    """The vectors, memory-mapped.

    Raises:
        UserError: a file is missing, damaged, or holds other numbers than the record says.
    """
    try:
        arrays, owners = zip(*[_mapped(folder / segment["vectors"]) for segment in record["segments"]], strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise _broken(folder, error) from error
    count = sum(len(array) for array in arrays)
    if count != record.get("rows") or any(array.shape[1] != record.get("dimension") for array in arrays):
        places = sum(pq.read_metadata(folder / segment["places"]).num_rows for segment in record["segments"])
        raise UserError(
            f"{folder} has {count} vectors, {places} places and a record of {record.get('rows')}; build the gallery again"
        )
    return Stored(arrays, columns_of(record["views"], record["searched"]), owners)


def open_places(folder: Path, record: dict[str, Any]) -> pa.Table:
    """Names and places of all rows.

    Raises:
        UserError: as `open_stored`.
    """
    try:
        tables = [pq.read_table(folder / segment["places"]) for segment in record["segments"]]
    except (OSError, pa.ArrowInvalid) as error:
        raise _broken(folder, error) from error
    places = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if len(places) != record["rows"]:
        raise UserError(f"{folder} has {len(places)} places and a record of {record['rows']}; build the gallery again")
    return places


def open_index(folder: Path, record: dict[str, Any], mapped: bool = True) -> Index:
    """The index that nominates rows, of a gallery that is not flat; one over cells is mapped unless it is to be changed.

    Raises:
        UserError: as `open_stored`.
    """
    try:
        flags = faiss.IO_FLAG_MMAP if mapped and record["kind"] == "ivf" else 0
        index = faiss.read_index(str(folder / record["index"]), flags)
    except (OSError, RuntimeError) as error:
        raise _broken(folder, error) from error
    if index.ntotal != record["rows"]:
        raise UserError(f"the index of {folder} has {index.ntotal} of {record['rows']} rows; build the gallery again")
    return Index(record["kind"], index, record["probes"], record["refine"])


def _late(folder: Path, record: dict[str, Any], stamp: tuple[int, int]) -> Index:
    """The index at the first search, unless a build has put another one in its place."""
    path = folder / record["index"]
    if not path.is_file() or _stamp(path) != stamp:
        raise changed(folder)
    return open_index(folder, record)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _mapped(path: Path) -> tuple[Halves, Any]:
    """(n, D) of a flat FAISS index or an .npy file, and what owns that memory; nothing is read yet."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r"), None
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d), index


def _broken(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} does not open ({str(error).splitlines()[0][:200]}); build the gallery again")
