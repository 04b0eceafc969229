"""A place between gallery images: where the surface that a gallery spans comes closest to a query.

Vectors of an encoder whose similarity falls smoothly with distance lie near a two-dimensional surface, of
which the gallery knows points. The nearest point is at best half the gallery's spacing away (37 km in the
demo's world, median); the surface between points is not. Around a first guess the retrieved neighbours are
fitted with a plane, vector = c + J·(east, north), by weighted least squares, and the query is projected
onto it: x = (JᵀJ + λ)⁻¹Jᵀ(q - c). The plane is fitted anew around x, three times. That is image
registration (Lucas and Kanade, 1981) carried out between embeddings: in the demo's world it brings the
median error from 39 km (nearest neighbour) to 12 km, one pixel, and the share within 25 km from 26 % to 86
%.

A neighbour weighs by its distance to the guess, against the gallery's spacing there, and by its similarity.
Both matter: the nearest 24 on the sphere instead of the most similar reach 65 %, because the surface bends;
weights by distance alone 83 %. λ is the noise that the query has left, so a picture that shows nothing
(sand, ice) stays in its neighbours' middle and a clear coast is followed to the pixel. The same numbers
give the spread; errors shared by neighbours are not in it, and it comes out about two times too small.

What it does not do: choose between far clusters of neighbours (it starts in the one that the similarities
favour), or help where near images do not look alike, as street photos 50 km apart do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery import Gallery
from geobatch.geo import centre, point
from geobatch.geo.distance import EARTH_RADIUS_KM

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

_BLOCK = 1024  # queries at once: 12 MB of neighbours' vectors at 24 × 128
_LEAST_KM = 0.001  # reach where gallery images share one place


@dataclass(frozen=True, kw_only=True)
class Surface:
    """How a plane is fitted between neighbours."""

    neighbours: int = 24
    """Retrieved neighbours that are fitted."""

    spacing_rank: int = 3
    """The gallery's spacing at a place is the distance to its neighbour of this rank there."""

    reach: float = 1.0
    """Standard deviation of the weights over distance, in spacings."""

    temperature: float = 0.1
    """Of the weights over similarity."""

    first_temperature: float = 0.015
    """Of the weights over similarity whose medoid is the first guess."""

    smoothing: float = 0.003
    """Ridge of the slopes, relative to the sum of the weights: keeps two neighbours from making a plane."""

    rounds: int = 3
    """Fits, each around the place that the one before found."""


@dataclass(frozen=True)
class Meeting:
    """Where N queries meet the surface.

    Args:
        latitude: (N,) degrees.
        longitude: (N,) degrees.
        vectors: (N, D) unit vectors of the surface there.
        similarities: (N,) their inner products with the queries.
        spread_km: (N,) standard deviation of the place along its worse axis, by the fit's own account.
    """

    latitude: Floats
    longitude: Floats
    vectors: Vectors
    similarities: Vectors
    spread_km: Floats


