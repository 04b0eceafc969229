"""Rows as they are written: the columns of PLACE or GALLERY, and GeoParquet bytes.

Every part is a valid GeoParquet 1.1 file by itself (WKB points, OGC:CRS84, the default), so that a folder of parts opens in
DuckDB, GeoPandas and GDAL as it is. Bytes are a function of the rows alone, so a part can be named by its content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.errors import MachineError
from geobatch.geo import cell, point, s2
from geobatch.schema import CONFIDENCE, FATE, IDENTITY, LAYOUTS, PLACE, REUSED, SAID, SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a run writes into each of its rows.

    Fields:
        run: id of the run.
        method: name of the method, or of a layout in `geobatch.schema.LAYOUTS`.
        model: fingerprint of what decides a row.
        coarsen_km: if above 0, every coordinate is rounded to a grid of this width before it is written.
    """

    run: str
    method: str
    model: str
    coarsen_km: float = 0.0


def as_written(rows: pa.Table, stamp: Stamp) -> pa.Table:
    """The rows at the end of a river in the schema of the table they go to."""
    if REUSED.name in rows.column_names:
        known = pc.is_valid(rows[REUSED.name])
        new = as_written(rows.filter(pc.invert(known)).drop_columns([REUSED.name]), stamp)
        both = pa.concat_tables([new, _reused(rows.filter(known), stamp)])
        order = pa.concat_arrays([pc.indices_nonzero(pc.invert(known)), pc.indices_nonzero(known)])
        return both.take(pc.sort_indices(order))
    alive = pc.is_null(rows["reason"])
    placed = rows.append_column("status", pc.if_else(alive, "placed", "rejected"))
    lost = pc.sum(pc.and_(alive, pc.is_null(rows["latitude"]))).as_py()
    if lost:
        raise MachineError(f"{lost} images came to the sink with neither a place nor a reason: a bug, report it")
    if layout := LAYOUTS.get(stamp.method):
        return placed.select(layout.names).cast(layout)
    for field in (*CONFIDENCE, *SAID, PLACE.field("reused_from")):
        if field.name not in placed.column_names:
            placed = placed.append_column(field, pa.nulls(len(placed), field.type))
    if stamp.coarsen_km > 0:
        placed = _coarsened(placed, stamp.coarsen_km)
    latitude, longitude = _numbers(placed, "latitude"), _numbers(placed, "longitude")
    there = np.isfinite(latitude)
    token = np.full(len(placed), None, dtype=object)
    token[there] = s2.cell_tokens(s2.cell_ids(latitude[there], longitude[there], 20))
    constants = {
        "geometry": pa.array(point.wkb_points(latitude, longitude), pa.binary()),
        "s2_token": pa.array(token, pa.string()),
        "method": pa.array([stamp.method] * len(placed), pa.string()),
        "model": pa.array([stamp.model] * len(placed), pa.string()),
        "run": pa.array([stamp.run] * len(placed), pa.string()),
        "schema_version": pa.array([SCHEMA_VERSION] * len(placed), pa.int32()),
    }
    for name, column in constants.items():
        placed = placed.append_column(name, column)
    return placed.select(PLACE.names).cast(PLACE)


def _reused(rows: pa.Table, stamp: Stamp) -> pa.Table:
    """The rows whose place is known: all of an older row but who the image is and which run it came with."""
    old = pa.Table.from_struct_array(rows[REUSED.name]) if len(rows) else pa.schema(list(REUSED.type)).empty_table()
    own = {field.name: rows[field.name] for field in (*IDENTITY, *FATE)}
    constants = {
        "status": "placed",
        "method": stamp.method,
        "model": stamp.model,
        "run": stamp.run,
        "schema_version": SCHEMA_VERSION,
    }
    own |= {name: pa.array([value] * len(rows), PLACE.field(name).type) for name, value in constants.items()}
    return pa.table({name: own[name] if name in own else old[name] for name in PLACE.names}).cast(PLACE)


def parquet(rows: pa.Table) -> bytes:
    """The rows as the bytes of one Parquet file, GeoParquet if they have a geometry."""
    if "geometry" in rows.column_names:
        rows = rows.replace_schema_metadata({b"geo": json.dumps(geo(_bounds(rows))).encode()})
    out = pa.BufferOutputStream()
    pq.write_table(rows, out, compression="zstd", row_group_size=max(1, len(rows)))
    return out.getvalue().to_pybytes()


def _bounds(rows: pa.Table) -> list[float] | None:
    latitude, longitude = _numbers(rows, "latitude"), _numbers(rows, "longitude")
    if not np.isfinite(latitude).any():
        return None
    return [float(f(v)) for f in (np.nanmin, np.nanmax) for v in (longitude, latitude)]


def geo(bounds: list[float] | None) -> dict[str, object]:
    """GeoParquet's metadata of rows within these bounds (west, south, east, north); None: of rows without a place."""
    column: dict[str, object] = {"encoding": "WKB", "geometry_types": ["Point"]}
    if bounds is not None:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    return rows[name].to_numpy().astype(np.float64)  # nulls become NaN


def _coarsened(rows: pa.Table, km: float) -> pa.Table:
    """Every coordinate of a row on a grid of `km`: the place, the EXIF position, the candidates and the neighbours; an area no
    finer than that.
    """
    areas = [None if token is None else cell.coarser(token, km) for token in rows["area"].to_pylist()]
    rows = rows.set_column(rows.column_names.index("area"), "area", pa.array(areas, pa.string()))
    for prefix in ("", "exif_"):
        latitude, longitude = point.coarsen(_numbers(rows, f"{prefix}latitude"), _numbers(rows, f"{prefix}longitude"), km)
        for name, values in ((f"{prefix}latitude", latitude), (f"{prefix}longitude", longitude)):
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, from_pandas=True))
    for name in ("candidates", "neighbours"):
        column = rows[name].combine_chunks()
        structs = column.flatten()
        fields = {field.name: structs.field(field.name) for field in structs.type}
        latitude, longitude = point.coarsen(fields["latitude"].to_numpy(False), fields["longitude"].to_numpy(False), km)
        fields |= {"latitude": pa.array(latitude), "longitude": pa.array(longitude)}
        coarse = pa.StructArray.from_arrays(list(fields.values()), fields=list(structs.type))
        offsets = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(False))])
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), coarse, type=column.type, mask=pc.is_null(column))
        rows = rows.set_column(rows.column_names.index(name), name, lists)
    return rows
