"""A network small enough to enumerate, and batches for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.examples import Examples, Gallery
from geobatch.methods.geotoken.inputs import Context, context
from geobatch.methods.geotoken.model import GeoTokenModel

TINY = GeoToken(
    level=3,
    views=("image", "text"),
    vector_size=6,
    neighbours=3,
    width=16,
    encoder_layers=2,
    decoder_layers=2,
    heads=2,
    feed_forward=32,
    dropout=0.0,
)

#: Every way of telling the network about prefixes and neighbours.
VARIANTS = [
    TINY,
    replace(TINY, prefix="sum", order="quadrant"),
    replace(TINY, prefix="hash", prefix_buckets=64),
    replace(TINY, level=5, group_size=2, similarity=True),
    replace(TINY, neighbour_places=("tokens", "fourier")),
    replace(TINY, neighbour_places=("fourier",), prefix="sum"),
    replace(TINY, relative=True, order="quadrant", similarity=True),
    replace(TINY, relative=True, order="quadrant", level=5, group_size=2, neighbour_places=()),
]


def model_of(config: GeoToken = TINY, seed: int = 0, sharpness: float = 12.0) -> GeoTokenModel:
    """Random weights; the heads are enlarged so that draws differ from uniform ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GeoTokenModel(config)
    with torch.no_grad():
        for head in model.heads:
            head.weight *= sharpness
    return model.eval()


def arrays(config: GeoToken = TINY, images: int = 4, seed: int = 0, neighbours: int | None = None) -> list[np.ndarray]:
    """The arguments of `context` after the config: vectors, neighbours' vectors, latitudes and longitudes."""
    rng = np.random.default_rng(seed)
    width, count = config.vector_length, config.neighbours if neighbours is None else neighbours
    shorter = len(config.views) ** -0.5  # as views are in a vector of unit length
    return [
        rng.normal(size=(images, width)) * shorter,
        rng.normal(size=(images, count, width)) * shorter,
        np.degrees(np.arcsin(rng.uniform(-1, 1, (images, count)))),
        rng.uniform(-180, 180, (images, count)),
    ]


def batch_of(config: GeoToken = TINY, images: int = 4, seed: int = 0, neighbours: int | None = None) -> Context:
    return context(config, *arrays(config, images, seed, neighbours))


def examples_of(config: GeoToken = TINY, images: int = 16, gallery: int = 40, seed: int = 0) -> Examples:
    """Random places and vectors; about one neighbour in six is missing."""
    rng = np.random.default_rng(seed)
    width = config.vector_length

    def places(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vectors = rng.normal(size=(count, width)).astype(np.float32)
        return vectors, np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)

    near = rng.integers(0, gallery, (images, config.neighbours))
    near[rng.random(near.shape) < 1 / 6] = -1
    return Examples(*places(images), near, Gallery(*places(gallery)))
