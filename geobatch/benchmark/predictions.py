"""Places that another system predicted, out of its CSV or Parquet file, as a table that can be judged.

Columns are found by their titles as a truth's are (`columns`), but a predicted place goes before one that is merely called
latitude and longitude, so that a file with both (`gt_lat, predicted_lat, …`) serves as prediction and as truth. An image whose
coordinates are empty, or not on Earth, is one the system failed on.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from geobatch.benchmark.columns import (
    IMAGE_NAMES,
    LATITUDE_NAMES,
    LONGITUDE_NAMES,
    Columns,
    Wanted,
    from_csv,
    from_parquet,
    streamed,
)
from geobatch.benchmark.places import bare
from geobatch.geo.point import valid
from geobatch.store import NotFound, Store

_LATITUDE = (
    "predicted_lat",
    "predicted_latitude",
    "pred_lat",
    "pred_latitude",
    "lat_pred",
    "latitude_pred",
    *LATITUDE_NAMES[:2],
)
_LONGITUDE = (
    *("predicted_long", "predicted_lon", "predicted_lng", "predicted_longitude", "pred_lon", "pred_lng", "pred_long"),
    *("pred_longitude", "lon_pred", "longitude_pred"),
    *LONGITUDE_NAMES[:4],
)

WANTED: Wanted = (
    (IMAGE_NAMES, "an image id"),
    (_LATITUDE, "a predicted latitude"),
    (_LONGITUDE, "a predicted longitude"),
)


def is_file(uri: str) -> bool:
    """Whether a table is a file of predictions, by its ending, and not an output folder."""
    return uri.lower().endswith((".csv", ".tsv", ".txt", ".parquet"))


def load_predictions(store: Store, uri: str) -> tuple[pa.Table, tuple[str, ...]]:
    """The table (`places.bare`), and what of the file was left out, a line each.

    Raises:
        UserError: no such file, no such columns, or numbers that are none.
    """
    found = store.head(uri)
    if found is None:
        raise NotFound(f"{uri} does not exist")
    if store.get(uri, 0, 4) == b"PAR1":
        columns = from_parquet(cast(BinaryIO, store.seekable(uri, found.size, if_match=found.etag)), uri, WANTED)
    else:
        data = store.get(uri, if_match=found.etag)
        read = streamed(io.BytesIO(data), uri, WANTED)
        columns = read if read is not None else from_csv(data, uri, WANTED)
    return _table(columns), columns.notes


def _table(columns: Columns) -> pa.Table:
    known = valid(columns.latitude, columns.longitude)
    latitude, longitude = (np.where(known, axis, np.nan) for axis in (columns.latitude, columns.longitude))
    return bare(columns.image_id, latitude, longitude)
