"""What training reads, written as files that its workers map into memory, a block at a time.

    vectors            (N, D) float16    the images, in the order they were read
    places             (N, 2) float64    their latitudes and longitudes, degrees
    order              (N,) int64        their rows in the order of their names: the order that seeds and splits go by
    neighbours         (N, M') int32     rows of the gallery's arrays, nearest first, -1 where there is none
    gallery_vectors    (G, D) float16    the gallery, and behind it the places between images, one an image, where they are read
    gallery_places     (G, 2) float64

Nothing is ever whole in memory but names and places. At the paper's size vectors and gallery are 19 GB each on disk and
neighbours 0.25 GB. float16 keeps 11 bits: a unit vector's components of 1/√768 are off by 1e-5, cosines by less than 1e-3.

Looking neighbours up is hours of work at that size, so each block is a file of its own, renamed into place, under the name
of all that decides it; who comes after a crash goes on behind the last. An image is never its own neighbour, nor does
it bear on its place between images; where the gallery knows groups (a photographer, a burst), nor do the others of its group.
Groups are the gallery's knowledge: of a training image that is not in it none is known, and none is left out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.engine.gallery import Gallery
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.geo.point import valid
from geobatch.methods.geotoken import examples as learning
from geobatch.methods.geotoken.neighbours import find
from geobatch.methods.geotoken.tables import vectors as matrix
from geobatch.progress import Progress

#: Bytes of float32 vectors, queries' or neighbours', that are in memory at once.
BLOCK_BYTES = 64 << 20


class Growing:
    """A `.npy` file that rows are appended to; numpy leaves room in the header for their final number."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, columns: int) -> None:
        self.dtype, self.columns, self.rows = np.dtype(dtype), columns, 0
        self._file = path.open("wb")
        self._head()

    def _head(self) -> None:
        head = io.BytesIO()
        described = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(
            head, {"descr": described, "fortran_order": False, "shape": (self.rows, self.columns)}
        )
        self._file.write(head.getvalue())

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """(n, columns) more rows."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        """Writes the header anew."""
        self._file.seek(0)
        self._head()
        self._file.close()


@dataclass(frozen=True)
class Known:
    """N images that were written.

    Fields:
        ids: their names, in the order they were read.
        fingerprint: SHA-256 of names, places and vectors, whatever the order.
        reading: the same of them in the order they were read.
    """

    ids: pa.Array
    fingerprint: str
    reading: str

    def __len__(self) -> int:
        return len(self.ids)


def write_images(tables: Iterable[pa.Table], folder: Path) -> Known:
    """Writes `vectors`, `places` and `order` of the rows of GALLERY tables that have a vector.

    Raises:
        UserError: no row has one, vectors of two lengths, a place that is none, or one image_id twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids: list[pa.Array] = []
    digests: list[bytes] = []
    vectors: Growing | None = None
    with ExitStack() as opened:
        places = opened.enter_context(Growing(folder / "places.npy", np.float64, 2))
        for table in tables:
            living = table.filter(pc.is_valid(table["vector"]))
            if not len(living):
                continue
            block = np.asarray(matrix(living, "vector"), np.float32)
            if vectors is None:
                vectors = opened.enter_context(Growing(folder / "vectors.npy", np.float16, block.shape[1]))
            if block.shape[1] != vectors.columns:
                raise UserError("vectors of different lengths: parts of two encoders are mixed; embed the images again")
            where = np.stack([living["latitude"].to_numpy(), living["longitude"].to_numpy()], axis=1)
            if not valid(where[:, 0], where[:, 1]).all():
                raise UserError("a training image lies at a place that is none on Earth; correct its truth")
            vectors.append(block)
            places.append(where)
            names = living["image_id"].cast(pa.string()).combine_chunks()
            ids.extend(names.chunks if isinstance(names, pa.ChunkedArray) else [names])
            digests.extend(_digests(names.to_pylist(), where, block))
    if vectors is None:
        raise UserError("no image has both a vector and a place; check the archive and its truth")
    named = pa.concat_arrays(ids)
    order = pc.sort_indices(named).to_numpy().astype(np.int64)
    ordered = named.take(pa.array(order))
    if pc.any(pc.equal(ordered[1:], ordered[:-1])).as_py():
        raise UserError("one image_id names two training images; image ids must be unique")
    np.save(folder / "order.npy", order)
    reading, rest = hashlib.sha256(b"".join(digests)), hashlib.sha256()
    for row in order.tolist():
        rest.update(digests[row])
    return Known(named, rest.hexdigest(), reading.hexdigest())


