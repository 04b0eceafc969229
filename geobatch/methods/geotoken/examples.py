"""Training images and their neighbours, as batches the network reads.

Vectors may be memory-mapped and in float16: a batch copies the rows it needs, and nothing else is ever in float32. At the
paper's size, 4.1 M images with three views of 768, they are 19 GB where float32 in memory would be 38. The gallery is held
once, and images name their neighbours by row: an array of neighbours' vectors would be 15 times the gallery. Whoever makes
the rows leaves each image itself out.

Two ways of hiding neighbours teach the network what to do when retrieval finds nothing near, the paper's open question:

- dropout hides them one by one, so that those left are still as near as ever, only fewer;
- a blackout hides all within a random radius of the truth, 1 to 2,500 km, each order of magnitude as likely: what is left is
  what a gallery without that region would have found. Where rows name more neighbours than the network reads, farther
  ones take the places of the hidden; the place between images, which leads, is hidden and not replaced.

Measured on the embedded world, the demo's network without places between images, 250 steps of 96: greedy places of 1,000 crops
within 200 km were 98.6 % plain and 98.4 % with half of the images blacked out; with all neighbours within 100 km hidden at
test time 72.6 and 69.0, within 2,500 km with those up to 500 km hidden 36.4 and 37.2. So short a training gains nothing by it.

What is hidden is a function of (seed, step) and the image's place in the whole batch, so that it is the same for any number
of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geobatch.errors import UserError
from geobatch.geo import distance
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.inputs import Context, codes_of, context
from geobatch.schema import RADII_KM

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Rows of the table of neighbours for each neighbour that the network reads, where a blackout needs farther ones.
SPARE = 2


@dataclass(frozen=True)
class Gallery:
    """G images that may be neighbours.

    Args:
        vectors: (G, D), the views of each image one after another.
        latitude: (G,) degrees.
        longitude: (G,) degrees.
    """

    vectors: Vectors
    latitude: Array
    longitude: Array


@dataclass(frozen=True)
class Examples:
    """Images with known places and their neighbours.

    Args:
        vectors: (N, D).
        latitude: (N,) degrees.
        longitude: (N,) degrees.
        neighbours: (N, M') rows of the gallery, nearest first, the image itself left out, -1 where there is none; the
            config's first M are read.
        gallery: what `neighbours` points into.
        rows: which of the N images these are; None: all.
    """

    vectors: Vectors
    latitude: Array
    longitude: Array
    neighbours: npt.NDArray[np.integer]
    gallery: Gallery
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    def at(self, rows: Rows) -> Rows:
        """Rows of these images -> rows of the arrays."""
        return rows if self.rows is None else self.rows[rows]

    def some(self, rows: Rows) -> Examples:
        """A part of these images."""
        return replace(self, rows=self.at(rows))

    def places(self) -> tuple[Array, Array]:
        """Latitude and longitude of these images, degrees."""
        rows = np.arange(len(self.vectors)) if self.rows is None else self.rows
        return self.latitude[rows], self.longitude[rows]


class Batches:
    """Examples as tensors; places become codes when they are taken, 0.2 µs each."""

    def __init__(self, config: GeoToken, examples: Examples) -> None:
        width = config.vector_length
        if examples.vectors.shape[1:] != (width,) or examples.gallery.vectors.shape[1:] != (width,):
            raise UserError(f"training vectors are not {width} long; set views and vector_size to the encoder's")
        if examples.neighbours.shape[1] < config.neighbours:
            raise UserError(f"the model reads {config.neighbours} neighbours; retrieve that many or lower `neighbours`")
        self.config = config
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def places(self, rows: Rows) -> tuple[Array, Array]:
        """Latitude and longitude of these rows, degrees."""
        at = self.examples.at(rows)
        return self.examples.latitude[at], self.examples.longitude[at]

    def take(self, rows: Rows, hidden: Mask | None = None) -> tuple[Context, Tensor]:
        """(B,) rows -> the batch and its codes (B, T).

        Args:
            hidden: (B, M') neighbours to pass over, others moving up.
        """
        config, gallery = self.config, self.examples.gallery
        at = self.examples.at(rows)
        near = np.asarray(self.examples.neighbours[at], np.int64)
        if hidden is not None:
            near = _moved_up(np.where(hidden, -1, near), lead=int(config.between))
        near = near[:, : config.neighbours]
        known, missing = np.maximum(near, 0), near < 0
        batch = context(
            config,
            np.asarray(self.examples.vectors[at], np.float32),
            np.asarray(gallery.vectors[known], np.float32),
            np.where(missing, np.nan, gallery.latitude[known]),
            gallery.longitude[known],
        )
        return batch, torch.from_numpy(codes_of(*self.places(rows), config))

    def blackout(self, rows: Rows, radius_km: Array) -> Mask:
        """(B, M') the neighbours of these rows that lie within (B,) radii of the truth."""
        near = np.asarray(self.examples.neighbours[self.examples.at(rows)], np.int64)
        gallery = self.examples.gallery
        latitude, longitude = self.places(rows)
        km = distance.haversine_km(latitude[:, None], longitude[:, None], gallery.latitude[near], gallery.longitude[near])
        return np.asarray((near >= 0) & (km <= radius_km[:, None]))


def _moved_up(near: Rows, lead: int) -> Rows:
    """Rows of neighbours with the hidden ones, -1, behind the others; the first `lead` columns stay where they are."""
    rest = near[:, lead:]
    order = np.argsort(rest < 0, axis=1, kind="stable")
    return np.concatenate([near[:, :lead], np.take_along_axis(rest, order, 1)], axis=1)


def dropped(training: Training, step: int, count: int) -> Mask:
    """(batch, count) which neighbours of a step's whole batch are hidden one by one."""
    generator = np.random.default_rng([training.seed, step, 1])
    return generator.random((training.batch, count)) < training.neighbour_dropout


def blackout_radii(training: Training, step: int) -> Array:
    """(batch,) km within which a step's images see no neighbour; 0 for those not blacked out."""
    generator = np.random.default_rng([training.seed, step, 2])
    struck = generator.random(training.batch) < training.blackout
    low, high = np.log(RADII_KM[0]), np.log(RADII_KM[-1])
    radius = np.exp(generator.uniform(low, high, training.batch))
    return np.where(struck, radius, 0.0)
