"""A file of points: about where each row of an archive is looked for, and how far about it.

Read and matched as a truth is (`geobatch.benchmark.truth`). Several captions of one image, `…@2` and so on, share its line. Of
an image that is named twice with one place the last bounds count.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.benchmark.named import rows_of
from geobatch.benchmark.titles import IMAGE_NAMES
from geobatch.benchmark.truth import load_truth
from geobatch.engine.gallery import Rows
from geobatch.errors import UserError
from geobatch.store import Store

Floats = NDArray[np.float64]


class Points:
    """The file of points: where each row is looked for, and how far about it.

    Args:
        store: reaches the file.
        uri: of a CSV or Parquet file with image_id, latitude, longitude, and perhaps radius_km and nearest.
        radius_km, nearest: what holds where the file's own columns do not; 0: no such bound.

    Raises:
        UserError: it does not read, or neither it nor the settings say how far about the points.
    """

    def __init__(self, store: Store, uri: str, radius_km: float = 0.0, nearest: int = 0) -> None:
        self.truth = load_truth(store, uri)
        self.radius_km, self.nearest = radius_km, nearest
        self._own = _extra(store, uri)
        if not (radius_km or nearest or self._own):
            raise UserError(f"{uri} has points and no column radius_km or nearest; "
                            "give --ngcg.area.radius-km or --ngcg.area.nearest")  # fmt: skip

    def of(self, image_ids: Sequence[str]) -> tuple[Floats, Floats, Floats, Rows]:
        """Latitude and longitude (N,) in degrees, NaN where the file has none, radius in km and count of nearest, 0 for any."""
        names = list(image_ids)
        rows = rows_of(self.truth, names)
        latitude = np.where(rows >= 0, self.truth.latitude[rows], np.nan)
        longitude = np.where(rows >= 0, self.truth.longitude[rows], np.nan)
        radius = np.full(len(names), self.radius_km)
        nearest = np.full(len(names), self.nearest, np.int64)
        if self._own:
            for at in np.flatnonzero(rows >= 0).tolist():
                own = self._own.get(self.truth.image_id[int(rows[at])], (math.nan, 0))
                radius[at] = radius[at] if math.isnan(own[0]) else own[0]
                nearest[at] = own[1] or nearest[at]
        return latitude, longitude, radius, nearest


def _extra(store: Store, uri: str) -> dict[str, tuple[float, int]]:
    """Radius in km (NaN: none) and count of nearest (0: none) by image_id; nothing where the file has no such column."""
    data = store.get(uri)
    columns = _from_parquet(data) if data[:4] == b"PAR1" else _from_csv(data)
    if len(columns) < 2:
        return {}
    rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
    return {row["image_id"]: (_number(row, "radius_km", uri), _count(row, uri)) for row in rows}


def _from_parquet(data: bytes) -> dict[str, list[str]]:
    file = pq.ParquetFile(pa.BufferReader(data))
    wanted = _wanted({_plain(title): title for title in file.schema_arrow.names})
    read = file.read(columns=list(wanted.values()))
    return {name: ["" if cell is None else str(cell) for cell in read[title].to_pylist()] for name, title in wanted.items()}


def _from_csv(data: bytes) -> dict[str, list[str]]:
    text = data.decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    titles = next(lines, [])
    wanted = _wanted({_plain(title): title for title in titles})
    if len(wanted) < 2:
        return {}
    at = {name: titles.index(title) for name, title in wanted.items()}
    rows = [line for line in lines if any(cell.strip() for cell in line)]
    return {name: [line[column] for line in rows] for name, column in at.items()}


def _wanted(titles: dict[str, str]) -> dict[str, str]:
    """What the columns of interest are called in the file: "image_id", and those of radius_km and nearest that are there."""
    name = next((each for each in IMAGE_NAMES if each in titles), None)
    own: dict[str, str] = {each: titles[each] for each in ("radius_km", "nearest") if each in titles}
    return {"image_id": titles[name], **own} if name is not None else {}


def _number(row: dict[str, str], name: str, uri: str) -> float:
    text = row.get(name, "").strip()
    if text.lower() in ("", "nan", "null", "none"):
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{uri} has {name} {text[:40]!r} for {row['image_id']}; give a number above 0, or nothing")
    return value


def _count(row: dict[str, str], uri: str) -> int:
    value = _number(row, "nearest", uri)
    return 0 if math.isnan(value) else math.ceil(value)


def _plain(title: str) -> str:
    return re.sub(r"[\s-]+", "_", title.strip().lower())
