"""Tiles of a map: which piece of ground an address means, and coordinates written into a name.

Web maps cut the world, as Web Mercator draws it between 85.05° S and N, into 2^z × 2^z squares. An XYZ address counts x to the
east from the antimeridian and y to the south (OpenStreetMap, Google); TMS counts y to the north; a quadkey is one digit a zoom
with y's bit above x's (Bing). The projection treats degrees as on a sphere, so centres and corners here are exact, in WGS 84
degrees. The centre is the picture's, which lies a little poleward of the mean latitude.

Mercator keeps shapes, so a tile is as high as wide on the ground but for the change of scale inside it: its side is the
length of the parallel through its centre between its meridians, on the sphere on which distances are measured here. At zoom 17
that is 305.4 m on the equator and 152.7 m at 60°.

Names are read from their end: `…/17/70406/42987.png`, also `17_70406_42987.png`, with `@2x` of doubled resolution; coordinates
as the first thing in the last part, `48.8584,2.2945.png` or `48.8584_2.2945_2020-05.jpg`, decimal points required.

Not covered: other grids (WMTS in national projections), hemispheres as letters, degrees and minutes in names.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.geo.point import valid

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: Forms of addresses: "xyz" and "tms" are z, x, y; "quadkey" is one number to the base 4.
Scheme = Literal["xyz", "tms", "quadkey"]

#: Finest zoom that is read: its tiles are 4 cm wide.
MAX_ZOOM = 30
#: Latitude in degrees at which the square world ends.
MAX_LATITUDE = float(np.degrees(np.arctan(np.sinh(np.pi))))

_END = r"(?:@\dx)?(?:\.[A-Za-z]\w{0,4})?$"
_SLASHED = re.compile(rf"(?:^|[/#])(\d{{1,2}})/(\d{{1,10}})/(\d{{1,10}}){_END}", re.ASCII)
_JOINED = re.compile(rf"(?:^|[/#])(\d{{1,2}})([_-])(\d{{1,10}})\2(\d{{1,10}}){_END}", re.ASCII)
_QUADKEY = re.compile(rf"(?:^|[/#])[aArR]?([0-3]{{1,{MAX_ZOOM}}}){_END}", re.ASCII)
_DEGREES = re.compile(r"(?:^|[/#])([-+]?\d{1,2}\.\d{1,15})[,_] ?([-+]?\d{1,3}\.\d{1,15})(?!\d|\.\d)[^/#]*$", re.ASCII)


class Tile(NamedTuple):
    """A tile by its XYZ address."""

    zoom: int
    x: int
    y: int


def corners(zoom: ArrayLike, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """South, west, north and east in degrees of tiles; shapes broadcast."""
    count = np.exp2(np.asarray(zoom, np.float64))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return _latitude((y + 1) / count), x / count * 360 - 180, _latitude(y / count), (x + 1) / count * 360 - 180


def centres(zoom: ArrayLike, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Latitudes and longitudes in degrees of the tiles' middles, as pictures; shapes broadcast."""
    count = np.exp2(np.asarray(zoom, np.float64))
    return (
        _latitude((np.asarray(y, np.float64) + 0.5) / count),
        (np.asarray(x, np.float64) + 0.5) / count * 360 - 180,
    )


def side_km(zoom: ArrayLike, y: ArrayLike) -> Floats:
    """Km on the ground from the west to the east of tiles, along the parallels through their middles; shapes broadcast."""
    zoom = np.asarray(zoom, np.float64)
    latitude = centres(zoom, 0, y)[0]
    return np.asarray(2 * np.pi * EARTH_RADIUS_KM * np.cos(np.radians(latitude)) * np.exp2(-zoom))


def holding(latitude: ArrayLike, longitude: ArrayLike, zoom: ArrayLike) -> tuple[Numbers, Numbers]:
    """x and y of the tiles that hold points in degrees; a point beyond the world's edge belongs to the tile at that edge."""
    count = np.exp2(np.asarray(zoom, np.float64))
    phi = np.radians(np.clip(np.asarray(latitude, np.float64), -MAX_LATITUDE, MAX_LATITUDE))
    right = (np.asarray(longitude, np.float64) + 180) % 360 / 360
    down = (1 - np.arcsinh(np.tan(phi)) / np.pi) / 2
    x, y = (np.clip(np.floor(part * count), 0, count - 1).astype(np.int64) for part in (right, down))
    return x, y


def quadkey(tile: Tile) -> str:
    """The tile's quadkey, one digit a zoom; the whole world's is empty."""
    return "".join(str((tile.x >> at & 1) + 2 * (tile.y >> at & 1)) for at in range(tile.zoom - 1, -1, -1))


def from_quadkey(text: str) -> Tile:
    """The tile of a quadkey.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(rf"[0-3]{{0,{MAX_ZOOM}}}", text, re.ASCII):
        raise ValueError(f"{text!r} is no quadkey: up to {MAX_ZOOM} digits from 0 to 3")
    x = y = 0
    for digit in text:
        x, y = 2 * x + (int(digit) & 1), 2 * y + (int(digit) >> 1)
    return Tile(len(text), x, y)


def flipped(tile: Tile) -> Tile:
    """The XYZ address of a TMS one, and the other way round."""
    return Tile(tile.zoom, tile.x, (1 << tile.zoom) - 1 - tile.y)


def tile_in_name(name: str, scheme: Scheme = "xyz", joined: bool = True) -> Tile | None:
    """The tile whose address a name ends in, or None.

    Args:
        name: a path, URI or image_id.
        scheme: form of the address.
        joined: whether `z_x_y` and `z-x-y` count beside `z/x/y`; a date may look so.
    """
    if scheme == "quadkey":
        key = _QUADKEY.search(name)
        return from_quadkey(key[1]) if key else None
    if slashed := _SLASHED.search(name):
        found = slashed.groups()
    elif joined and (one := _JOINED.search(name)):
        found = (one[1], one[3], one[4])
    else:
        return None
    tile = Tile(*(int(number) for number in found))
    if tile.zoom > MAX_ZOOM or max(tile.x, tile.y) >= 1 << tile.zoom:
        return None
    return flipped(tile) if scheme == "tms" else tile


def place_in_name(name: str) -> tuple[float, float] | None:
    """Latitude and longitude in degrees that the last part of a name begins with, or None where it does not or they are no
    place on Earth.
    """
    found = _DEGREES.search(name)
    if not found:
        return None
    latitude, longitude = float(found[1]), float(found[2])
    return (latitude, longitude) if bool(valid(latitude, longitude)) else None


def _latitude(down: ArrayLike) -> Floats:
    """Degrees at a share of the world's height, from its north."""
    return np.asarray(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * np.asarray(down, np.float64))))))
