"""Places that another system predicted, out of its CSV or Parquet file, as a table that can be judged.

Columns are found by their titles as a truth's are (`titles`), but a predicted place goes before one that is merely called
latitude and longitude, so that a file with both (`gt_lat, predicted_lat, …`) serves as prediction and as truth. An image whose
coordinates are empty, or not on Earth, is one the system failed on.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from geobatch.benchmark.columns import from_csv, from_parquet, named, streamed
from geobatch.benchmark.places import bare
from geobatch.benchmark.titles import PREDICTIONS
from geobatch.geo.point import valid
from geobatch.store import NotFound, Store


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
        columns = from_parquet(cast(BinaryIO, store.seekable(uri, found.size, if_match=found.etag)), uri, PREDICTIONS)
    else:
        data = store.get(uri, if_match=found.etag)
        read = streamed(io.BytesIO(data), uri, PREDICTIONS)
        columns = read if read is not None else from_csv(data, uri, PREDICTIONS)
    there, notes = named(columns, uri)
    placed = valid(columns.latitude, columns.longitude)[there]
    latitude, longitude = (np.where(placed, axis[there], np.nan) for axis in (columns.latitude, columns.longitude))
    return bare(columns.image_id.filter(pa.array(there)), latitude, longitude), notes
