"""Vectors that know their place, and the three questions asked of them: what looks like this, what lies
near here, where is row i.

A gallery on disk is a folder: `gallery.json` (its record), `index.faiss`, `gallery.parquet` (image_id,
latitude, longitude; row i belongs to vector i). Rows are sorted by image_id, so the same images give the
same files and the same fingerprint in whatever order their parts were written. The index is opened
memory-mapped: actors of one machine share its pages, and opening 100,000 × 512 takes 2 ms.

Search is exact: one matrix product a batch. 2,000 queries of 128 floats against 30,000 rows take 0.3 s on
two cores; 4 million rows of 2304 floats (the paper's gallery, 38 GB) need another index, whose kind
`gallery.json` will name. `near` asks FAISS too, for the nearest of unit vectors in space, then ranks a few
more than asked for in float64, because float32 cannot tell apart places within 2 km of each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.geo.point import unit_vectors, valid

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

RECORD, INDEX, PLACES = "gallery.json", "index.faiss", "gallery.parquet"
COLUMNS = ["image_id", "latitude", "longitude", "vector"]
_SPARE = 16  # more rows than asked for that `near` ranks exactly
_BLOCK = 65_536  # rows added to an index at once


class Gallery:
    """An index, the places of its rows, and their names. Row numbers are int64 throughout.

    Args:
        index: FAISS index over inner products; row i of it belongs to `places[i]`.
        places: columns image_id, latitude, longitude.
        record: what `gallery.json` says; "kind" and "fingerprint" are always there.
    """

    def __init__(self, index: Any, places: pa.Table, record: dict[str, Any]) -> None:
        self._index = index
        self._places = places
        self.record = record
        self.latitude: Floats = places["latitude"].to_numpy()
        self.longitude: Floats = places["longitude"].to_numpy()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, of names, places and vectors."""
        return str(self.record["fingerprint"])

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._places["image_id"].to_pylist())}

    @cached_property
    def _space(self) -> Any:
        index = faiss.IndexFlatL2(3)
        index.add(unit_vectors(self.latitude, self.longitude).astype(np.float32))
        return index

    def search(self, vectors: ArrayLike, k: int, exclude_ids: Sequence[str | None] | None = None) -> tuple[Vectors, Rows]:
        """The k rows with the largest inner product to each vector, best first.

        Args:
            vectors: (N, D) unit vectors.
            k: at least 1.
            exclude_ids: one image_id (or None) for each vector that must not be among its rows: itself, in training.

        Returns:
            similarities (N, k) float32 and rows (N, k); fewer columns than k where the gallery has fewer
            rows to give.

        Raises:
            UserError: vectors of another length than the gallery's.
        """
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UserError(
                f"queries of shape {queries.shape} for a gallery of {self.dimension}-d vectors; "
                "use the encoder that built the gallery, or build it again"
            )
        if exclude_ids is None:
            similarities, rows = self._index.search(queries, min(k, len(self)))
            return similarities, rows
        width = min(k, len(self) - 1)
        similarities, rows = self._index.search(queries, width + 1)
        own = np.array([-1 if name is None else self._row_of.get(name, -1) for name in exclude_ids], np.int64)
        # A stable sort moves the row itself, if it is there, to the end and leaves the others in order.
        kept = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :width]
        return np.take_along_axis(similarities, kept, 1), np.take_along_axis(rows, kept, 1)

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int = 1) -> tuple[Floats, Rows]:
        """The k rows nearest on the sphere to each of N places in degrees: km (N, k) and rows (N, k),
        nearest first.
        """
        lat, lon = np.atleast_1d(np.asarray(latitude, np.float64)), np.atleast_1d(np.asarray(longitude, np.float64))
        width = min(k, len(self))
        _, rows = self._space.search(unit_vectors(lat, lon).astype(np.float32), min(k + _SPARE, len(self)))
        km = haversine_km(lat[:, None], lon[:, None], self.latitude[rows], self.longitude[rows])
        order = np.argsort(km, axis=1, kind="stable")[:, :width]
        return np.take_along_axis(km, order, 1), np.take_along_axis(rows, order, 1)

    def places(self, rows: Rows) -> tuple[Floats, Floats]:
        """Latitudes and longitudes in degrees, in the shape of `rows`."""
        return self.latitude[rows], self.longitude[rows]

    def ids(self, rows: Rows) -> pa.Array:
        """The image_ids of the rows, flattened."""
        return self._places["image_id"].combine_chunks().take(pa.array(rows.ravel()))

    def vectors(self, rows: Rows) -> Vectors:
        """The rows' vectors, `(*rows.shape, D)`."""
        flat = np.ascontiguousarray(rows.ravel(), np.int64)
        found: Vectors = self._index.reconstruct_batch(flat).reshape(*rows.shape, self.dimension)
        return found

    def save(self, folder: Path) -> None:
        """Writes the three files, the record last."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        faiss.write_index(self._index, str(folder / INDEX))
        pq.write_table(self._places, folder / PLACES)
        (folder / RECORD).write_text(json.dumps(self.record, indent=1) + "\n")


def load(folder: Path) -> Gallery:
    """Opens a gallery's folder.

    Raises:
        UserError: it is none, it is not finished, or its files do not belong together.
    """
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} is no gallery (it has no {RECORD}); make one with jobs/build_gallery.py")
    record = json.loads((folder / RECORD).read_text())
    try:
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
        places = pq.read_table(folder / PLACES)
    except (OSError, RuntimeError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder} does not open ({str(error).splitlines()[0][:200]}); build the gallery again") from error
    if index.ntotal != len(places) or len(places) != record.get("rows") or index.d != record.get("dimension"):
        raise UserError(
            f"{folder} has {index.ntotal} vectors, {len(places)} places and a record of {record.get('rows')}; "
            "build the gallery again"
        )
    return Gallery(index, places, record)


def collect(tables: Iterable[pa.Table]) -> Gallery:
    """A flat gallery of the living rows of GALLERY tables; rows without a vector were rejected and are left
    out.

    Raises:
        UserError: no row has a vector, vectors of two lengths or not of unit length, an impossible place, or one image_id
            twice.
    """
    names: list[pa.Array] = []
    places: list[Floats] = []
    blocks: list[Vectors] = []
    for table in tables:
        living = table.select(COLUMNS).filter(pc.is_valid(table["vector"]))
        if not len(living):
            continue
        names.extend(living["image_id"].cast(pa.string()).chunks)
        places.append(np.stack([living["latitude"].to_numpy(), living["longitude"].to_numpy()], axis=1))
        blocks.append(_matrix(living["vector"]))
        if blocks[-1].shape[1] != blocks[0].shape[1]:
            raise UserError("vectors of different lengths: parts of two encoders are mixed; build the gallery again")
    if not blocks:
        raise UserError("no image has both a vector and a place; check the archive and its truth")
    ids, where, matrix = pa.concat_arrays(names), np.concatenate(places), np.concatenate(blocks)
    blocks.clear()
    order = pc.sort_indices(ids).to_numpy()
    ids, where = ids.take(pa.array(order)), where[order]
    _check(ids, where, matrix)
    index, digest = faiss.IndexFlatIP(matrix.shape[1]), hashlib.sha256()
    for start in range(0, len(order), _BLOCK):
        block = np.ascontiguousarray(matrix[order[start : start + _BLOCK]])
        index.add(block)
        digest.update(block.tobytes())
    digest.update("\0".join(ids.to_pylist()).encode())
    digest.update(np.ascontiguousarray(where).tobytes())
    record = {
        "kind": "flat",
        "rows": len(order),
        "dimension": int(matrix.shape[1]),
        "fingerprint": digest.hexdigest(),
    }
    return Gallery(index, pa.table({"image_id": ids, "latitude": where[:, 0], "longitude": where[:, 1]}), record)


def build(folder: Path, tables: Iterable[pa.Table] | None = None) -> Gallery:
    """Collects a gallery and saves it in `folder`.

    Args:
        folder: where the gallery's three files go.
        tables: tables with GALLERY's columns; without, the Parquet parts in `folder/places`.

    Raises:
        UserError: as `collect`.
    """
    gallery = collect(_parts(folder / "places") if tables is None else tables)
    gallery.save(folder)
    return gallery


def _parts(folder: Path) -> Iterator[pa.Table]:
    if not any(folder.glob("*.parquet")):
        raise UserError(f"{folder} holds no Parquet parts; run jobs/build_gallery.py first")
    for batch in ds.dataset(folder, format="parquet").to_batches(columns=COLUMNS):
        yield pa.Table.from_batches([batch])


def _matrix(column: pa.ChunkedArray) -> Vectors:
    """A list column without nulls as (N, D) float32."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # more than one chunk may be left where offsets would overflow
        return np.concatenate([_matrix(pa.chunked_array([chunk])) for chunk in lists.chunks])
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if len(flat) % len(lists) or not (lists.value_lengths().to_numpy() == len(flat) // len(lists)).all():
        raise UserError("vectors of different lengths: parts of two encoders are mixed; build the gallery again")
    return np.asarray(flat, np.float32).reshape(len(lists), -1)


def _check(ids: pa.Array, where: Floats, matrix: Vectors) -> None:
    if not valid(where[:, 0], where[:, 1]).all():
        row = int(np.flatnonzero(~valid(where[:, 0], where[:, 1]))[0])
        raise UserError(f"{ids[row]} lies at {where[row].tolist()}, which is no place on Earth; correct its truth")
    length = np.linalg.norm(matrix, axis=1)
    if not (np.abs(length - 1) < 1e-2).all():
        raise UserError(
            f"vectors of length {length.min():.3f} to {length.max():.3f}; a gallery holds unit vectors: normalise them"
        )
    twice = pc.equal(ids[1:], ids[:-1])
    if pc.any(twice).as_py():
        raise UserError(f"{ids[:-1].filter(twice)[0]} is in the gallery twice; image ids must be unique")
