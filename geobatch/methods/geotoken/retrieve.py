"""Vectors find their neighbours in the gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from geobatch.engine.gallery import load
from geobatch.methods.geotoken.tables import vectors
from geobatch.schema import NEIGHBOURS
from geobatch.stage import Stage


class Retrieve(Stage):
    """Adds the nearest images of the gallery, most similar first, and their vectors for the network to read.

    Args:
        gallery: a gallery's folder.
        neighbours: how many (M; 15 in the paper), fewer where the gallery has fewer.
    """

    adds = (pa.field("neighbours", NEIGHBOURS), pa.field("neighbour_vectors", pa.list_(pa.float32())))

    def __init__(self, gallery: str, neighbours: int) -> None:
        self.gallery, self.neighbours = load(Path(gallery)), neighbours

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `vector`, (N, D) unit vectors as lists."""
        similarities, rows = self.gallery.search(vectors(table, "vector"), self.neighbours)
        latitude, longitude = self.gallery.places(rows)
        count, width = rows.shape
        structs = pa.StructArray.from_arrays(
            [
                self.gallery.ids(rows),
                pa.array(latitude.ravel()),
                pa.array(longitude.ravel()),
                pa.array(similarities.ravel(), pa.float32()),
            ],
            fields=list(NEIGHBOURS.value_type),
        )
        near = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * width, structs, type=NEIGHBOURS)
        flat = self.gallery.vectors(rows).reshape(count, -1)
        offsets = np.arange(count + 1, dtype=np.int32) * flat.shape[1]
        lists = pa.ListArray.from_arrays(offsets, pa.array(flat.ravel()))
        return table.append_column(self.adds[0], near).append_column(self.adds[1], lists)