def _digests(ids: list[str], where: npt.NDArray[np.float64], block: npt.NDArray[np.float32]) -> list[bytes]:
    """16 bytes of each row; 4 M rows of 2304 floats take half a minute."""
    out = []
    for name, place, vector in zip(ids, np.ascontiguousarray(where), block, strict=True):
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update(place.tobytes())
        digest.update(vector.tobytes())
        out.append(digest.digest())
    return out


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which neighbours the images get.

    Fields:
        count: neighbours of each image, at most; with `surface` the place between images is one of them.
        surface: how places between images are found, or None.
        above: gallery images at least so similar are taken for the image itself, or None.
    """

    count: int
    surface: Surface | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.surface is not None and self.above is not None:
            raise UserError("a model that reads places between images cannot leave near-duplicates out; drop one of the two")


def write_neighbours(gallery: Gallery, known: Known, search: Search, folder: Path) -> None:
    """Writes `neighbours`, `gallery_vectors` and `gallery_places` for the images that `write_images` put into `folder`."""
    images = np.load(folder / "vectors.npy", mmap_mode="r")
    count, surface = search.count, search.surface
    decides = f"{known.reading} {gallery.fingerprint} {gallery.record.get('searched')} {search}{' grouped' * gallery.grouped}"
    blocks = folder / f"neighbours-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"
    blocks.mkdir(exist_ok=True)
    wide = images.shape[1] * 4 * (1 if surface is None else count)
    size = int(np.clip(BLOCK_BYTES // wide, 64, 1 << 16))
    with (
        Growing(folder / "neighbours.npy", np.int32, count) as table,
        Growing(folder / "gallery_vectors.npy", np.float16, images.shape[1]) as vectors,
        Growing(folder / "gallery_places.npy", np.float64, 2) as places,
        Progress("neighbours", len(images), unit="images") as progress,
    ):
        for start in range(0, len(gallery), size):
            rows = np.arange(start, min(start + size, len(gallery)))
            vectors.append(gallery.vectors(rows))
            places.append(np.stack(gallery.places(rows), axis=1))
        for start in range(0, len(images), size):
            path = blocks / f"{start}-{size}.npz"
            if not path.exists():
                ids = known.ids[start : start + size].to_pylist()
                _look_up(gallery, np.asarray(images[start : start + size], np.float32), ids, search, path)
            with np.load(path) as found:
                near = found["rows"]
                if surface is not None:
                    own = len(gallery) + start + np.arange(len(near))[:, None]
                    near = np.concatenate([own, near], axis=1)
                    vectors.append(found["vectors"])
                    places.append(found["places"])
            table.append(np.pad(near, ((0, 0), (0, count - near.shape[1])), constant_values=-1))
            progress.add(len(near))


def _look_up(gallery: Gallery, queries: npt.NDArray[np.float32], ids: list[str | None], search: Search, path: Path) -> None:
    """Writes the rows of one block's neighbours; with a surface, also the places between images that lead them."""
    length = np.linalg.norm(queries, axis=1, keepdims=True)  # as retrieval sees them, before they were rounded
    queries = queries / np.maximum(length, 1e-12)
    groups = gallery.groups_of(ids)
    if search.surface is None:
        rows = gallery.search(queries, search.count, ids, groups, search.above)[1]
        arrays: dict[str, Any] = {"rows": rows.astype(np.int32)}
    else:
        found = find(gallery, queries, search.count, search.surface, ids, groups)
        arrays = {
            "rows": found.rows[:, 1:].astype(np.int32),
            "vectors": found.vectors[:, 0].astype(np.float16),
            "places": np.stack([found.latitude[:, 0], found.longitude[:, 0]], axis=1),
        }
    fresh = path.with_suffix(".part.npz")
    np.savez(fresh, **arrays)
    fresh.rename(path)


def read(folder: Path) -> learning.Examples:
    """All images of `folder`, mapped, in the order of their names."""

    def mapped(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    places, known = mapped("places"), mapped("gallery_places")
    gallery = learning.Gallery(mapped("gallery_vectors"), np.ascontiguousarray(known[:, 0]), np.ascontiguousarray(known[:, 1]))
    return learning.Examples(
        mapped("vectors"),
        np.ascontiguousarray(places[:, 0]),
        np.ascontiguousarray(places[:, 1]),
        mapped("neighbours"),
        gallery,
        np.load(folder / "order.npy"),
    )
