"""Pictures with known places laid down on disk as archives: single files, WebDataset tar shards, and what
is broken in real ones.

The truth lies beside the archive, never in it: `truth.csv` has `name,latitude,longitude`, where `name` is
what follows the archive's own prefix in an `image_id` (`loose/5f3a.jpg`, `shards/0003.tar#5f3a.jpg`). File
names are random and the order is shuffled, so that neither tells where a picture was taken.

`broken` makes one file of each kind that buckets are known to hold. None of them decodes, whichever the
decoder.
"""

from __future__ import annotations

import csv
import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Truth = dict[str, tuple[float, float]]


def write_archive(
    folder: Path,
    files: Sequence[bytes],
    latitudes: Sequence[float],
    longitudes: Sequence[float],
    *,
    seed: int,
    loose: float = 0.5,
    per_shard: int = 100,
) -> Truth:
    """Lays JPEG files down as `loose/NAME.jpg` and `shards/NNNN.tar`, in shuffled order.

    Args:
        loose: share of the files that become single objects; the others go into tar shards.
        per_shard: files in a tar shard.

    Returns:
        the place, in degrees, of each name as it appears in `image_id` after the archive's prefix.
    """
    rng = np.random.default_rng([seed, 0xF11E])
    order = rng.permutation(len(files))
    names = [f"{word:08x}.jpg" for word in rng.choice(2**32, len(files), replace=False)]
    singles = round(len(files) * loose)
    truth: Truth = {}
    (folder / "loose").mkdir(parents=True, exist_ok=True)
    for row, name in zip(order[:singles], names, strict=False):
        (folder / "loose" / name).write_bytes(files[row])
        truth[f"loose/{name}"] = (float(latitudes[row]), float(longitudes[row]))
    for shard, start in enumerate(range(singles, len(files), per_shard)):
        part = slice(start, start + per_shard)
        path = folder / "shards" / f"{shard:04d}.tar"
        write_tar(path, zip(names[part], (files[row] for row in order[part]), strict=True))
        for row, name in zip(order[part], names[part], strict=True):
            truth[f"shards/{path.name}#{name}"] = (float(latitudes[row]), float(longitudes[row]))
    return truth


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """An uncompressed tar of the members, the same bytes each time (no clock, no owner in it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_truth(path: Path, truth: Truth) -> None:
    """`name,latitude,longitude` with enough digits to give the same doubles back."""
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["name", "latitude", "longitude"])
        table.writerows([name, repr(latitude), repr(longitude)] for name, (latitude, longitude) in truth.items())


def write_broken(folder: Path) -> list[str]:
    """The files of `broken`, half of them single and half in one tar shard; returns their names as in
    `image_id`.
    """
    files = list(broken().items())
    middle = len(files) // 2
    (folder / "loose").mkdir(parents=True, exist_ok=True)
    for name, content in files[:middle]:
        (folder / "loose" / name).write_bytes(content)
    write_tar(folder / "shards" / "broken.tar", files[middle:])
    return [f"loose/{name}" for name, _ in files[:middle]] + [f"shards/broken.tar#{name}" for name, _ in files[middle:]]


def broken() -> dict[str, bytes]:
    """Fourteen files that are named as images and are none, each broken in another way."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    good = {kind: _encoded(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")}
    png = good["PNG"]
    return {
        "empty.jpg": b"",
        "truncated.jpg": good["JPEG"][: len(good["JPEG"]) // 3],
        "head_only.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00",
        "text.jpg": b"This was to be a photograph.\n" * 20,
        "page.jpg": b"<!doctype html><title>404 Not Found</title><h1>Not Found</h1>",
        "zeros.jpg": bytes(4096),
        "archive.jpg": b"PK\x05\x06" + bytes(18),
        "damaged.png": png[: len(png) // 2] + bytes(64) + png[len(png) // 2 + 64 :],
        "other_inside.png": png[:8] + good["JPEG"],
        "huge.png": _png(100_000, 100_000, zlib.compress(bytes(100_000))),
        "truncated.webp": good["WEBP"][: len(good["WEBP"]) // 4],
        "truncated.gif": good["GIF"][:40],
        "astray.tif": good["TIFF"][:4] + struct.pack("<I", 2**31) + good["TIFF"][8:],
        "endless.bmp": b"BM"
        + struct.pack("<IHHI", 2**31, 0, 0, 54)
        + struct.pack("<IiiHHI", 40, 60_000, 60_000, 1, 24, 0)
        + bytes(24),
    }


def _encoded(picture: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """A 1-bit grey PNG whose header claims more than its data holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
