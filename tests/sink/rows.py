"""Recipe: rows as they come out of a river, a deterministic function of their names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import duckdb_extension_spatial
import pyarrow as pa

from geobatch.actors import Slice
from geobatch.errors import Rejection
from geobatch.schema import LOCATED, PICTURE, PLAN, RADII_KM, empty_columns, probability_column
from geobatch.stage import rejected


def located(names: list[str], uris: list[str] | None = None, etag: str = "e1", dead: set[int] = frozenset()) -> pa.Table:
    """Rows at the end of a river: name -> place by a hash; the rows in `dead` are rejected."""
    fields = [field for field in PICTURE if field.name not in ("picture", "picture_width", "picture_height")]
    marks = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in names]
    alive = [None if row in dead else mark for row, mark in enumerate(marks)]

    def of(scale: float, shift: float) -> list[float | None]:
        return [None if mark is None else mark * scale + shift for mark in alive]

    columns = {
        **empty_columns(fields, len(names)),
        **empty_columns(LOCATED, len(names)),
        "image_id": names,
        "uri": uris or names,
        "etag": [etag] * len(names),
        "size": [len(name) for name in names],
        "latitude": of(160, -80),
        "longitude": of(358, -179),
        "score": of(-5, 0),
        **{probability_column(km): of(1, 0) for km in RADII_KM},
        "exif_latitude": of(1, 10),
        "exif_longitude": of(1, 20),
        "candidates": [
            None if mark is None else [{"latitude": mark, "longitude": 2 * mark, "score": -1.0, "origin": "sample"}]
            for mark in alive
        ],
        "neighbours": [
            None if mark is None else [{"image_id": "g", "latitude": mark, "longitude": mark, "similarity": 0.5}]
            for mark in alive
        ],
    }
    schema = pa.schema([*fields, *LOCATED])
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema)
    return rejected(table, "decode", {row: Rejection("broken", "recipe") for row in dead})


def manifest(shards: list[tuple[str, list[str]]], etag: str = "e1") -> pa.Table:
    """A table of PLAN: each shard a kind and the names in it (one container for kinds whose members appear later)."""
    rows = [
        {
            "shard": shard,
            "kind": kind,
            "image_id": name if kind in ("object", "zip") else None,
            "uri": name.split("#")[0],
            "etag": etag,
            "size": 1,
            "offset": None,
        }
        for shard, (kind, names) in enumerate(shards)
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=PLAN)


def piece(shard: int, rows: pa.Table, number: int = 0, last: bool = True, end: int = 0, skipped: int = 0) -> Slice:
    """A slice as it reaches `Write`."""
    return Slice(shard=shard, number=number, last=last, end=end, skipped=skipped, rows=rows, seconds=(("Read", 1.0),))


def spatial() -> duckdb.DuckDBPyConnection:
    """DuckDB with its spatial extension, which its package brings along."""
    extension = next(Path(next(iter(duckdb_extension_spatial.__path__))).rglob("spatial.duckdb_extension"))
    base = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    base.execute(f"LOAD '{extension}'")
    return base
