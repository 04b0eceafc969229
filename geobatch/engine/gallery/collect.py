"""Tables of vectors become a gallery, the same one in whatever order they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from geobatch.engine.gallery.gallery import Floats, Gallery, Vectors
from geobatch.engine.gallery.record import COLUMNS
from geobatch.errors import UserError
from geobatch.geo.point import valid

_BLOCK = 65_536  # rows added to an index at once


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
