"""The neighbours of an image, as training and retrieval both see them.

With a `Surface`, the first neighbour is no image: it is the place where the query meets the surface between
gallery images (`geobatch.engine.surface`), with the surface's vector there, as if the gallery held one more
image exactly where it would look most like the query. The network reads it like any other neighbour, the
pool weighs it by its similarity, which is nearly always the highest. Its image_id is null, and figures for
"the nearest gallery image" leave it out.

Training must do the same as retrieval, so both call `find`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geobatch.engine.gallery import Gallery
from geobatch.engine.surface import Surface, meet
from geobatch.errors import UserError

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)


@dataclass(frozen=True)
class Found:
    """N images with M neighbours each, most similar first but for the place between images, which leads.

    Args:
        ids: N·M image_ids, null for a place between images.
        rows: (N, M) rows of the gallery, -1 for a place between images, and behind all others where a group leaves too few.
        similarities: (N, M), -inf for what is missing.
        latitude: (N, M) degrees, NaN for what is missing.
        longitude: (N, M) degrees, likewise.
        vectors: (N, M, D), zeros for what is missing.
    """

    ids: pa.Array
    rows: npt.NDArray[np.int64]
    similarities: Vectors
    latitude: Array
    longitude: Array
    vectors: Vectors


def find(
    gallery: Gallery,
    queries: Vectors,
    count: int,
    surface: Surface | None = None,
    exclude_ids: Sequence[str | None] | None = None,
    exclude_groups: Sequence[str | None] | None = None,
) -> Found:
    """The neighbours of (N, D) unit vectors: `count` of them, or fewer where the gallery is smaller.

    Args:
        surface: leads with the place between images, which counts as one of `count`.
        exclude_ids: one image_id (or None) for each query that must not be among its neighbours, nor bear on the surface.
        exclude_groups: one group (or None) for each query none of whose images may either.

    Raises:
        UserError: a query that is to have a place between images has none left.
    """
    wide = count if surface is None else max(count, surface.neighbours)
    similarities, rows = gallery.search(queries, wide, exclude_ids, exclude_groups)
    kept = rows[:, : count - (surface is not None)]
    found = Found(
        gallery.ids(kept).cast(pa.string()),
        kept,
        similarities[:, : kept.shape[1]],
        *gallery.places(kept),
        gallery.vectors(kept),
    )
    if surface is None or not rows.shape[1]:
        return found
    if (rows[:, 0] < 0).any():
        raise UserError("every image of the gallery is of one training image's group; correct the groups it was built with")
    between = meet(gallery, queries, similarities, rows, surface)
    width = kept.shape[1] + 1
    at = np.concatenate([np.full((len(kept), 1), -1), np.arange(kept.size).reshape(kept.shape)], axis=1).ravel()
    ids = found.ids.take(pa.array(at, mask=at < 0)) if kept.size else pa.nulls(len(kept) * width, pa.string())
    return Found(
        ids,
        np.pad(kept, ((0, 0), (1, 0)), constant_values=-1),
        _led(between.similarities, found.similarities),
        _led(between.latitude, found.latitude),
        _led(between.longitude, found.longitude),
        np.concatenate([between.vectors[:, None], found.vectors], axis=1),
    )


def _led(first: npt.NDArray[Real], others: npt.NDArray[Real]) -> npt.NDArray[Real]:
    return np.concatenate([first[:, None], others], axis=1)