def meet(gallery: Gallery, queries: Vectors, similarities: Vectors, rows: Rows, config: Surface | None = None) -> Meeting:
    """Projects queries onto the surface between their neighbours.

    Args:
        queries: (N, D) unit vectors.
        similarities: (N, K) as `Gallery.search` gave them, best first; the first `neighbours` are used, K is at least 1.
        rows: (N, K) likewise; -1 where there is none counts for nothing, and the first of each query is one.
    """
    config = config or Surface()
    parts = [
        _meet(gallery, queries[block], similarities[block], rows[block], config)
        for block in (slice(start, start + _BLOCK) for start in range(0, max(len(queries), 1), _BLOCK))
    ]
    return Meeting(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _meet(
    gallery: Gallery, queries: Vectors, similarities: Vectors, rows: Rows, config: Surface
) -> tuple[Floats, Floats, Vectors, Vectors, Floats]:
    rows, similarities = rows[:, : config.neighbours], similarities[:, : config.neighbours].astype(np.float64)
    vectors = gallery.vectors(rows)
    missing = rows < 0
    points = point.unit_vectors(*gallery.places(np.where(missing, rows[:, :1], rows)))
    below = similarities - similarities.max(axis=1, keepdims=True)
    guess = _first(points, below / config.first_temperature)
    spacing, _ = gallery.near(*point.lat_lon(guess), k=config.spacing_rank + 1)  # the guess itself is a gallery image
    reach = np.maximum(config.reach * spacing[:, -1], _LEAST_KM) / EARTH_RADIUS_KM
    plane = np.zeros((len(queries), 3, queries.shape[1]))
    spread = np.zeros(len(queries))
    for _ in range(config.rounds):
        east, north = _tangent(guess)
        offset = points - guess[:, None]
        flat = np.stack([np.einsum("nkx,nx->nk", offset, axis) for axis in (east, north)], axis=-1)
        flat /= reach[:, None, None]
        # Straight through the Earth: the other side of it would fold onto the tangent plane.
        far = (offset**2).sum(axis=2) / reach[:, None] ** 2
        weight = np.exp(np.maximum(below / config.temperature - far / 2, -200.0)) * ~missing
        plane = _fit(flat, vectors, weight, config.smoothing)
        step, deviation = _project(queries, plane)
        plane[:, 0] += np.einsum("nx,nxd->nd", step, plane[:, 1:])
        guess = guess + reach[:, None] * (step[:, :1] * east + step[:, 1:] * north)
        guess /= np.linalg.norm(guess, axis=1, keepdims=True)
        spread = deviation * reach * EARTH_RADIUS_KM
    there = plane[:, 0] / np.maximum(np.linalg.norm(plane[:, 0], axis=1, keepdims=True), 1e-12)
    similarity = np.einsum("nd,nd->n", queries, there)
    return *point.lat_lon(guess), there.astype(np.float32), similarity.astype(np.float32), spread


def _first(points: Floats, logits: Floats) -> Floats:
    """(N, 3): the neighbour with the least expected distance to the others, weighted by the softmax of the
    logits.
    """
    rows = np.arange(len(points))
    return points[rows, centre.least_expected_distance(points, np.exp(logits))] if len(points) else points[:, 0]


def _tangent(at: Floats) -> tuple[Floats, Floats]:
    """(N, 3) unit vectors to the east and north; at a pole any two that are square to it."""
    pole = np.where(np.abs(at[:, 2:]) < 0.9999999, np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 1.0, 0.0]]))
    east = np.cross(pole, at)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    return east, np.asarray(np.cross(at, east), np.float64)


def _fit(flat: Floats, vectors: Vectors, weight: Floats, smoothing: float) -> Floats:
    """Weighted least squares of vector = c + J·flat: (N, 3, D), rows c and J."""
    design = np.concatenate([np.ones((*flat.shape[:2], 1)), flat], axis=2)
    weighted = (design * weight[..., None]).transpose(0, 2, 1)
    ridge = np.diag([1e-9, smoothing, smoothing]) * weight.sum(axis=1)[:, None, None]
    fitted: Floats = np.linalg.solve(weighted @ design + ridge, weighted.astype(np.float32) @ vectors)
    return fitted


def _project(queries: Vectors, plane: Floats) -> tuple[Floats, Floats]:
    """(N, 2) steps and (N,) deviations in units of the reach; a step is at most one reach long."""
    slopes = plane[:, 1:]
    rest = queries - plane[:, 0]
    square = slopes @ slopes.transpose(0, 2, 1)
    along = np.einsum("nxd,nd->nx", slopes, rest)
    freedom = max(queries.shape[1] - 2, 1)
    noise = (rest**2).sum(axis=1) / freedom
    step, inverse = np.zeros_like(along), np.zeros_like(square)
    for _ in range(2):  # the noise is known once the step is
        inverse = np.linalg.inv(square + np.maximum(noise, 1e-9)[:, None, None] * np.eye(2))
        step = np.einsum("nxy,ny->nx", inverse, along)
        noise = ((rest - np.einsum("nx,nxd->nd", step, slopes)) ** 2).sum(axis=1) / freedom
    deviation = np.sqrt(noise * np.linalg.eigvalsh(inverse)[:, -1])
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return step * np.minimum(1.0, 1.0 / np.maximum(length, 1e-12)), deviation
