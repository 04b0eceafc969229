"""Pictures become vectors that places can be compared with: CLIP's image embedding, and GeoCLIP's head on it.

The trunk is any CLIP that `geobatch.engine.vision` reads, by folder or hub name; the published head was trained on ViT-L/14's
embedding *before* it is brought to unit length, and the result is what has unit length. Pictures come decoded to 336 pixels a
side and are resized once more to CLIP's 224: on 20 photographs that is on average 0.7 of 255 levels from what CLIP's own
processor makes of the whole image, and 0.3 with `--decode.side 448`. Where no resize is needed, nothing differs.

bfloat16, where the hardware has it, is the trunk's alone: the head is a thousandth of the work. ViT-L/14 takes 2.2 s a picture
of one core of an AMD EPYC in float32 and 1.1 s in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from geobatch.engine import pixels
from geobatch.engine.vision import Precision, bf16_pays, network
from geobatch.errors import UserError
from geobatch.methods.geoclip.weights import image_head
from geobatch.stage import Stage


class ImageEncoder:
    """CLIP and a head.

    Args:
        model: folder or hub name of a CLIP.
        head: file of the head's weights.
        batch: pictures that go through together.
        precision: of CLIP's arithmetic; "auto" takes bfloat16 where the hardware has it.
        device: "auto" takes a GPU that this process sees.

    Raises:
        UserError: it is no CLIP, or its embedding has another length than the head reads.
    """

    def __init__(self, model: str, head: Path, batch: int = 256, precision: Precision = "auto", device: str = "auto") -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.head = image_head(head).to(self.device)
        self.network = network(model).to(self.device).eval()
        length = getattr(self.network.trunk.config, "projection_dim", None)
        if not hasattr(self.network.trunk, "get_image_features") or any(self.network.by_view().values()):
            raise UserError(f"{model} is no CLIP as it was published; GeoCLIP's head reads openai/clip-vit-large-patch14")
        reads, self.size = self.head.get_parameter("0.weight").shape[1], self.head.get_parameter("2.weight").shape[0]
        if length != reads:
            raise UserError(f"{model} gives {length} numbers a picture and GeoCLIP's head reads {reads}; "
                            "use openai/clip-vit-large-patch14")  # fmt: skip
        self.batch = batch
        self.bf16 = precision == "bfloat16" or (precision == "auto" and bf16_pays(self.device))

    def encode(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Unit vectors (N, D) of upright RGB pictures, each (H, W, 3), of one size or of many."""
        out = np.empty((len(pictures), self.size), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for row, picture in enumerate(pictures):
            shapes.setdefault(picture.shape, []).append(row)
        values: list[Tensor] = []
        rows: list[int] = []
        for alike in shapes.values():  # resized by shape, encoded together whatever the shape was
            for start in range(0, len(alike), self.batch):
                some = alike[start : start + self.batch]
                values.append(self._read([pictures[row] for row in some]))
                rows += some
                while len(rows) >= self.batch:
                    together = torch.cat(values)
                    out[rows[: self.batch]] = self._encode(together[: self.batch])
                    values, rows = [together[self.batch :]], rows[self.batch :]
        if rows:
            out[rows] = self._encode(torch.cat(values))
        return out

    @torch.inference_mode()
    def _read(self, pictures: list[npt.NDArray[np.uint8]]) -> Tensor:
        return self.network.reads(pixels.stack(pictures).to(self.device))

    @torch.inference_mode()
    def _encode(self, values: Tensor) -> npt.NDArray[np.float32]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            seen = self.network.trunk.get_image_features(pixel_values=values)
        seen = seen if isinstance(seen, Tensor) else seen.pooler_output
        vectors: npt.NDArray[np.float32] = F.normalize(self.head(seen.float()), dim=1).cpu().numpy()
        return vectors


class Embed(Stage):
    """Adds `vector`, a picture's place in the space that location features lie in; drops the picture.

    Args:
        model: folder or hub name of a CLIP.
        head: file of GeoCLIP's image head.
        batch: pictures that go through together.
        precision: of CLIP's arithmetic.
        device: "auto" takes a GPU that this process sees, and an actor that asked for none sees them all.
    """

    drops = ("picture", "picture_width", "picture_height")
    adds = (pa.field("vector", pa.list_(pa.float32())),)

    def __init__(self, model: str, head: str, batch: int = 256, precision: Precision = "auto", device: str = "auto") -> None:
        self.encoder = ImageEncoder(model, Path(head), batch, precision, device)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `picture`, `picture_width` and `picture_height`."""
        found = self.encoder.encode(pixels.pictures_of(table))
        offsets = np.arange(len(found) + 1, dtype=np.int32) * found.shape[1]
        return table.append_column(self.adds[0], pa.ListArray.from_arrays(offsets, pa.array(found.ravel())))
