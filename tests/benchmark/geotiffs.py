"""GeoTIFFs made by hand, tag by tag."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

DOUBLE, SHORT = 12, 3


def keys(code: int, projected: bool, point: bool = False) -> tuple[int, ...]:
    """GeoKeys that name an EPSG code."""
    entries = [(1024, 1 if projected else 2), (1025, 2 if point else 1), (3072 if projected else 2048, code)]
    return (1, 1, 0, len(entries), *(word for key, value in entries for word in (key, 0, 1, value)))


def geotiff(
    width: int,
    height: int,
    geokeys: Sequence[int] | None,
    scale: Sequence[float] | None = None,
    tie: Sequence[float] | None = None,
    transformation: Sequence[float] | None = None,
) -> bytes:
    """A small picture with whichever of the tags are given."""
    tags = ImageFileDirectory_v2()
    for tag, kind, value in (
        (33550, DOUBLE, scale),
        (33922, DOUBLE, tie),
        (34264, DOUBLE, transformation),
        (34735, SHORT, geokeys),
    ):
        if value is not None:
            tags.tagtype[tag] = kind
            tags[tag] = tuple(value)
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(out, "TIFF", tiffinfo=tags)
    return out.getvalue()
