"""The files of a gallery's folder, opened: vectors and index are mapped, names and places read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.engine.gallery.index import Index
from geobatch.engine.gallery.record import changed, columns_of
from geobatch.engine.gallery.stored import Halves, Stored
from geobatch.errors import UserError


def open_stored(folder: Path, record: dict[str, Any]) -> Stored:
    """The vectors, memory-mapped.

    Raises:
        UserError: a file is missing, damaged, or holds other numbers than the record says.
    """
    try:
        arrays, owners = zip(*[_mapped(folder / segment["vectors"]) for segment in record["segments"]], strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise broken(folder, error) from error
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
        raise broken(folder, error) from error
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
        raise broken(folder, error) from error
    if index.ntotal != record["rows"]:
        raise UserError(f"the index of {folder} has {index.ntotal} of {record['rows']} rows; build the gallery again")
    return Index(record["kind"], index, record["probes"], record["refine"])


def late(folder: Path, record: dict[str, Any], was: tuple[int, int]) -> Index:
    """The index at the first search, unless a build has put another one in its place."""
    path = folder / record["index"]
    if not path.is_file() or stamp(path) != was:
        raise changed(folder)
    return open_index(folder, record)


def stamp(path: Path) -> tuple[int, int]:
    """What tells a file from one that took its place."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _mapped(path: Path) -> tuple[Halves, Any]:
    """(n, D) of a flat FAISS index or an .npy file, and what owns that memory; nothing is read yet."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r"), None
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d), index


def broken(folder: Path, error: Exception) -> UserError:
    """What is said of a gallery that does not open."""
    return UserError(f"{folder} does not open ({str(error).splitlines()[0][:200]}); build the gallery again")
