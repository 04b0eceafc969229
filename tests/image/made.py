"""Images made with a recipe: pixels from numpy, encoded by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener

from geobatch.image.frames import Picture
from geobatch.schema import IMAGE

Pixels = NDArray[np.uint8]

register_heif_opener()


def blocks(width: int = 48, height: int = 32) -> Pixels:
    """Sixteen flat blocks of different colours, four by four, no two rows or columns of blocks alike."""
    row, column = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    red = np.broadcast_to(60 * row[:, None] + 20, (height, width))
    green = np.broadcast_to(60 * column[None, :] + 20, (height, width))
    blue = 40 * ((row[:, None] * 2 + column[None, :]) % 5) + 30
    return np.stack([red, green, blue], -1).astype(np.uint8)


def waves(width: int, height: int, texture: float = 20) -> Pixels:
    """Smooth colours under a fine texture of so many levels."""
    y, x = np.mgrid[:height, :width]
    phase = np.stack([x / 37 + y / 91, x / 53 - y / 29, (x + y) / 71], -1)
    levels: Pixels = (
        (127.5 + 100 * np.sin(phase) + texture * np.sin(x * 1.3 + y * 0.7)[..., None]).clip(0, 255).astype(np.uint8)
    )
    return levels


def encoded(pixels: NDArray[Any] | Image.Image, format: str, **options: Any) -> bytes:
    """Pixels, or a Pillow image of any mode, as a file's bytes."""
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels_of(picture: Picture) -> Pixels:
    """The pixels as an array, height × width × 3."""
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.picture_height, picture.picture_width, 3)


def images(*contents: bytes | None) -> pa.Table:
    """A table of IMAGE, one row for each."""
    rows = [
        {"image_id": f"i{row}", "uri": f"mem://{row}", "size": None if data is None else len(data), "bytes": data}
        for row, data in enumerate(contents)
    ]
    return pa.Table.from_pylist(rows, IMAGE)


def off(one: Pixels, other: Pixels) -> float:
    """The mean absolute difference in levels."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())
