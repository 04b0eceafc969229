"""A gallery of random tiles, and the table that it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from geobatch.engine import gallery as galleries
from geobatch.engine.gallery import Gallery
from geobatch.schema import FATE, GALLERY, empty_columns

SIZE = 16


def unit(count: int, seed: int, size: int = SIZE) -> np.ndarray:
    """(count, size) float32 unit vectors."""
    made = np.random.default_rng(seed).normal(size=(count, size))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def scattered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes, uniform on the sphere."""
    draw = np.random.default_rng(seed)
    return np.degrees(np.arcsin(draw.uniform(-1, 1, count))), draw.uniform(-180, 180, count)


def table(vectors: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, footprint: np.ndarray | None = None) -> pa.Table:
    """Rows of a gallery called t000, t001, …"""
    rows = len(vectors)
    columns = {
        **empty_columns(list(GALLERY), rows),
        "image_id": [f"t{row:03d}" for row in range(rows)],
        "uri": ["tiles"] * rows,
        "latitude": pa.array(latitude, pa.float64(), from_pandas=True),
        "longitude": pa.array(longitude, pa.float64(), from_pandas=True),
        "vector": list(vectors),
        "status": ["placed"] * rows,
    }
    if footprint is not None:
        columns["footprint_km"] = pa.array(footprint, pa.float32())
    return pa.table(columns)


def build(folder: Path, rows: int = 200, seed: int = 0, footprint: bool = True) -> tuple[Gallery, np.ndarray]:
    """A gallery in `folder`, and its vectors in the order of its rows."""
    vectors, (latitude, longitude) = unit(rows, seed), scattered(rows, seed)
    widths = np.linspace(0.1, 9.0, rows) if footprint else None
    return galleries.build(folder, [table(vectors, latitude, longitude, widths)]), vectors


def asking(vectors: np.ndarray, names: list[str] | None = None) -> pa.Table:
    """What Match is given."""
    names = names or [f"q{row}" for row in range(len(vectors))]
    lists = pa.array(list(vectors), pa.list_(pa.float32()))
    return pa.table({"image_id": names, "vector": lists, **empty_columns(FATE, len(names))})
