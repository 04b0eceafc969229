"""Decoded pictures as one array that training workers map into memory, and the small encoder that reads them.

Training reads pictures in random order many times, which Parquet is not made for: 60,000 pictures of 48 pixels are one file of
415 MB whose pages the workers of a machine share. They are written as they come and put in order on disk, so that memory holds
no more than a table of them. They lie along S2's Hilbert curve, so that a run of rows is a neighbourhood.

A batch of `Pictures` is `clusters` such runs, which are near each other without any search: sorting is all the preparation, for
thousands of images or millions. Far clusters are the easy negatives, the rest of a cluster the hard ones. Without clusters
batches are the pieces of a permutation, another one each epoch, which leaves out the rest of a batch at its end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
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

#: Pictures that are put in order at a time.
_COPIED = 1024


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
    folder.mkdir(parents=True, exist_ok=True)
    places: list[tuple[float, float]] = []
    shape: tuple[int, ...] = ()
    with tempfile.TemporaryFile(dir=folder) as arrived:
        for picture, place in _labelled(tables, reads):
            if places and picture.shape != shape:
                raise UserError("pictures are of several sizes; name a size in the encoder's preprocessor_config.json")
            shape = picture.shape
            places.append(place)
            arrived.write(picture.tobytes())
        if not places:
            raise UserError("no training picture has a place; check the archive and its truth")
        arrived.flush()
        where = np.array(places)
        order = np.argsort(s2.cell_ids(where[:, 0], where[:, 1]), kind="stable")
        np.save(folder / PLACES, where[order])
        source = np.memmap(arrived, np.uint8, "r", shape=(len(order), *shape))
        array = np.lib.format.open_memmap(folder / PICTURES, "w+", np.uint8, source.shape)
        for at in range(0, len(order), _COPIED):
            array[at : at + _COPIED] = source[order[at : at + _COPIED]]
        array.flush()
    return len(order)


def _labelled(tables: Iterable[pa.Table], reads: Pixels) -> Iterator[tuple[NDArray[np.uint8], tuple[float, float]]]:
    for table in tables:
        columns = [table[name].to_pylist() for name in ("picture_height", "picture_width", "latitude", "longitude")]
        pictures = table["picture"]
        for row, (height, width, latitude, longitude) in enumerate(zip(*columns, strict=True)):
            content = pictures[row].as_buffer()
            if content is None or latitude is None or longitude is None:
                continue
            picture = np.frombuffer(content, np.uint8).reshape(height, width, 3)
            yield _sized(picture, reads), (latitude, longitude)


class Pictures:
    """What `pack` wrote, step by step: which rows a step takes is a function of (seed, step).

    Args:
        folder: where `pack` wrote.
        batch: pictures a step.
        clusters: runs of near pictures in a batch, at most as many as there are pictures; 0: an epoch is a pass over all.
        window: length of the piece of the curve that a run is drawn from, in pictures.
        seed: of the batches.
    """

    def __init__(self, folder: Path, batch: int, clusters: int, window: int, seed: int) -> None:
        self.pictures = np.load(folder / PICTURES, mmap_mode="r")
        self.places: NDArray[np.float64] = np.load(folder / PLACES)
        self._batch, self._clusters, self._window, self._seed = batch, min(clusters, len(self.places)), window, seed
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of a step's whole batch, the same on every worker; no row twice."""
        count = len(self)
        if not self._clusters:
            epoch, at = divmod(step, max(1, count // self._batch))
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(count)
            return self._order[1][at * self._batch : (at + 1) * self._batch]
        rng = np.random.default_rng([self._seed, step])
        anchors = rng.choice(count, self._clusters, replace=False)
        size = -(-self._batch // self._clusters)
        nearby = rng.random((self._clusters, self._window)).argsort(axis=1)[:, :size]
        drawn = np.unique((anchors[:, None] + nearby - self._window // 2) % count)
        missing = self._batch - len(drawn)
        if missing > 0:  # two runs overlapped, or the window is short
            others = np.setdiff1d(rng.choice(count, min(count, 2 * self._batch), replace=False), drawn)
            drawn = np.concatenate([drawn, rng.permutation(others)[:missing]])
        return rng.permutation(drawn)[: self._batch]


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
