"""Pictures become unit vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geobatch.engine.pixels import pictures_of
from geobatch.engine.vision import Precision, Vision
from geobatch.stage import Stage


class Embed(Stage):
    """Adds the vector that retrieval searches with and the network reads; drops the picture, unless a judge is to see it.

    Args:
        encoder: folder of an image encoder (`geobatch.engine.vision`).
        batch: pictures that go through it together.
        precision: of its arithmetic.
        device: "auto" takes a GPU that this process sees, and an actor that asked for none sees them all.
        keep_picture: whether the picture travels on, 340 KB a row through every stage up to `Judge`.
    """

    adds = (pa.field("vector", pa.list_(pa.float32())),)

    def __init__(
        self,
        encoder: str,
        batch: int = 256,
        precision: Precision = "auto",
        keep_picture: bool = False,
        device: str = "auto",
    ) -> None:
        self.drops = () if keep_picture else ("picture", "picture_width", "picture_height")
        self.vision = Vision(encoder, batch=batch, precision=precision, device=device)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `picture`, `picture_width` and `picture_height`."""
        found = self.vision.encode(pictures_of(table))
        offsets = np.arange(len(found) + 1, dtype=np.int32) * found.shape[1]
        return table.append_column(self.adds[0], pa.ListArray.from_arrays(offsets, pa.array(found.ravel())))
