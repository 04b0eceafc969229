"""Recipe: tables of draws and neighbours whose errors are known, for selectors and calibrations.

An image's place between is off by a Gaussian whose width hangs on how unlike it is (`width_km`); draws scatter around that
place; one image in `lost` is looked for around a place 1,000 km or more away.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geobatch.geo import point
from geobatch.schema import CANDIDATES, FATE, NEIGHBOURS

Floats = np.ndarray


def width_km(unlike: Floats) -> Floats:
    """Standard deviation along each axis of the place between."""
    return 300 * unlike


def known(images: int, seed: int, between: bool = True, draws: int = 8, lost: int = 40) -> tuple[pa.Table, Floats, Floats]:
    """A table as `Select` and `fit` read it, and the true latitudes and longitudes (N,) in degrees."""
    rng = np.random.default_rng(seed)
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, images))), rng.uniform(-180, 180, images)
    truth = point.unit_vectors(latitude, longitude)
    unlike = np.exp(rng.normal(np.log(0.03), 0.6, images))
    seen = truth.copy()
    seen[::lost] = around(rng, seen[::lost], np.full(len(seen[::lost]), 1500.0))
    met = around(rng, seen, width_km(unlike))
    drawn = around(rng, np.repeat(met, draws, axis=0), np.full(images * draws, 6.0))
    near = around(rng, np.repeat(seen, 4, axis=0), np.full(images * 4, 40.0))
    similarity = np.sort(1 - unlike[:, None] - rng.exponential(0.05, (images, 4)), axis=1)[:, ::-1]
    places = np.concatenate([met[:, None], near.reshape(images, 4, 3)], axis=1) if between else near.reshape(images, 4, 3)
    alike = np.column_stack([1 - unlike, similarity]) if between else similarity
    names = np.tile(np.array([None, "a", "b", "c", "d"] if between else ["a", "b", "c", "d"], dtype=object), images)
    lat, lon = point.lat_lon(places.reshape(-1, 3))
    neighbours = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), lat, lon, pa.array(alike.ravel(), pa.float32())], fields=list(NEIGHBOURS.value_type)
    )
    lat, lon = point.lat_lon(drawn)
    scores = np.sort(rng.normal(-8, 1, (images, draws)), axis=1)[:, ::-1]
    entries = len(drawn)
    candidates = pa.StructArray.from_arrays(
        [
            *(pa.array(lat), pa.array(lon), pa.array(scores.ravel(), pa.float32())),
            *(pa.array(rng.integers(1, 5, entries), pa.int32()), pa.nulls(entries, pa.float32())),
            pa.array(["sample"] * entries),
        ],
        fields=list(CANDIDATES.value_type),
    )
    columns = {
        "image_id": pa.array([f"{seed}/{row:05d}" for row in range(images)]),
        "candidates": _lists(candidates, images, CANDIDATES),
        "neighbours": _lists(neighbours, images, NEIGHBOURS),
        **{field.name: pa.nulls(images, field.type) for field in FATE},
    }
    return pa.table(columns), latitude, longitude


def around(rng: np.random.Generator, at: Floats, km: Floats) -> Floats:
    """Points (N, 3) off by a Gaussian of the given width along each of two axes."""
    off = at + rng.normal(size=at.shape) * (km / 6371.0)[:, None]
    return off / np.linalg.norm(off, axis=1, keepdims=True)


def _lists(structs: pa.StructArray, images: int, kind: pa.DataType) -> pa.Array:
    step = len(structs) // images
    return pa.ListArray.from_arrays(pa.array(np.arange(images + 1) * step, pa.int32()), structs).cast(kind)
