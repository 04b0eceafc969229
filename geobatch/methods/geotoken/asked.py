"""A table's images as the network reads them: vectors, neighbours, and their places, from columns of lists."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import UserError
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import Context, context
from geobatch.methods.geotoken.tables import column, padded


def queries(table: pa.Table, config: GeoToken) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Column `vector` as (N, D), and which rows can be used: those that are there and finite.

    Raises:
        UserError: vectors of another length than the model's.
    """
    width = config.vector_length
    lists = column(table, "vector")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    if np.any((lengths != 0) & (lengths != width)):
        raise UserError(
            f"image vectors are {int(lengths.max())} long, the model reads {width}; "
            "use the encoder that the model was trained with"
        )
    values = padded(lists, np.nan).astype(np.float32)
    if not values.shape[1]:
        values = np.full((len(table), width), np.nan, np.float32)
    return values, np.asarray(np.isfinite(values).all(axis=1))


def batch(table: pa.Table, vectors: npt.NDArray[np.float32], config: GeoToken) -> Context:
    """(N, D) vectors of a table's images and its columns `neighbours` and `neighbour_vectors` as one batch.

    A neighbour without a place, or whose vector is not whole and finite, counts as missing.
    """
    latitude, longitude = (padded(column(table, "neighbours", name), np.nan) for name in ("latitude", "longitude"))
    count, width = min(latitude.shape[1], config.neighbours), vectors.shape[1]
    flat = padded(column(table, "neighbour_vectors"), np.nan).astype(np.float32)
    near = np.full((len(table), count * width), np.nan, np.float32)
    near[:, : flat.shape[1]] = flat[:, : count * width]
    near = near.reshape(len(table), count, width)
    lost = ~np.isfinite(near).all(axis=2)
    latitude = np.where(lost, np.nan, latitude[:, :count])
    return context(config, vectors, near, latitude, longitude[:, :count])
