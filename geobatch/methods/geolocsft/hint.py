"""Where similar pictures were taken, told to the student as hints (retrieval-augmented prompts, as G3 has them).

The nearest images of a gallery go into the question, the nearest first, as coordinates with their cosines. They are hints
and no candidates: the student may answer with another place. They also end up in the table as `neighbours`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from geobatch.engine.gallery import load
from geobatch.engine.pixels import pictures_of
from geobatch.engine.vision import Vision
from geobatch.schema import NEIGHBOURS
from geobatch.stage import Stage


class Hint(Stage):
    """Adds `neighbours` and the texts of `hints`; keeps the picture for the student.

    Args:
        encoder: folder of the encoder that built the gallery.
        gallery: folder of the gallery.
        count: neighbours an image.
        batch: pictures that go through the encoder together.
        fingerprint: that the gallery must have, so that a run is not made of two; None: any.
    """

    adds = (pa.field("neighbours", NEIGHBOURS), pa.field("hints", pa.list_(pa.string())))

    def __init__(self, encoder: str, gallery: str, count: int = 5, batch: int = 256, fingerprint: str | None = None) -> None:
        # On a CPU: an actor that asks for no GPU sees them all, and vLLM counts on having its own to itself.
        self.vision, self.count = Vision(encoder, batch=batch, device="cpu"), count
        self.gallery = load(Path(gallery), fingerprint=fingerprint)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns."""
        found = self.vision.encode(pictures_of(table))
        similarity, rows = self.gallery.search(found, min(self.count, len(self.gallery)))
        latitude, longitude = self.gallery.places(rows)
        names = np.array(self.gallery.ids(rows.ravel()).to_pylist(), object).reshape(rows.shape)
        near = [
            [
                {"image_id": name, "latitude": lat, "longitude": lon, "similarity": cosine}
                for name, lat, lon, cosine in zip(*row, strict=True)
            ]
            for row in zip(names, latitude, longitude, similarity, strict=True)
        ]
        hints = [[line(**each) for each in row] for row in near]
        return table.append_column(self.adds[0], pa.array(near, NEIGHBOURS)).append_column(
            self.adds[1], pa.array(hints, self.adds[1].type)
        )


def line(latitude: float, longitude: float, similarity: float, **_: object) -> str:
    """One hint as the student reads it."""
    return f"lat: {latitude:.4f}, lon: {longitude:.4f} (similarity {similarity:.2f})"
