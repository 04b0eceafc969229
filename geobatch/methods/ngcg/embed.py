"""The stage that embeds: texts by one side of the network, photographs and tiles by the other, into one space.

A row that cannot be embedded is a rejection of its own, whichever way the encoder is served (`serve`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from geobatch.engine.pixels import pictures_of
from geobatch.errors import Rejection
from geobatch.methods.ngcg.serve import Model, Serving, open_embedder
from geobatch.stage import Stage, rejected


class Embed(Stage):
    """Adds `vector`, of unit length; drops the picture and keeps the text.

    Args:
        model: see `Model`.
        serving: see `Serving`.
        side: what is embedded: "texts" needs the column `text`, "pictures" PICTURE's columns.

    Raises:
        UserError: the model cannot be served as asked.
        MachineError: vLLM does not start.
    """

    drops = ("picture", "picture_width", "picture_height")
    adds = (pa.field("vector", pa.list_(pa.float32())),)

    def __init__(self, model: Model, serving: Serving | None = None, side: Literal["texts", "pictures"] = "texts") -> None:
        self.side = side
        self.embedder = open_embedder(model, serving or Serving())

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `image_id` and what its side reads.

        Raises:
            MachineError: every one of several rows failed, and not for what they are.
        """
        keys = table["image_id"].to_pylist()
        if self.side == "texts":
            found = self.embedder.texts(keys, table["text"].to_pylist())
        else:
            found = self.embedder.pictures(keys, pictures_of(table))
        fates = {row: each for row, each in enumerate(found) if isinstance(each, Rejection)}
        vectors = [each for each in found if not isinstance(each, Rejection)]
        sizes = [0 if isinstance(each, Rejection) else self.embedder.dimension for each in found]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        values = np.concatenate(vectors) if vectors else np.zeros(0, np.float32)
        missing = pa.array([isinstance(each, Rejection) for each in found])
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.float32()), mask=missing)
        return rejected(table.append_column(self.adds[0], column), "embed", fates)

    def close(self) -> None:
        """Stops the encoder."""
        self.embedder.close()
