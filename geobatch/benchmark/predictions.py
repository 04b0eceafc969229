"""Places that another system predicted, out of its CSV or Parquet file, as a table that can be judged.

Columns are found by their titles as a truth's are (`titles`), but a predicted place goes before one that is merely called
latitude and longitude, so that a file with both (`gt_lat, predicted_lat, …`) serves as prediction and as truth. An image whose
coordinates are empty, or not on Earth, is one the system failed on; how many are not on Earth is noted. Exchanged columns are
turned as a truth's are, but only where a quarter of the latitudes pass 90 and no longitude does, not a twentieth: a model that
fails on some images writes latitudes beyond 90, too.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from geobatch.benchmark.columns import from_csv, from_parquet, named, streamed
from geobatch.benchmark.places import bare
from geobatch.benchmark.titles import PREDICTED_SHARE, PREDICTIONS, turned
from geobatch.geo.point import valid
from geobatch.store import NotFound, Store


def is_file(uri: str) -> bool:
    """Whether a table is a file of predictions, by its ending, and not an output folder."""
    return uri.lower().endswith((".csv", ".tsv", ".txt", ".parquet"))


def load_predictions(store: Store, uri: str) -> tuple[pa.Table, tuple[str, ...]]:
    """The table (`places.bare`), and what of the file was left out or read otherwise than it says, a line each.

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
    north, east = columns.latitude[there], columns.longitude[there]
    said = ~(np.isnan(north) | np.isnan(east))
    north, east, note = turned(north, east, said, uri, PREDICTED_SHARE)
    placed = valid(north, east)
    if nowhere := int(np.sum(said & ~placed)):
        note = (*note, f"{nowhere} rows of {uri} have coordinates that are not on Earth; they count as failed")
    latitude, longitude = (np.where(placed, axis, np.nan) for axis in (north, east))
    return bare(columns.image_id.filter(pa.array(there)), latitude, longitude), (*notes, *note)
