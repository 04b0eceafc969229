"""Bytes that the table has a place for already are not located again.

A photograph that was copied, renamed, moved to another prefix or packed into a tar has the bytes it had. When a run adds to a
table of the same fingerprint, an index of the table's placed rows by the first 64 bits of their SHA-256 is written beside the
plan: 16 bytes a row with its part and position, sorted. `Reuse` stands before every other stage, hashes what was read, fetches
the rows that the index names from their parts, and compares the whole SHA-256. What it finds travels on in the column
`reused`, which makes a row pass every stage (`geobatch.stage`) like a rejected one does; the sink makes a row of it with the
new image's own identity, and `reused_from` says whose prediction it is: null where it was made for the image itself, as for a
member of a tar that is read again.

An index of ten million rows is 160 MB in each actor; there is one such actor to four decoders. Hashing costs 0.6 ms
a MiB, decoding it 20 and more. Copies in the order of their originals fetch each part once.

What it does not cover: rejected rows, which are tried again; equal images within one run, each of which is computed; pictures
that look alike with other bytes. A prediction that is drawn at random is drawn by the image's name: a copy has its
original's draw.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.schema import REUSED
from geobatch.sink.keys import Gathered
from geobatch.sink.table import LARGE, Piece, Snapshot, opened, version
from geobatch.stage import Stage
from geobatch.store import NotFound, Store, StoreConfig, join

#: Columns that `Index.add` reads.
COLUMNS = ["sha256", "status"]

#: Rows of one file of an index, and row groups that an actor keeps.
_FILE, _KEPT = 500_000, 4


class Index:
    """Which row of a table has which bytes."""

    def __init__(self, table: Snapshot) -> None:
        self._table = table
        self._gathered = Gathered([np.uint64, np.int32, np.int32])

    def add(self, piece: Piece) -> None:
        """The columns `COLUMNS` of a piece of the table."""
        placed = pc.and_(pc.equal(piece.rows["status"], "placed"), pc.equal(pc.utf8_length(piece.rows["sha256"]), 64))
        there = np.asarray(pc.fill_null(placed, False))
        if there.any():
            rows = piece.positions[there]
            self._gathered.add(_keys(piece.rows["sha256"].filter(pa.array(there))), np.full(len(rows), piece.part), rows)

    def write(self, store: Store, folder: str) -> dict[str, Any] | None:
        """Puts the index into a run's folder; what the plan says of it, or None if there is nothing in it."""
        key, part, row = self._gathered.sorted()
        files: list[str] = []
        for start in range(0, len(key), _FILE):
            some = slice(start, start + _FILE)
            data = pa.BufferOutputStream()
            pq.write_table(pa.table({"key": key[some], "part": part[some], "row": row[some]}), data, compression="zstd")
            files.append(f"reuse/{len(files):03d}.parquet")
            store.put(join(folder, files[-1]), data.getvalue().to_pybytes())
        return {"table": self._table.version, "files": files, "rows": len(key)} if files else None


class Reuse(Stage):
    """Marks the images whose bytes have a place, with that row.

    Args:
        output: folder or `s3://bucket/prefix` of the table.
        folder: URI of the run's folder.
        index: what `Index.write` said.
        store: reaches the output.
    """

    adds = (REUSED,)

    def __init__(self, output: str, folder: str, index: dict[str, Any], store: StoreConfig) -> None:
        self._store = Store(store)
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._files: dict[int, pq.ParquetFile] = {}
        names = ("key", "part", "row")
        try:
            self._table = version(self._store, output, index["table"])
            tables = [pq.read_table(pa.BufferReader(self._store.get(join(folder, file)))) for file in index["files"]]
        except NotFound:  # a run taken up after its table was cleared away: everything is computed
            self._table, tables = Snapshot(output=output, version=0, record={"parts": []}), []
        self._key, self._part, self._row = (
            np.concatenate([np.zeros(0, np.int64 if name != "key" else np.uint64), *(each[name].to_numpy() for each in tables)])
            for name in names
        )

    def work(self, table: pa.Table) -> pa.Table:
        """See `Stage.work`; null in `reused` where the bytes are new."""
        whole = [hashlib.sha256(value.as_buffer()).digest() if value.is_valid else bytes(32) for value in table["bytes"]]
        first = np.frombuffer(b"".join(whole), ">u8").reshape(-1, 4)[:, 0].astype(np.uint64)
        at = np.searchsorted(self._key, first)
        there = np.flatnonzero((at < len(self._key)) & (self._key[np.minimum(at, len(self._key) - 1)] == first)) \
            if len(self._key) else np.zeros(0, np.int64)  # fmt: skip
        found: dict[int, pa.Table] = {}
        for row in there.tolist():
            old = self._old(int(self._part[at[row]]), int(self._row[at[row]]))
            if old is not None and old["sha256"][0].as_py() == whole[row].hex():
                found[row] = old
        return table.append_column(REUSED, _structs(found, table["image_id"]))

    def _old(self, part: int, row: int) -> pa.Table | None:
        """One row of the table; None where its part was cleared away since."""
        about = self._table.parts[part]
        try:
            if int(about.get("bytes", 0)) <= LARGE:
                rows, start = self._rows(part, None), 0
            else:
                file = self._file(part)
                ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)])
                group = int(np.searchsorted(ends, row, side="right"))
                rows, start = self._rows(part, group), int(ends[group - 1]) if group else 0
        except NotFound:
            return None
        return rows.slice(row - start, 1)

    def _file(self, part: int) -> pq.ParquetFile:
        if part not in self._files:
            self._files = {part: opened(self._store, self._table.uris()[part], self._table.parts[part]["bytes"])}
        return self._files[part]

    def _rows(self, part: int, group: int | None) -> pa.Table:
        """A whole small part, or a row group of a large one; the last few are kept."""
        key = (part, -1 if group is None else group)
        if key not in self._kept:
            if group is None:
                self._kept[key] = pq.read_table(pa.BufferReader(self._store.get(self._table.uris()[part])))
            else:
                self._kept[key] = self._file(part).read_row_group(group)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _keys(sha256: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """The first 64 bits of hexadecimal digests."""
    letters = np.array(pc.utf8_slice_codeunits(sha256, 0, 16).to_pylist(), "S16").view(np.uint8).reshape(-1, 16)
    halves = np.where(letters >= ord("a"), letters - ord("a") + 10, letters - ord("0")).astype(np.uint8)
    return np.ascontiguousarray(halves[:, 0::2] << 4 | halves[:, 1::2]).view(">u8")[:, 0].astype(np.uint64)


def _structs(found: dict[int, pa.Table], names: pa.ChunkedArray) -> pa.Array:
    """The column `reused`: old rows at their new positions. A prediction made for the image itself is nobody else's."""
    rows = len(names)
    if not found:
        return pa.nulls(rows, REUSED.type)
    columns = []
    old = pa.concat_tables(list(found.values()), promote_options="default")
    for field in REUSED.type:
        if field.name == "reused_from":
            made = old["image_id"]
            column = pc.coalesce(old["reused_from"], made) if "reused_from" in old.column_names else made
            own = pc.equal(column, names.take(pa.array(list(found))))
            column = pc.if_else(own, pa.scalar(None, pa.string()), column)
        else:
            column = old[field.name] if field.name in old.column_names else pa.nulls(len(old), field.type)
        column = column.cast(field.type)
        columns.append(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    structs = pa.StructArray.from_arrays(columns, fields=list(REUSED.type))
    at = np.full(rows, -1)
    at[list(found)] = np.arange(len(found))
    return structs.take(pa.array(at, mask=at < 0))
