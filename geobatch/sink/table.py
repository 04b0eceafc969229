"""The table: which parts are it now, which of their rows count, and how a reader gets them.

`table/N.json` with the largest N is the truth. A part may have rows that a later run superseded (an object whose bytes
changed, a tar that was rebuilt): their positions are listed, and readers leave them out. A plain glob over `places/` reads
the same rows after a finished run over a fresh output, but not in general.

Rows of objects that are no longer in the archive stay in the table; `deleted/*.parquet`, which the record names, says which
objects those are and since when (`geobatch.sink.held`). A reader keeps their rows, leaves them out, or has them marked.

Reading streams: small parts are fetched whole, many at once; parts that compaction made (above `LARGE` bytes) are read one
row group at a time and only the columns asked for, so that the names in a compacted table cost a fraction of its bytes. In
memory are the parts in flight, or one row group.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.errors import UserError
from geobatch.schema import PLACE
from geobatch.sink.keys import Gathered, digests, matches
from geobatch.store import Store, StoreConfig, join

#: Bytes above which a part is read by columns and row groups.
LARGE = 8 << 20
#: Positions above which a part's superseded rows are written as a bitmap: a list of them costs 8 bytes a row.
_LISTED = 4096

#: What a reader does with rows of objects that are gone from the archive; "mark" adds a column `deleted`, the time of the
#: listing that missed the object first, null for the others.
Deleted = Literal["keep", "leave out", "mark"]

#: One row of a file below `deleted/`.
DELETED = pa.schema([pa.field("uri", pa.string(), nullable=False), pa.field("since", pa.string(), nullable=False)])


class Piece(NamedTuple):
    """Live rows of one part.

    Attributes:
        part: its index in the record.
        positions: of the rows in the part's file, rising.
        rows: the columns asked for.
    """

    part: int
    positions: npt.NDArray[np.int64]
    rows: pa.Table


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of the table.

    Fields:
        output: where it lies.
        version: its number, from 1.
        record: the JSON document (`parts`, `run`, `fingerprint`, `empty_sources`, …).
    """

    output: str
    version: int
    record: dict[str, Any]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """`{"path", "rows", "bytes", "run"}` of each part, with `removed` where rows are superseded (see `removed`); parts
        that hold rows of several runs, and very old ones, do not name a run.
        """
        parts: list[dict[str, Any]] = self.record["parts"]
        return parts

    def of_run(self, run: str) -> Snapshot:
        """The same table with nothing but the parts that may hold rows of a run."""
        return replace(self, record={**self.record, "parts": [part for part in self.parts if part.get("run", run) == run]})

    def uris(self) -> list[str]:
        """Where the parts lie."""
        return [join(self.output, part["path"]) for part in self.parts]

    def tables(self, store: Store, columns: list[str] | None = None, deleted: Deleted = "keep") -> Iterator[pa.Table]:
        """The live rows in the order of the record, a part or a row group of one at a time."""
        if deleted == "keep":
            yield from (piece.rows for piece in self.pieces(store, columns))
            return
        gone = Gone(store, self)
        for piece in self.pieces(store, None if columns is None else [*columns, *({"uri"} - {*columns})]):
            since = gone.since(piece.rows["uri"].to_pylist())
            rows = piece.rows if columns is None else piece.rows.select(columns)
            yield rows.filter(pc.is_null(since)) if deleted == "leave out" else rows.append_column("deleted", since)

    def pieces(self, store: Store, columns: list[str] | None = None, only: set[int] | None = None) -> Iterator[Piece]:
        """As `tables`, with where the rows lie; `only` names the parts that are read, by their index."""
        wanted = [(index, part) for index, part in enumerate(self.parts) if only is None or index in only]
        for large, run in groupby(wanted, key=lambda each: int(each[1].get("bytes", 0)) > LARGE):
            for index, start, table in self._large(store, run, columns) if large else self._small(store, run, columns):
                piece = Piece(index, np.arange(start, start + len(table)), table)
                gone = superseded(self.parts[index])
                if len(gone):
                    live = np.isin(piece.positions, gone, invert=True)
                    piece = Piece(index, piece.positions[live], table.filter(pa.array(live)))
                yield piece

    def _small(
        self, store: Store, parts: Iterator[tuple[int, dict[str, Any]]], columns: list[str] | None
    ) -> Iterator[tuple[int, int, pa.Table]]:
        named = list(parts)
        got = store.get_many(join(self.output, part["path"]) for _, part in named)
        for (index, _), data in zip(named, got, strict=True):
            if isinstance(data, BaseException):
                raise data
            yield index, 0, _read(pq.ParquetFile(pa.BufferReader(data)), None, columns)

    def _large(
        self, store: Store, parts: Iterator[tuple[int, dict[str, Any]]], columns: list[str] | None
    ) -> Iterator[tuple[int, int, pa.Table]]:
        for index, part in parts:
            start, file = 0, opened(store, join(self.output, part["path"]), part["bytes"])
            for group in range(file.metadata.num_row_groups):
                table = _read(file, group, columns)
                yield index, start, table
                start += len(table)


