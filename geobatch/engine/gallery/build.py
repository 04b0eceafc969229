"""Tables of vectors become a gallery on the disk, or more of one, without ever being in memory together.

Vectors are spooled as they come, then copied in the order of their names: 4 million images of 2304 floats spool 38 GB and keep
19 GB. What grows in memory with the images are names and places (about 60 bytes each, and while the gallery is signed every
name as a string of Python's: half a gigabyte for 4 million) and the index. An index over cells is trained on up to 163,840
rows, 1.5 GB of 2304 floats.

An append adds a segment. Its rows follow the old ones, whose numbers stay; an index takes the new rows in without being
trained anew, under a new name. Files that no record names are removed once the new record stands.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from geobatch.engine.gallery.collect import MIXED, NOTHING, Part, described, living, ordered, signed
from geobatch.engine.gallery.files import open_index, open_places, open_stored
from geobatch.engine.gallery.gallery import Gallery, load
from geobatch.engine.gallery.index import Index, Indexing, fill
from geobatch.engine.gallery.measure import choose
from geobatch.engine.gallery.record import (
    COLUMNS,
    INDEX,
    OPTIONAL,
    PLACES,
    RECORD,
    VECTORS,
    columns_of,
    files_of,
    read_record,
    write_record,
)
from geobatch.engine.gallery.stored import Rows, Stored, Vectors, release
from geobatch.errors import UserError
from geobatch.progress import say

_SMALL = 1 << 30  # bytes up to which vectors are float32, and a flat gallery one FAISS index
_BLOCK = 16_384  # rows copied at once: 151 MB of 2304 floats
_NO_ROWS = np.zeros(0, np.int64)


def build(
    folder: Path,
    tables: Iterable[pa.Table] | None = None,
    *,
    views: dict[str, int] | None = None,
    indexing: Indexing | None = None,
    queries: Vectors | None = None,
    source: dict[str, Any] | None = None,
    encoder: str | None = None,
) -> Gallery:
    """Writes a gallery into `folder` and opens it.

    Args:
        folder: where its files go; a gallery that is there is given up first, and answers as before to who has it open.
        tables: tables with GALLERY's columns (`footprint_km` may miss), and `group` if there are groups; without, the
            Parquet parts in `folder/places`.
        views: names and sizes of the views that vectors are made of, in order; default: one, "image".
        indexing: how it is stored and searched.
        queries: (Q, D) vectors of real queries, to measure indexes with.
        source: kept in the record, to know later what the gallery was made from.
        encoder: fingerprint of what made the vectors, for those who search with another's; kept in the record as "encoder".

    Raises:
        UserError: as `geobatch.engine.gallery.collect.collect`.
    """
    indexing = indexing or Indexing()
    with _scratch(folder) as scratch:
        spooled, places, order = _spool(tables if tables is not None else _parts(folder / "places"), Path(scratch), indexing)
        record = described("flat", len(places), spooled.shape[1], views)
        record["searched"] = list(indexing.searched or record["searched"])
        columns = columns_of(record["views"], record["searched"])
        (folder / RECORD).unlink(missing_ok=True)
        _tidy(folder, {"segments": []})  # what is written below are new files: readers of the old ones still map them
        halved = indexing.precision == "float16" or (indexing.precision == "auto" and spooled.size * 4 > _SMALL)
        digest = _arrange(spooled, order, folder / VECTORS, np.float16 if halved else np.float32)
        del spooled
    content = signed(digest, places)
    pq.write_table(places, folder / PLACES)
    stored = Stored([np.load(folder / VECTORS, mmap_mode="r")], columns)
    index, measured = choose(stored, indexing, None if queries is None else _searched(queries, columns))
    vectors = VECTORS if index is not None or stored.arrays[0].nbytes > _SMALL or halved else _as_index(stored, folder)
    record |= {
        "segments": [{"rows": len(places), "places": PLACES, "vectors": vectors}],
        "fingerprint": content,
        "built": len(places),
        "indexing": asdict(indexing),
        "source": source or {},
        "measured": measured,
        **({"encoder": encoder} if encoder else {}),
    }
    if index is not None:
        record |= _kept(index, folder, content, 0)
    write_record(folder, record)
    _tidy(folder, record)
    return load(folder)


def append(folder: Path, tables: Iterable[pa.Table], source: dict[str, Any] | None = None) -> Gallery:
    """Adds the images of the tables to the gallery in `folder` and opens it; a crash leaves the gallery as it was.

    Args:
        tables, source: as for `build`.

    Raises:
        UserError: an image is in the gallery already, or as `build`.
    """
    record = read_record(folder)
    number = len(record["segments"])
    halved = (folder / record["segments"][0]["vectors"]).suffix == ".npy" and _halved(folder, record)
    names = {"places": f"gallery-{number}.parquet", "vectors": f"vectors-{number}.npy"}
    with _scratch(folder) as scratch:
        try:
            spooled, places, order = _spool(tables, Path(scratch), Indexing(**record.get("indexing", {})))
        except UserError as error:
            if str(error) != NOTHING:
                raise
            write_record(folder, {**record, "source": source or record.get("source", {})})
            return load(folder)
        if spooled.shape[1] != record["dimension"]:
            raise UserError(MIXED)
        known = open_places(folder, record)["image_id"]
        twice = pc.is_in(places["image_id"], value_set=known)
        if pc.any(twice).as_py():
            raise UserError(
                f"{places['image_id'].filter(twice)[0]} is in the gallery already; build it again to replace images"
            )
        digest = _arrange(spooled, order, folder / names["vectors"], np.float16 if halved else np.float32)
        del spooled
    pq.write_table(places, folder / names["places"])
    content = hashlib.sha256(f"{record['fingerprint']}\n{signed(digest, places)}".encode()).hexdigest()
    rows = record["rows"] + len(places)
    fresh = {
        **record,
        "segments": [*record["segments"], {"rows": len(places), **names}],
        "rows": rows,
        "fingerprint": content,
        "source": source or record.get("source", {}),
    }
    if record["kind"] != "flat":
        index = open_index(folder, record, mapped=False)
        fill(index, open_stored(folder, fresh), _NO_ROWS, first=record["rows"])
        fresh |= _kept(index, folder, content, number)
    write_record(folder, fresh)
    _tidy(folder, fresh, record)
    if rows >= 2 * record.get("built", rows):
        say(
            f"gallery {folder} has grown from {record['built']:,} to {rows:,} images since it was built; building it again pays"
        )
    return load(folder)


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A place for the spool; those of builds that were killed are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".build-*"):
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=".build-", dir=folder)


def _parts(folder: Path) -> Iterator[pa.Table]:
    if not any(folder.glob("*.parquet")):
        raise UserError(f"{folder} holds no Parquet parts; run jobs/build_gallery.py first")
    dataset = ds.dataset(folder, format="parquet")
    columns = [*COLUMNS, *(name for name in OPTIONAL if name in dataset.schema.names)]
    for batch in dataset.to_batches(columns=columns):
        yield pa.Table.from_batches([batch])


def _spool(tables: Iterable[pa.Table], scratch: Path, indexing: Indexing) -> tuple[Any, pa.Table, Rows]:
    """Vectors in the order they come, mapped; names and places in order of names, and where each came from."""
    parts: list[Part] = []
    dtype = np.float16 if indexing.precision == "float16" else np.float32
    path = scratch / "spool"
    width = 0
    with path.open("wb") as file:
        for part in living(tables):
            width = part.matrix.shape[1]
            file.write(np.ascontiguousarray(part.matrix, dtype).data)
            parts.append(replace(part, matrix=np.zeros((0, width), np.float32)))  # a view would keep it all
    if not parts:
        raise UserError(NOTHING)
    places, order = ordered(parts)
    return np.memmap(path, dtype, "r", shape=(len(order), width)), places, order


def _arrange(spooled: Any, order: Rows, path: Path, dtype: type[np.floating[Any]]) -> Any:
    """Writes the spooled rows in order as an .npy file; returns the running digest of what was written."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": spooled.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(order), _BLOCK):
            block = np.ascontiguousarray(spooled[order[start : start + _BLOCK]], dtype)
            file.write(block.data)
            digest.update(block.data)
            release(spooled)
    return digest


