"""Vectors find their neighbours in the gallery: one that this process maps, or one that several hold a part of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geobatch.engine.gallery import load
from geobatch.engine.gallery.members import members
from geobatch.engine.gallery.sharded import open_sharded
from geobatch.engine.surface import Surface
from geobatch.methods.geotoken.neighbours import find
from geobatch.methods.geotoken.tables import vectors
from geobatch.schema import NEIGHBOURS
from geobatch.service import Service
from geobatch.stage import Stage


class Retrieve(Stage):
    """Adds the neighbours that the network reads, and their vectors (`geobatch.methods.geotoken.neighbours`).

    Args:
        gallery: a gallery's folder.
        neighbours: how many (M; 15 in the paper), fewer where the gallery has fewer.
        between: whether the first is the place between images.
        shards: actors that hold a part of the gallery each; 0: this stage opens all of it.
        fingerprint: of the gallery when the run began; default: any.
        gpu: search on the GPU that this process sees, where FAISS is built for one; parts search on the CPU.

    Raises:
        UserError: no gallery, one that is never cut, or one that changed since the run began.
    """

    adds = (pa.field("neighbours", NEIGHBOURS), pa.field("neighbour_vectors", pa.list_(pa.float32())))

    def __init__(
        self,
        gallery: str,
        neighbours: int,
        between: bool = False,
        shards: int = 0,
        fingerprint: str | None = None,
        gpu: bool = False,
    ) -> None:
        self.neighbours, self.surface = neighbours, Surface() if between else None
        if not shards:
            self.gallery = load(Path(gallery), gpu=gpu, fingerprint=fingerprint)
            return
        self.parts = members(gallery, shards, fingerprint)
        self.gallery = open_sharded(Path(gallery), self.parts.ask, fingerprint)

    @classmethod
    def services(cls, gallery: str, shards: int = 0, fingerprint: str | None = None, **_: Any) -> list[Service]:
        """What the stage asks, given the arguments of its constructor (`geobatch.service.serving`)."""
        return [members(gallery, shards, fingerprint)] if shards else []

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `vector`, (N, D) unit vectors as lists."""
        found = find(self.gallery, vectors(table, "vector"), self.neighbours, self.surface)
        count, width = found.rows.shape
        structs = pa.StructArray.from_arrays(
            [
                found.ids,
                pa.array(found.latitude.ravel()),
                pa.array(found.longitude.ravel()),
                pa.array(found.similarities.ravel(), pa.float32()),
            ],
            fields=list(NEIGHBOURS.value_type),
        )
        near = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * width, structs, type=NEIGHBOURS)
        flat = found.vectors.reshape(count, -1)
        offsets = np.arange(count + 1, dtype=np.int32) * flat.shape[1]
        lists = pa.ListArray.from_arrays(offsets, pa.array(flat.ravel()))
        return table.append_column(self.adds[0], near).append_column(self.adds[1], lists)
