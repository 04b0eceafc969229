"""Decoded pictures as one array that training workers map into memory, and the small encoder that reads them.

Training reads pictures in random order many times, which Parquet is not made for: 60,000 pictures of 48 pixels are one file of
415 MB whose pages the workers of a machine share. They lie along S2's Hilbert curve, so that a run of rows is a neighbourhood.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray

from geobatch.engine.pixels import Pixels
from geobatch.errors import UserError
from geobatch.geo import s2

PICTURES, PLACES = "pictures.npy", "places.npy"


def pack(tables: Iterable[pa.Table], folder: Path, reads: Pixels) -> int:
    """Writes pictures, resized as the encoder wants them, and places as arrays that workers map into memory.

    Args:
        tables: columns picture, picture_width, picture_height (as PICTURE) and latitude, longitude in degrees; rows without a
            picture or a place are left out.
        folder: gets `pictures.npy` (N, H, W, 3) uint8 and `places.npy` (N, 2) float64, sorted along S2's curve.

    Returns:
        N.

    Raises:
        UserError: no picture has a place, or pictures are of several sizes and the encoder names none.
    """
    blocks: list[NDArray[np.uint8]] = []
    places: list[tuple[float, float]] = []
    for table in tables:
        columns = [table[name].to_pylist() for name in ("picture_height", "picture_width", "latitude", "longitude")]
        pictures = table["picture"]
        for row, (height, width, latitude, longitude) in enumerate(zip(*columns, strict=True)):
            content = pictures[row].as_buffer()
            if content is None or latitude is None or longitude is None:
                continue
            picture = np.frombuffer(content, np.uint8).reshape(height, width, 3)
            blocks.append(_sized(picture, reads))
            places.append((latitude, longitude))
    if not blocks:
        raise UserError("no training picture has a place; check the archive and its truth")
    if len({block.shape for block in blocks}) > 1:
        raise UserError("pictures are of several sizes; name a size in the encoder's preprocessor_config.json")
    where = np.array(places)
    order = np.argsort(s2.cell_ids(where[:, 0], where[:, 1]), kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / PLACES, where[order])
    array = np.lib.format.open_memmap(folder / PICTURES, "w+", np.uint8, (len(order), *blocks[0].shape))
    for row, source in enumerate(order):
        array[row] = blocks[source]
    array.flush()
    return len(order)


def _sized(picture: NDArray[np.uint8], reads: Pixels) -> NDArray[np.uint8]:
    if reads.crop is None and (reads.size is None or reads.size == picture.shape[:2]):
        return picture
    levels = reads.resize(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float())
    sized: NDArray[np.uint8] = levels[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    return sized


def write_small(folder: Path, pixels: int = 48) -> None:
    """The demo's encoder before any training: a ResNet of 0.3 M parameters, as a `transformers` folder
    without weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.AutoConfig.for_model(
        "resnet", embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic"
    )
    config.save_pretrained(folder)
    Pixels(size=(pixels, pixels), mean=(0.28, 0.28, 0.28), deviation=(0.2, 0.2, 0.2)).save(folder)