def _as_index(stored: Stored, folder: Path) -> str:
    """A small flat gallery is one FAISS file, which other programs open too."""
    index = faiss.IndexFlatIP(stored.dimension)
    index.add(np.asarray(stored.arrays[0], np.float32))
    faiss.write_index(index, str(folder / INDEX))
    return INDEX


def _kept(index: Index, folder: Path, content: str, number: int) -> dict[str, Any]:
    """Writes the index; returns what the record says of it. What an index finds depends on the index, so it signs too."""
    name = f"index-{number}.faiss"
    faiss.write_index(index.faiss, str(folder / name))
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"kind": index.kind, "index": name, "probes": index.probes, "refine": index.refine}
    signature = hashlib.sha256(json.dumps([content, digest, about], sort_keys=True).encode()).hexdigest()
    return {**about, "index_bytes": (folder / name).stat().st_size, "fingerprint": signature}


def _halved(folder: Path, record: dict[str, Any]) -> bool:
    return bool(np.load(folder / record["segments"][0]["vectors"], mmap_mode="r").dtype == np.float16)


def _searched(queries: Vectors, columns: list[slice]) -> Vectors:
    return np.concatenate([queries[:, each] for each in columns], axis=1)


def _tidy(folder: Path, record: dict[str, Any], old: dict[str, Any] | None = None) -> None:
    """Removes what a build replaced, or the index from before the last append: the last one's readers open it late."""
    used = set(files_of(record))
    if old is not None and used >= set(_rows_of(old)):
        used |= set(files_of(old))
    for path in [*folder.glob("index*.faiss"), *folder.glob("vectors*.npy"), *folder.glob("gallery*.parquet")]:
        if path.name not in used:
            path.unlink()


def _rows_of(record: dict[str, Any]) -> list[str]:
    return [segment[key] for segment in record["segments"] for key in ("places", "vectors")]
