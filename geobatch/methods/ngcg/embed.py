"""The stage that embeds: texts by one side of the network, photographs and tiles by the other, into one space.

A row that cannot be embedded is a rejection of its own, whichever way the encoder is served (`serve`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from geobatch.actors import Hands
from geobatch.engine.pixels import pictures_of
from geobatch.errors import Rejection
from geobatch.methods.ngcg.serve import Model, Serving, open_embedder, unserved
from geobatch.stage import Stage, rejected

#: Slices that one engine works on at a time at least, so that it does not run dry between them.
AT_ONCE = 3


def hands(model: Model, serving: Serving, side: Literal["texts", "pictures"], workers: int, rows: int = 0) -> Hands:
    """The stage with its hands: one engine where it takes all CPUs, and slices enough to fill each.

    Args:
        workers: copies at most.
        rows: of a slice, where they are few.
    """
    make = {"model": model, "serving": serving, "side": side}
    if not by_engine(model, serving):
        return Hands(stage=Embed, make=make, workers=workers, gpus=serving.gpus)
    copies = workers if serving.gpus else 1
    at_once = max(AT_ONCE, 1 + serving.in_flight // rows) if rows else AT_ONCE
    return Hands(stage=Embed, make=make, workers=copies, gpus=serving.gpus, at_once=at_once)


def by_engine(model: Model, serving: Serving) -> bool:
    """Whether vLLM is likely to serve the encoder: it may still turn out that it cannot."""
    asked = serving.backend == "vllm" or (serving.backend == "auto" and serving.gpus > 0)
    return asked and unserved(model, serving) is None


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
