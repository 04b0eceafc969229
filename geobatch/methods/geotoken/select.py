"""Which of the candidates becomes the place, and how sure the model is of it.

The draws are a sample of the model's distribution over places, so a place can be judged by its expected loss under them.
Choosing the single likeliest cell is the wrong loss: a cell 4 km wide that holds 3 % wins over the middle of thirty cells
that together hold 60 %. `expected_distance` takes the pool's medoid on the sphere; `expected_share` the place with
the most posterior mass within the field's five radii. Both may answer with, and count as evidence, the places of
retrieved neighbours: these share a given mass by a softmax of their similarities.

The stated probabilities are the posterior's mass within each radius of the place. They are the model's own, not
calibrated: drawn at T = 0.7, they are more certain than the network at T = 1.

Not covered: the reward model and the judge of the paper (`judge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geobatch.errors import Rejection
from geobatch.engine.gallery import load
from geobatch.geo import centre, distance, point
from geobatch.methods.geotoken.config import Selection
from geobatch.methods.geotoken.tables import column, padded, vectors
from geobatch.schema import LOCATED, RADII_KM
from geobatch.stage import Stage

Array = npt.NDArray[np.float64]

#: Unit vectors (P, 3) -> rows (P,) of the gallery images nearest to them.
Nearest = Callable[[Array], npt.NDArray[np.int64]]

_BLOCK = 1 << 22  # inner products at a time: 32 MB


@dataclass(frozen=True)
class Pool:
    """N images with up to K candidates and M neighbours; what is missing has weight 0.

    Args:
        latitude: (N, K + M) degrees, NaN where missing; candidates first.
        longitude: (N, K + M) degrees.
        points: (N, K + M, 3) the same as unit vectors, zero where missing.
        weights: (N, K + M) the posterior; rows sum to 1.
        scores: (N, K) log-probabilities, -inf where missing.
        similarities: (N, M) of the neighbours, -inf where missing.
    """

    latitude: Array
    longitude: Array
    points: Array
    weights: Array
    scores: Array
    similarities: Array


def pool(table: pa.Table, selection: Selection) -> Pool:
    """The posterior of each row: its draws, and `neighbour_mass` spread over its nearest neighbours.

    Raises:
        Rejection: a row without a single draw.
    """
    lists = {name: padded(column(table, "candidates", name), np.nan) for name in ("latitude", "longitude", "score")}
    near_lists = {
        name: padded(column(table, "neighbours", name), np.nan)[:, : selection.neighbours]
        for name in ("latitude", "longitude", "similarity")
    }
    drawn = ~np.isnan(lists["latitude"])
    near = ~(np.isnan(near_lists["latitude"]) | np.isnan(near_lists["similarity"]))
    counts = np.where(drawn, padded(column(table, "counts"), 0.0), 0.0)
    if not counts.any(axis=1).all():
        raise Rejection("failed", "not one candidate was drawn for it")
    similarities = np.where(near, near_lists["similarity"], -np.inf)
    mass = np.where(near.any(axis=1, keepdims=True), selection.neighbour_mass, 0.0)
    share = soft(similarities, selection.neighbour_temperature)
    latitude, longitude = (np.concatenate([lists[name], near_lists[name]], axis=1) for name in ("latitude", "longitude"))
    return Pool(
        latitude,
        longitude,
        np.nan_to_num(point.unit_vectors(latitude, longitude)),
        np.concatenate([counts / counts.sum(axis=1, keepdims=True) * (1 - mass), share * mass], axis=1),
        np.where(drawn, lists["score"], -np.inf),
        similarities,
    )


def soft(values: Array, temperature: float) -> Array:
    """Softmax of the rows of (N, M) divided by `temperature`; -inf gets 0, a row of nothing but -inf all zeros."""
    if not values.shape[1]:
        return values
    highest = values.max(axis=1, keepdims=True)
    weights = np.exp((values - np.where(np.isfinite(highest), highest, 0.0)) / temperature)
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def chosen(pool: Pool, selection: Selection, similarity: Array | None = None) -> tuple[npt.NDArray[np.intp], Array]:
    """Positions (N,) in the pool, and their scores (N,): larger is better, the meaning is the selector's.

    Args:
        similarity: (N, K) of the candidates, for the selector of that name.

    Returns:
        Scores are log-probability, cosine, minus the expected distance in km, or the expected share. "similarity" without
        anything to compare with falls back to the best log-probability, with a score of -inf (null in the table).
    """
    rows = np.arange(len(pool.points))
    if selection.selector in ("log_probability", "similarity"):
        judged = pool.scores if similarity is None else np.where(np.isfinite(pool.scores), similarity, -np.inf)
        best = np.argmax(judged, axis=1)
        return best, judged[rows, best]
    options = np.where(pool.weights[..., None] > 0, pool.points, 0.0)
    if selection.selector == "expected_distance":
        best = centre.least_expected_distance(pool.points, pool.weights, options)
        cosines = np.einsum("nkd,nd->nk", pool.points, pool.points[rows, best]).clip(-1, 1)
        return best, -(pool.weights * np.arccos(cosines)).sum(axis=1) * distance.EARTH_RADIUS_KM
    best = centre.most_expected_share(pool.points, pool.weights, options)
    return best, centre.mass_within(pool.points[rows, best], pool.points, pool.weights).mean(axis=1)


def nearest_of(points: Array) -> Nearest:
    """Exact search among (G, 3) unit vectors by inner products; for galleries beyond a million give an index instead."""

    def nearest(queries: Array) -> npt.NDArray[np.int64]:
        block = max(1, _BLOCK // max(1, len(points)))
        # float64: in float32 the cosine of points 3 km apart is 1.
        parts = [np.argmax(queries[at : at + block] @ points.T, axis=1) for at in range(0, len(queries), block)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    return nearest


def neighbour_similarity(pool: Pool) -> Array:
    """(N, K): the similarity of the retrieved neighbour nearest to each candidate; -inf for images without one."""
    count = pool.scores.shape[1]
    if not pool.similarities.shape[1]:
        return np.full_like(pool.scores, -np.inf)
    cosines = pool.points[:, :count] @ pool.points[:, count:].transpose(0, 2, 1)
    cosines = np.where(np.isfinite(pool.similarities)[:, None], cosines, -np.inf)
    return np.take_along_axis(pool.similarities, cosines.argmax(axis=2), axis=1)


class Select(Stage):
    """Candidates -> one place, its score and the probabilities that the truth lies within the radii.

    Args:
        nearest: finds the gallery images nearest to candidates, for the selector "similarity"; without it only the retrieved
            neighbours are compared.
        gallery_vectors: (G, V·D) unit vectors that `nearest` numbers; a memory map will do.
        gallery: folder of a gallery that gives both.
    """

    drops = ("vector", "counts")
    adds = tuple(field for field in LOCATED if field.name not in ("candidates", "neighbours"))

    def __init__(
        self,
        selection: Selection | None = None,
        nearest: Nearest | None = None,
        gallery_vectors: npt.NDArray[np.float32] | None = None,
        gallery: str | None = None,
    ) -> None:
        self.selection = selection or Selection()
        self.nearest, self.gallery_vectors = nearest, gallery_vectors
        if gallery is not None and self.selection.selector == "similarity":
            opened = load(Path(gallery))
            self.gallery_vectors = opened.vectors(np.arange(len(opened)))
            self.nearest = lambda points: opened.near(*point.lat_lon(points))[1][:, 0]

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `candidates`, `counts`, `neighbours`, and for "similarity" over a gallery `vector`."""
        posterior = pool(table, self.selection)
        similarity = self._similarity(table, posterior) if self.selection.selector == "similarity" else None
        best, scores = chosen(posterior, self.selection, similarity)
        rows = np.arange(len(best))
        within = centre.mass_within(posterior.points[rows, best], posterior.points, posterior.weights, RADII_KM)
        values = [posterior.latitude[rows, best], posterior.longitude[rows, best], scores, *within.T]
        for field, value in zip(self.adds, values, strict=True):
            table = table.append_column(field, pa.array(value, field.type, mask=~np.isfinite(value)))
        return table

    def _similarity(self, table: pa.Table, posterior: Pool) -> Array:
        if self.nearest is None or self.gallery_vectors is None:
            return neighbour_similarity(posterior)
        rows, places = np.nonzero(np.isfinite(posterior.scores))
        found = self.nearest(posterior.points[rows, places])
        queries = vectors(table, "vector")
        out = np.full(posterior.scores.shape, -np.inf)
        out[rows, places] = np.einsum("pd,pd->p", queries[rows], self.gallery_vectors[found])
        return out