def opened(store: Store, uri: str, size: int) -> pq.ParquetFile:
    """A part's file, read by ranges."""
    return pq.ParquetFile(pa.PythonFile(store.seekable(uri, size), mode="r"), pre_buffer=False, buffer_size=1 << 20)


def _read(file: pq.ParquetFile, group: int | None, columns: list[str] | None) -> pa.Table:
    """Columns of a file; one that a part of an older version lacks is null."""
    there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
    options = {"columns": there, "use_threads": False}
    table = file.read(**options) if group is None else file.read_row_group(group, **options)
    if columns is None or there == columns:
        return table
    rows = file.metadata.num_rows if group is None else file.metadata.row_group(group).num_rows
    made = {name: table[name] if name in table.column_names else _missing(name, rows) for name in columns}
    return pa.table(made)


def _missing(name: str, rows: int) -> pa.Array:
    if name not in PLACE.names:
        raise UserError(f"the table has no column {name}; ask for another")
    return pa.nulls(rows, PLACE.field(name).type)


def superseded(part: dict[str, Any]) -> npt.NDArray[np.int64]:
    """Positions of a part's superseded rows, rising."""
    said = part.get("removed", ())
    if not isinstance(said, str):
        return np.array(said, np.int64)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(said)), np.uint8)
    return np.flatnonzero(np.unpackbits(bits, count=part["rows"]))


def removed(part: dict[str, Any]) -> list[int]:
    """`superseded` as a list."""
    return cast(list[int], superseded(part).tolist())


def with_removed(part: dict[str, Any], positions: npt.ArrayLike) -> dict[str, Any]:
    """The part with these positions, rising, as its superseded rows: a list, or a packed bitmap where there are many."""
    gone = np.asarray(positions, np.int64)
    if not len(gone):
        return {name: value for name, value in part.items() if name not in ("removed", "removed_rows")}
    if len(gone) <= _LISTED:
        return {**part, "removed": gone.tolist(), "removed_rows": len(gone)}
    bits = np.zeros(part["rows"], np.uint8)
    bits[gone] = 1
    packed = base64.b64encode(zlib.compress(np.packbits(bits).tobytes())).decode()
    return {**part, "removed": packed, "removed_rows": len(gone)}


def live_rows(part: dict[str, Any]) -> int:
    """Rows of a part that count."""
    return int(part["rows"]) - int(part.get("removed_rows", len(part.get("removed", ()))))


class Gone:
    """Which objects the table says are gone from the archive, and since when: 20 bytes each."""

    def __init__(self, store: Store, table: Snapshot) -> None:
        gathered = Gathered([np.uint64, np.uint64, np.int32])
        self._times: dict[str, int] = {}
        for rows in deleted_objects(store, table):
            times = [self._times.setdefault(since, len(self._times)) for since in rows["since"].to_pylist()]
            gathered.add(*digests(rows["uri"].to_pylist()), times)
        self._first, self._second, self._since = gathered.sorted()

    def since(self, uris: list[str]) -> pa.Array:
        """For each object the time of the listing that missed it first; null where it is there."""
        at = np.full(len(uris), -1, np.int32)
        for asked, entries in matches(self._first, self._second, digests(uris)):
            at[asked] = self._since[entries]
        return pa.array(list(self._times), pa.string()).take(pa.array(at, mask=at < 0))


def deleted_objects(store: Store, table: Snapshot) -> Iterator[pa.Table]:
    """Tables of DELETED."""
    for file in table.record.get("deleted", ()):
        yield pq.read_table(pa.BufferReader(store.get(join(table.output, file["path"])))).cast(DELETED)


def versions(store: Store, output: str) -> list[int]:
    """Numbers of the versions that are still there, rising."""
    names = [item.uri.rsplit("/", 1)[-1] for page in store.objects(join(output, "table")) for item in page]
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"(\d+)\.json", name)))


def version(store: Store, output: str, number: int) -> Snapshot:
    """One version of the table."""
    return Snapshot(output=output, version=number, record=json.loads(store.get(join(output, "table", f"{number}.json"))))


def latest(store: Store, output: str) -> Snapshot | None:
    """The newest version of the table, or None while no run has finished."""
    numbers = versions(store, output)
    return version(store, output, numbers[-1]) if numbers else None


def read(
    output: str, columns: list[str] | None = None, store: StoreConfig | None = None, deleted: Deleted = "keep"
) -> pa.Table:
    """The table at `output` as one Arrow table.

    Args:
        output: folder or `s3://bucket/prefix`.
        columns: those wanted; all by default.
        store: how to reach it.
        deleted: what becomes of rows whose object is gone from the archive; "mark" adds the column `deleted`.

    Raises:
        UserError: no run has finished there yet.
    """
    reach = Store(store or StoreConfig())
    snapshot = latest(reach, output)
    if snapshot is None:
        raise UserError(f"{output} holds no finished table; run geolocate_bucket.py with this --output until it says so")
    tables = list(snapshot.tables(reach, columns, deleted))
    if not tables:
        raise UserError(f"the table at {output} has no rows; check that the archive holds images")
    return pa.concat_tables(tables, promote_options="default")  # parts of older versions lack newer columns
