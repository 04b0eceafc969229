"""What parent and child say to each other.

    parent ──▶ child   REQUEST (number, length) + encoded bytes
    child ──▶ parent   HEADER + tail, one for each request, in order; before the first a HELLO, when the child is ready

The tail of a picture is its capture time in ASCII and then its pixels; the tail of a rejection is `reason NUL detail`.
Each answer is written before the next request is looked at: the first request without an answer is the one that killed
the child. The number comes back with the answer, so that no slip could ever give one image another's picture.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from geobatch.errors import Rejection

#: number, bytes of the image
REQUEST = struct.Struct("<IQ")

#: number of the request, kind, flags, bytes of time, width, height, picture width, picture height, latitude, longitude,
#: bytes of tail
HEADER = struct.Struct("<IBBHIIIIddQ")

HELLO, NO_HELLO, PICTURE, REJECTION = range(4)

#: Flag: this child takes no further request; the next one goes to a new child.
RETIRES = 1

Header = tuple[int, int, int, int, int, int, int, int, float, float, int]
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image.

    Attributes:
        width, height: the upright original's, pixels.
        picture_width, picture_height: of `pixels`.
        latitude, longitude: degrees from EXIF; NaN where absent or invalid.
        time: ISO 8601 from EXIF, empty where absent.
        pixels: picture_height × picture_width × 3 bytes of RGB, rows from the top.
    """

    width: int
    height: int
    picture_width: int
    picture_height: int
    latitude: float
    longitude: float
    time: str
    pixels: Bytes


def pack_picture(number: int, picture: Picture, flags: int) -> list[Bytes]:
    """The parts of a picture's frame, to be written one after the other."""
    time = picture.time.encode("ascii")
    tail = len(time) + len(picture.pixels)
    sizes = picture.width, picture.height, picture.picture_width, picture.picture_height
    header = HEADER.pack(number, PICTURE, flags, len(time), *sizes, picture.latitude, picture.longitude, tail)
    return [header + time, picture.pixels]


def pack_words(number: int, kind: int, flags: int, words: str) -> bytes:
    """The frame of a greeting or a rejection."""
    tail = words.encode("utf-8", "replace")
    return HEADER.pack(number, kind, flags, 0, 0, 0, 0, 0, 0.0, 0.0, len(tail)) + tail


def unpack_answer(header: Header, tail: Bytes) -> Picture | Rejection:
    """The answer of one frame; the pixels are a view of `tail`."""
    _, kind, _, time, width, height, picture_width, picture_height, latitude, longitude, _ = header
    view = memoryview(tail)
    if kind == REJECTION:
        reason, _, detail = bytes(view).decode("utf-8", "replace").partition("\0")
        return Rejection(reason, detail)
    return Picture(
        width=width,
        height=height,
        picture_width=picture_width,
        picture_height=picture_height,
        latitude=latitude,
        longitude=longitude,
        time=bytes(view[:time]).decode("ascii"),
        pixels=view[time:],
    )
