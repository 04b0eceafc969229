"""Awkward archives, by recipe: every file that the archive tests read is made here, byte for byte the same each time."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

#: Names that tools stumble over; every one is an image's.
NAMES = (
    "plain.jpg", "two words.jpg", "plus+plus.JPG", "under_score.jpeg", "hash#tag.png", "per%cent.jpg", "%23escaped.jpg",
    "ünïcödé/日本.webp", "../escape.jpg", "/absolute.jpg", "./dot.jpg", "deep/" * 40 + "x.jpg", "tilde~2.jpg", "end.jpg",
    "quote'\".jpg", "back\\slash.jpg", "query?x=1&y=2.jpg", "~2.jpg", "new\nline.jpg",
)  # fmt: skip

Member = tuple[str, bytes]


def picture(seed: int, side: int = 8) -> bytes:
    """A real JPEG of one colour that depends on the seed."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (seed * 37 % 256, seed * 91 % 256, seed % 256)).save(file, "JPEG")
    return file.getvalue()


def images(names: Iterable[str] = NAMES) -> list[Member]:
    """One picture for each name."""
    return [(name, picture(seed)) for seed, name in enumerate(names)]


def webdataset(samples: int) -> list[Member]:
    """Samples of an image between two sidecars."""
    members: list[Member] = []
    for seed in range(samples):
        members += [(f"{seed:06}.cls", b"7"), (f"{seed:06}.jpg", picture(seed)), (f"{seed:06}.json", b'{"a": 1}' * seed)]
    return members


def tar(members: Iterable[Member], kind: int = tarfile.GNU_FORMAT, links: Sequence[tuple[str, str]] = ()) -> bytes:
    """A tar with a folder in front, and links (name, target) behind."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return file.getvalue()


def header_at(data: bytes, name: str) -> int:
    """Where a tar's header of this name begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmember(name).offset


def damaged(data: bytes, at: int, length: int = 4) -> bytes:
    """The bytes with some of them turned over."""
    return data[:at] + bytes(255 - byte for byte in data[at : at + length]) + data[at + length :]


def gz(data: bytes) -> bytes:
    """Gzipped, in two members, as parallel compressors do."""
    half = len(data) // 2
    return gzip.compress(data[:half], 1, mtime=0) + gzip.compress(data[half:], 1, mtime=0)


def zipped(members: Iterable[Member], method: int = zipfile.ZIP_DEFLATED, in_front: bytes = b"") -> bytes:
    """A zip, perhaps with other bytes in front of it as in a self-extracting one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return in_front + file.getvalue()


def zip_fields(data: bytes, name: str) -> tuple[int, int, int]:
    """Where a member's local header, its data and its directory entry begin."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo(name)
    entry = data.index(b"PK\x01\x02")
    while data[entry + 46 : entry + 46 + len(name.encode())] != name.encode():
        entry = data.index(b"PK\x01\x02", entry + 4)
    lengths = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    return info.header_offset, info.header_offset + 30 + sum(lengths), entry


def encrypted(data: bytes, name: str) -> bytes:
    """The zip with one member flagged as encrypted."""
    local, _, entry = zip_fields(data, name)
    changed = bytearray(data)
    changed[local + 6] |= 1
    changed[entry + 8] |= 1
    return bytes(changed)


def understated(data: bytes, name: str, size: int) -> bytes:
    """The zip with one member's inflated size written as smaller than it is, as bombs do."""
    local, _, entry = zip_fields(data, name)
    changed = bytearray(data)
    struct.pack_into("<L", changed, local + 22, size)
    struct.pack_into("<L", changed, entry + 24, size)
    return bytes(changed)


def parquet(
    values: Sequence[bytes | None], *, style: str = "struct", rows: int = 4, page: int = 1024, compression: str = "none"
) -> bytes:
    """Images in row groups of `rows` and pages of `page` rows, or 1 MiB if that is more.

    "struct" is how Hugging Face writes them; "binary" and "large" are plain columns, "view" and "dictionary" other layouts.
    """
    if style == "struct":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        column = pa.array([{"bytes": value, "path": "x.jpg"} if value is not None else None for value in values], kind)
    else:
        kinds = {"binary": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view()}
        column = pa.array(values, kinds.get(style, pa.binary()))
        column = column.dictionary_encode() if style == "dictionary" else column
    file = io.BytesIO()
    table = pa.table({"label": pa.array(range(len(values))), "image": column})
    pq.write_table(table, file, row_group_size=rows, compression=compression, write_batch_size=page)
    return file.getvalue()
