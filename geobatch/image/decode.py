"""IMAGE in, PICTURE out: the stage.

The fingerprint of the encoded bytes is taken here in the parent, while the child is decoding: it then also exists for
images that end their child. Bytes are handed over as views of Arrow's own buffers.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pyarrow as pa

from geobatch.errors import Rejection
from geobatch.image.config import DecodeConfig
from geobatch.image.frames import Picture
from geobatch.image.sandbox import Sandbox
from geobatch.schema import PICTURE
from geobatch.stage import Stage, rejected

_ADDED = (
    "sha256",
    "width",
    "height",
    "exif_latitude",
    "exif_longitude",
    "exif_time",
    "picture",
    "picture_width",
    "picture_height",
)


class Decode(Stage):
    """Decodes each image into upright RGB of bounded size, in a process of its own.

    Every failure of an image is a rejection with a reason of the decode group of `geobatch.errors.REASONS` (or "empty").
    The process starts with the first image and belongs to this object; pickling leaves it behind.

    Args:
        config: limits and settings.
    """

    drops = ("bytes",)
    adds = tuple(PICTURE.field(name) for name in _ADDED)

    def __init__(self, config: DecodeConfig | None = None) -> None:
        self.config = config or DecodeConfig()
        self._sandbox = Sandbox(self.config)

    def work(self, table: pa.Table) -> pa.Table:
        """See `Stage.work`.

        Raises:
            UserError: a plugin does not import.
            MachineError: no decoder process can be started.
        """
        images = [memoryview(value.as_buffer()) if value.is_valid else memoryview(b"") for value in table["bytes"]]
        full = [row for row, image in enumerate(images) if len(image)]
        fingerprints: list[str | None] = [None] * len(images)

        def fingerprint(position: int) -> None:
            row = full[position]
            fingerprints[row] = fingerprints[row] or hashlib.sha256(images[row]).hexdigest()

        answers = self._sandbox.decode([images[row] for row in full], fingerprint)
        pictures: list[Picture | None] = [None] * len(images)
        fates = {row: Rejection("empty") for row, image in enumerate(images) if not len(image)}
        for row, answer in zip(full, answers, strict=True):
            if isinstance(answer, Rejection):
                fates[row] = answer
            else:
                pictures[row] = answer
        for field in self.adds:
            values = fingerprints if field.name == "sha256" else [_value(picture, field.name) for picture in pictures]
            table = table.append_column(field, pa.array(values, field.type))
        return rejected(table, "decode", fates)

    def close(self) -> None:
        """Ends the decoder process; the next image starts another."""
        self._sandbox.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]


def _value(picture: Picture | None, column: str) -> Any:
    if picture is None:
        return None
    if column == "picture":
        return picture.pixels
    value = getattr(picture, column.removeprefix("exif_"))
    return None if value == "" or (isinstance(value, float) and math.isnan(value)) else value
