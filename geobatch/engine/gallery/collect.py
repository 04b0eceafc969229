"""Tables of vectors become a gallery in memory, the same one in whatever order they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.engine.gallery.finder import Local
from geobatch.engine.gallery.gallery import Gallery
from geobatch.engine.gallery.ground import Floats
from geobatch.engine.gallery.record import COLUMNS, FOOTPRINT, GROUP, OPTIONAL
from geobatch.engine.gallery.stored import BLOCK, Rows, Stored, Vectors
from geobatch.errors import UserError
from geobatch.geo.point import valid

MIXED = "vectors of different lengths: parts of two encoders are mixed; build the gallery again"
NOTHING = "no image has both a vector and a place; check the archive, its truth, and where --places looks"


@dataclass(frozen=True)
class Part:
    """The living rows of one table.

    Args:
        ids: (n,) image_ids.
        where: (n, 2) degrees.
        more: (n,) values or nulls of each of `OPTIONAL` that the table says anything of.
        matrix: (n, D).
    """

    ids: pa.Array
    where: Floats
    more: dict[str, pa.Array]
    matrix: Vectors


def collect(tables: Iterable[pa.Table], views: dict[str, int] | None = None) -> Gallery:
    """A flat gallery of the living rows of GALLERY tables; rows without a vector were rejected and are left
    out.

    Args:
        views: names and sizes of the views that vectors are made of, in order; default: one, "image".

    Raises:
        UserError: no row has a vector, vectors of two lengths or not of unit length, an impossible place, or one image_id
            twice.
    """
    parts = list(living(tables))
    if not parts:
        raise UserError(NOTHING)
    places, order = ordered(parts)
    matrix = np.concatenate([part.matrix for part in parts])[order]
    parts.clear()
    digest = hashlib.sha256()
    for start in range(0, len(matrix), BLOCK):
        digest.update(matrix[start : start + BLOCK].tobytes())
    record = described("flat", len(matrix), matrix.shape[1], views)
    return Gallery(Local(Stored([matrix])), places, {**record, "fingerprint": signed(digest, places)})


def living(tables: Iterable[pa.Table]) -> Iterator[Part]:
    """The rows with vectors, checked; nothing for a table without any. A row without latitude and longitude has no place.

    Raises:
        UserError: vectors of two lengths or not of unit length, or an impossible place.
    """
    dimension = None
    for table in tables:
        names = [*COLUMNS, *(name for name in OPTIONAL if name in table.column_names)]
        rows = table.select(names).filter(pc.is_valid(table["vector"]))
        if not len(rows):
            continue
        more = {name: pa.concat_arrays(rows[name].cast(OPTIONAL[name]).chunks) for name in names if name in OPTIONAL}
        if FOOTPRINT in more and more[FOOTPRINT].null_count == len(rows):
            del more[FOOTPRINT]  # the table has the column whether or not anything says a size
        where = np.stack([rows["latitude"].to_numpy(), rows["longitude"].to_numpy()], axis=1)
        part = Part(pa.concat_arrays(rows["image_id"].cast(pa.string()).chunks), where, more, _matrix(rows["vector"]))
        dimension = part.matrix.shape[1] if dimension is None else dimension
        if part.matrix.shape[1] != dimension:
            raise UserError(MIXED)
        _check(part)
        yield part


def ordered(parts: list[Part]) -> tuple[pa.Table, Rows]:
    """Names and places sorted by name, and for each the position it came from.

    Raises:
        UserError: one image_id twice.
    """
    ids = pa.concat_arrays([part.ids for part in parts])
    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ids, where = ids.take(pa.array(order)), np.concatenate([part.where for part in parts])[order]
    twice = pc.equal(ids[1:], ids[:-1])
    if pc.any(twice).as_py():
        raise UserError(f"{ids[:-1].filter(twice)[0]} is in the gallery twice; image ids must be unique")
    columns = {"image_id": ids, "latitude": where[:, 0], "longitude": where[:, 1]}
    for name, kind in OPTIONAL.items():
        if any(name in part.more for part in parts):
            values = [part.more.get(name, pa.nulls(len(part.ids), kind)) for part in parts]
            columns[name] = pa.concat_arrays(values).take(pa.array(order))
    return pa.table(columns), order


def described(kind: str, rows: int, dimension: int, views: dict[str, int] | None) -> dict[str, Any]:
    """The record's first fields.

    Raises:
        UserError: views that do not add up to the vectors' length.
    """
    views = {"image": dimension} if views is None else dict(views)
    if sum(views.values()) != dimension:
        raise UserError(f"views of {views} make no vectors of {dimension} floats; build the gallery with its own encoder")
    return {"kind": kind, "rows": rows, "dimension": dimension, "views": views, "searched": list(views)}


def signed(digest: Any, places: pa.Table) -> str:
    """The fingerprint: a digest of the vectors, continued over names, places, groups and footprints."""
    digest.update("\0".join(places["image_id"].to_pylist()).encode())
    where = np.stack([places["latitude"].to_numpy(), places["longitude"].to_numpy()], axis=1)
    digest.update(np.ascontiguousarray(where).tobytes())
    if GROUP in places.column_names:
        digest.update(json.dumps(places[GROUP].to_pylist()).encode())
    if FOOTPRINT in places.column_names:
        digest.update(b"footprint_km" + np.asarray(pc.fill_null(places[FOOTPRINT], -1.0).to_numpy(), np.float32).tobytes())
    return str(digest.hexdigest())


def _matrix(column: pa.ChunkedArray) -> Vectors:
    """A list column without nulls as (N, D) float32."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # more than one chunk may be left where offsets would overflow
        return np.concatenate([_matrix(pa.chunked_array([chunk])) for chunk in lists.chunks])
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if len(flat) % len(lists) or not (lists.value_lengths().to_numpy() == len(flat) // len(lists)).all():
        raise UserError(MIXED)
    return np.asarray(flat, np.float32).reshape(len(lists), -1)


def _check(part: Part) -> None:
    good = valid(part.where[:, 0], part.where[:, 1]) | np.isnan(part.where).all(axis=1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise UserError(f"{part.ids[row]} lies at {part.where[row].tolist()}, which is no place on Earth; correct its truth")
    length = np.linalg.norm(part.matrix, axis=1)
    if not (np.abs(length - 1) < 1e-2).all():
        raise UserError(
            f"vectors of length {length.min():.3f} to {length.max():.3f}; a gallery holds unit vectors: normalise them"
        )
