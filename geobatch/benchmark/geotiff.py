"""Where a GeoTIFF lies: its middle in WGS 84 and the side of the ground it shows.

Read are the tags of OGC GeoTIFF 1.1: pixels to model coordinates by ModelTransformation, or by ModelPixelScale and the first
ModelTiepoint (7.3); the coordinate system by the EPSG code in ProjectedCRS or GeodeticCRS (7.5); whether a raster coordinate
means a pixel's corner or middle by GTRasterType (7.5.2). pyproj turns the model coordinates of the middle and of the middles of
the four edges into degrees; the side is the square root of width times height, both through the middle, so that a tile keeps
its area as a square. Pixels are not decoded: what a decoder cannot read may still have a place.

Not covered: coordinate systems that are written out key by key (user-defined, 32767), control points without a scale, world
files beside the image, vertical systems, and grids of datum shifts that pyproj would have to fetch (the shift is then left out:
metres).
"""

from __future__ import annotations

import io
import math
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geobatch.geo.distance import haversine_km
from geobatch.geo.point import valid

_WIDTH, _HEIGHT = 256, 257
_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEODETIC, _PROJECTED = 1025, 2048, 3072
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767
_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Ground(NamedTuple):
    """Middle in WGS 84 degrees, and side in km."""

    latitude: float
    longitude: float
    side_km: float


def is_tiff(data: bytes | memoryview) -> bool:
    """Whether bytes begin as a TIFF's do."""
    return bytes(data[:4]) in _BEGINS


def ground(data: bytes | memoryview) -> Ground | str:
    """The ground that a GeoTIFF shows, or why it says none; never raises, whatever the bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd tags, pyproj of axes
            return _read(bytes(data))
    except _Without as error:
        return str(error)
    except ProjError as error:
        return f"its coordinates do not convert ({str(error)[:120]})"
    except Exception as error:  # noqa: BLE001  damaged tags raise whatever Pillow's unpacking of them raises
        return f"its tags are damaged ({type(error).__name__})"


class _Without(Exception):
    """A TIFF that does not say where it lies, and why."""


def _read(data: bytes) -> Ground:
    if not is_tiff(data):
        raise _Without("it is no TIFF")
    tags = _tags(data)
    width, height = (_whole(tags.get(tag)) for tag in (_WIDTH, _HEIGHT))
    keys = _keys(tags.get(_KEYS))
    affine = _affine(tags)
    shift = 0.5 if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT else 0.0
    column, row = width / 2 - shift, height / 2 - shift
    at = np.array([[column, row], [-shift, row], [width - shift, row], [column, -shift], [column, height - shift]])
    x, y = affine[:, :2] @ at.T + affine[:, 2:]
    longitude, latitude = (np.asarray(part, np.float64) for part in _to_degrees(_code(keys)).transform(x, y, errcheck=True))
    longitude = np.where(np.abs(longitude) > 180, (longitude + 180) % 360 - 180, longitude)
    if not valid(latitude, longitude).all():
        raise _Without("its coordinates are not on Earth")
    west, east, north, south = (float(km) for km in haversine_km(latitude[0], longitude[0], latitude[1:], longitude[1:]))
    side = math.sqrt((west + east) * (north + south))
    if not 0 < side < math.inf:
        raise _Without("its pixels have no size")
    return Ground(float(latitude[0]), float(longitude[0]), side)


def _tags(data: bytes) -> Any:
    """The first directory of the file; values are unpacked when they are asked for."""
    big = data[2] == 43 or data[3] == 43
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _whole(value: Any) -> int:
    number = int(value[0] if isinstance(value, tuple) else value)
    if number < 1:
        raise _Without("it has no pixels")
    return number


def _numbers(value: Any, least: int) -> NDArray[np.float64] | None:
    if value is None:
        return None
    found = np.asarray(value, np.float64).ravel()
    return found if len(found) >= least and np.isfinite(found[:least]).all() else None


def _affine(tags: Any) -> NDArray[np.float64]:
    """(2, 3): raster coordinates (column, row, 1) to model coordinates."""
    whole = _numbers(tags.get(_TRANSFORMATION), 16)
    if whole is not None:
        return whole[:8].reshape(2, 4)[:, [0, 1, 3]]
    scale, tie = _numbers(tags.get(_SCALE), 2), _numbers(tags.get(_TIEPOINT), 6)
    if scale is None or tie is None:
        raise _Without("it has no ModelTransformation, nor ModelPixelScale and ModelTiepoint: no GeoTIFF")
    return np.array([[scale[0], 0.0, tie[3] - tie[0] * scale[0]], [0.0, -scale[1], tie[4] + tie[1] * scale[1]]])


def _keys(value: Any) -> dict[int, int]:
    """Keys whose value lies in the directory itself, which codes do."""
    if value is None:
        raise _Without("it has no GeoKeys: its coordinate system is not known")
    words = [int(word) for word in value]
    entries = [words[at : at + 4] for at in range(4, min(len(words), 4 + 4 * words[3]), 4)]
    return {entry[0]: entry[3] for entry in entries if len(entry) == 4 and entry[1] == 0}


def _code(keys: dict[int, int]) -> int:
    for key in (_PROJECTED, _GEODETIC):
        if key in keys and keys[key] != _USER_DEFINED:
            return keys[key]
        if key in keys:
            break
    raise _Without("its GeoKeys name no EPSG code")


@lru_cache(maxsize=64)
def _to_degrees(code: int) -> Transformer:
    """East and north (or longitude and latitude) of a system, to longitude and latitude in WGS 84."""
    system = CRS.from_epsg(code)
    if not (system.is_projected or system.is_geographic):
        raise _Without(f"EPSG:{code} is no map of the ground")
    return Transformer.from_crs(system, "EPSG:4326", always_xy=True)
