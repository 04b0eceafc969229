"""An opened gallery, and the three questions asked of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from geobatch.engine.gallery.record import INDEX, PLACES, RECORD
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.geo.point import unit_vectors

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

_SPARE = 16  # more rows than asked for that `near` ranks exactly


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
