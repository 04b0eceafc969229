"""What an image's candidates and neighbours say, as rectangular arrays: the evidence that a place is chosen from.

Three kinds of places stand side by side. Draws are counted (30 draws may be 28 cells). A place between gallery images
leads the neighbours where the model reads one; it has no image_id. The others are gallery images, nearest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import Rejection
from geobatch.geo import point
from geobatch.methods.geotoken.tables import column, padded

Array = npt.NDArray[np.float64]

#: Kinds of places in a pool, by number.
KINDS = ("draws", "between", "neighbours")
DRAW, BETWEEN, NEIGHBOUR = range(3)
_MISSING = -1


@dataclass(frozen=True)
class Pool:
    """N images with up to K candidates and M neighbours.

    Args:
        latitude: (N, K + M) degrees, NaN where missing; candidates first.
        longitude: (N, K + M) degrees.
        points: (N, K + M, 3) the same as unit vectors, zero where missing.
        kinds: (N, K + M) positions in `KINDS`, -1 where missing.
        draws: (N, K) the candidates' shares of the draws, or of their probability where none was drawn; rows sum to 1.
        scores: (N, K) log-probabilities, -inf where missing.
        similarities: (N, M) of the neighbours, -inf where missing.
    """

    latitude: Array
    longitude: Array
    points: Array
    kinds: npt.NDArray[np.int8]
    draws: Array
    scores: Array
    similarities: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def candidates(self) -> int:
        """K."""
        return self.draws.shape[1]


def pool(table: pa.Table, neighbours: int) -> Pool:
    """The candidates of each row and its first neighbours.

    Raises:
        Rejection: a row without a single draw.
    """
    drawn_lists = {
        name: padded(column(table, "candidates", name), np.nan) for name in ("latitude", "longitude", "score", "count")
    }
    near_lists = {
        name: padded(column(table, "neighbours", name), np.nan)[:, :neighbours]
        for name in ("latitude", "longitude", "similarity")
    }
    drawn = ~np.isnan(drawn_lists["latitude"])
    near = ~(np.isnan(near_lists["latitude"]) | np.isnan(near_lists["similarity"]))
    if not drawn.any(axis=1).all():
        raise Rejection("failed", "not one candidate was drawn for it")
    scores = np.where(drawn, drawn_lists["score"], -np.inf)
    counts = np.where(drawn, np.nan_to_num(drawn_lists["count"]), 0.0)
    # Of a beam nothing was drawn: its candidates weigh by their probability.
    counts = np.where(counts.any(axis=1, keepdims=True), counts, soft(scores, 1.0))
    latitude, longitude = (np.concatenate([drawn_lists[name], near_lists[name]], axis=1) for name in ("latitude", "longitude"))
    kinds = np.concatenate(
        [
            np.where(drawn, DRAW, _MISSING),
            np.where(near, np.where(_unnamed(table)[:, :neighbours], BETWEEN, NEIGHBOUR), _MISSING),
        ],
        axis=1,
    )
    return Pool(
        latitude=latitude,
        longitude=longitude,
        points=np.nan_to_num(point.unit_vectors(latitude, longitude)),
        kinds=kinds.astype(np.int8),
        draws=counts / counts.sum(axis=1, keepdims=True),
        scores=scores,
        similarities=np.where(near, near_lists["similarity"], -np.inf),
    )


def soft(values: Array, temperature: float) -> Array:
    """Softmax of the rows of (N, M) divided by `temperature`; -inf gets 0, a row of nothing but -inf all zeros."""
    if not values.shape[1]:
        return values
    highest = values.max(axis=1, keepdims=True)
    weights = np.exp((values - np.where(np.isfinite(highest), highest, 0.0)) / temperature)
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def neighbour_similarity(pool: Pool) -> Array:
    """(N, K): the similarity of the retrieved neighbour nearest to each candidate; -inf for images without one."""
    count = pool.candidates
    if not pool.similarities.shape[1]:
        return np.full_like(pool.scores, -np.inf)
    cosines = pool.points[:, :count] @ pool.points[:, count:].transpose(0, 2, 1)
    cosines = np.where(np.isfinite(pool.similarities)[:, None], cosines, -np.inf)
    return np.take_along_axis(pool.similarities, cosines.argmax(axis=2), axis=1)


def _unnamed(table: pa.Table) -> npt.NDArray[np.bool_]:
    """(N, M): which neighbours are no image."""
    names = column(table, "neighbours", "image_id")
    numbers = pa.ListArray.from_arrays(names.offsets, pc.cast(pc.is_null(names.flatten()), pa.int8()))
    return padded(numbers, 0.0) > 0
