"""The record of a gallery's folder: which files are the gallery now. It is the only thing a reader believes, and written last.

    gallery.json          the record: kind, rows, dimension, fingerprint, views, segments, and what was measured
    gallery.parquet       image_id, latitude, longitude (and group, footprint_km, where given) of the first segment's rows
    index.faiss           of a small flat gallery: the vectors themselves, float32
    vectors.npy           of any other: the vectors, float16 or float32, rows in the order of gallery.parquet
    index-0.faiss         of any other kind than flat: the index
    gallery-1.parquet, vectors-1.npy, index-1.faiss …   what an append wrote; rows follow on

A file is never changed once a record names it, and a record is replaced in one rename, so an append that dies leaves the
gallery as it was. Readers map what they open; an index is opened at the first search, so the one before the last append is
kept until the next. A build gives up what was there before.

Not covered: two writers at once; the later record wins and the earlier rows are lost from the gallery, not from the table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from geobatch.errors import UserError

RECORD, INDEX, PLACES, VECTORS = "gallery.json", "index.faiss", "gallery.parquet", "vectors.npy"
COLUMNS = ["image_id", "latitude", "longitude", "vector"]
#: A further column of tables and of places: rows of one group (a photographer, a burst) may be kept from each other.
GROUP = "group"
#: A further column of both: side in km of the ground that a tile shows, null where it is not known.
FOOTPRINT = "footprint_km"
#: What tables and places may have beside `COLUMNS`, with their types.
OPTIONAL = {GROUP: pa.string(), FOOTPRINT: pa.float32()}


def read_record(folder: Path, fingerprint: str | None = None) -> dict[str, Any]:
    """The record, with what older ones leave out: one segment, one view, every view searched.

    Args:
        fingerprint: that the gallery had when the run began; default: any.

    Raises:
        UserError: the folder is no gallery, the record no JSON, or the gallery another one than when the run began.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder} is no gallery (it has no {RECORD}); make one with jobs/build_gallery.py")
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); build the gallery again") from error
    record.setdefault("segments", [{"rows": record.get("rows"), "places": PLACES, "vectors": INDEX}])
    record.setdefault("views", {"image": record.get("dimension")})
    record.setdefault("searched", list(record["views"]))
    if fingerprint is not None and record.get("fingerprint") != fingerprint:
        raise changed(folder)
    return record


def changed(folder: Path) -> UserError:
    """What is said to who would mix two galleries."""
    return UserError(
        f"the gallery at {folder} changed while the run was going on; let building it end, then start the run again"
    )


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replaces the record in one step, after everything it names is on the disk."""
    for name in files_of(record):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    fresh = folder / f"{RECORD}.new"
    with fresh.open("w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / RECORD)


def files_of(record: dict[str, Any]) -> list[str]:
    """Names of the files that a record stands on."""
    names = [segment[key] for segment in record["segments"] for key in ("places", "vectors")]
    return [*names, record["index"]] if record.get("index") else names


def columns_of(views: dict[str, int], searched: list[str]) -> list[slice]:
    """Where the searched views lie in a vector.

    Raises:
        UserError: a searched view that there is not, or none at all.
    """
    missing = [name for name in searched if name not in views]
    if missing or not searched:
        raise UserError(f"views {searched or 'none'} to search in a gallery of {', '.join(views)}; name some of these")
    found, start = [], 0
    for name, size in views.items():
        if name in searched:
            found.append(slice(start, start + size))
        start += size
    return found
