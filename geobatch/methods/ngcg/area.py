"""Where a text or a photograph may be at all: the part of a gallery that its search looks at.

Three priors, each optional, which all must hold: a box of degrees, countries, and a point of each row's own, about which the
tiles within a radius count, or so many nearest ones. CVG-Text's published protocol ranks the 100 tiles nearest to the truth:

    --ngcg.area.file truth.csv --ngcg.area.nearest 100

which makes its figures incomparable with those of a full gallery, where the same text has to be told from every tile.

The file of points is matched to rows as a truth is (`geobatch.benchmark.truth`); several captions of one image (`…@2`) share
its line. It may have the columns radius_km and nearest, which go before the settings where they are not empty. "The 100
nearest" are the gallery's, tiles as near as the last of them too, whatever box or countries then leave of them. A row that the
file does not name or gives no bound, or whose area holds no tile, is rejected ("no_tile"): to search all tiles for some rows
and a hundred for others would mix two questions.

A tile belongs to the country of its nearest town (`geobatch.engine.geocode`), which beside a border may be the wrong one and at
sea is the nearest shore's. Boxes and countries are worked out once an actor (a million tiles: about a second), points once a
slice, in parts whose tiles fit 128 MB. A wide circle of each row's own is dear all the same: its vectors are looked up and
multiplied for that row alone, so a box or countries, which all rows share, are the better bound of a large area.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery import Gallery, Rows
from geobatch.engine.geocode import Geocoder, country_names
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.points import Points
from geobatch.store import Store

Floats = NDArray[np.float64]

#: Tiles of rows that are worked on together: 128 MB of row numbers, were each row to have all that its bounds may allow.
_TILES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Area:
    """Which tiles a row may be found at; by default all."""

    box: str = ""
    """Degrees "south,west,north,east"; west above east crosses the antimeridian."""
    countries: tuple[str, ...] = ()
    """Two-letter ISO codes or English names."""
    file: str | None = None
    """CSV or Parquet with image_id, latitude, longitude of a point for each row, and perhaps radius_km and nearest."""
    radius_km: float = 0.0
    """Tiles at most so far from the row's point; 0: any."""
    nearest: int = 0
    """So many tiles nearest to the row's point; 0: all. 100 is CVG-Text's protocol."""

    def __post_init__(self) -> None:
        if self.box:
            bounds(self.box)
        if not (self.radius_km >= 0 and math.isfinite(self.radius_km)) or self.nearest < 0:
            raise UserError(
                f"a radius of {self.radius_km:g} km and {self.nearest} nearest tiles bound no area; give more than 0"
            )
        if (self.radius_km or self.nearest) and self.file is None:
            raise UserError("a radius and nearest tiles lie about a point of each row; give the points with --ngcg.area.file")

    def decides(self, store: Store) -> dict[str, Any]:
        """What of it decides a row: the settings, and which version of the file was read.

        Raises:
            UserError: there is no such file.
        """
        if self.file is None:
            return asdict(self)
        found = store.head(self.file)
        if found is None:
            raise UserError(f"there is no file of points {self.file}; check --ngcg.area.file")
        return {**asdict(self), "file": [found.etag, found.size]}


def bounds(box: str) -> tuple[float, float, float, float]:
    """South, west, north and east in degrees.

    Raises:
        UserError: it is no box.
    """
    try:
        south, west, north, east = (float(part) for part in box.split(","))
    except ValueError:
        raise UserError(f'{box!r} is no box; write "south,west,north,east" in degrees, such as 36,-10,44,4') from None
    if not (-90 <= south < north <= 90 and -180 <= west <= 180 and -180 <= east <= 180 and west != east):
        raise UserError(f"{box!r} holds no ground; south lies below north within 90 degrees, west and east differ within 180")
    return south, west, north, east


def known_countries(named: Sequence[str]) -> set[str]:
    """Countries as the gazetteer calls them, by ISO codes, names, or the beginning of one name ("Russia" for its Federation).

    Raises:
        UserError: there is no such country.
    """
    codes = country_names()
    found = set()
    for each in named:
        said = each.strip().casefold()
        exact = [name for code, name in codes.items() if said in (code.casefold(), name.casefold())]
        like = exact or [name for name in codes.values() if said and name.casefold().startswith(said)]
        if len(like) != 1:
            near = like or [name for name in codes.values() if name[:1].casefold() == said[:1]] or ["France"]
            raise UserError(
                f"{each!r} is no country, or more than one; give its ISO code or whole name ({', '.join(near[:8])})"
            )
        found.add(like[0])
    return found


class Bounds:
    """An area over an opened gallery.

    Args:
        area: what is asked for.
        gallery: what is searched.
        store: reaches the file of points.

    Raises:
        UserError: box or countries hold no tile, there is no such country, or the file of points does not read.
    """

    def __init__(self, area: Area, gallery: Gallery, store: Store) -> None:
        self.area, self.gallery = area, gallery
        self.fixed = self._fixed()
        self.points = Points(store, area.file, area.radius_km, area.nearest) if area.file is not None else None
        if self.fixed is not None and not len(self.fixed):
            raise UserError(f"no tile of the gallery lies in {self._named()}; check --ngcg.area.box and --ngcg.area.countries")

    def of(self, image_ids: Sequence[str]) -> list[Rows | Rejection | None]:
        """The tiles that each row may be found at, ascending; None: all; or why there is none.

        Raises:
            UserError: a name of the file of points fits several rows, or several names a row.
        """
        return [each for part in self.parts(image_ids) for each in part]

    def parts(self, image_ids: Sequence[str]) -> Iterator[list[Rows | Rejection | None]]:
        """As `of`, in parts of rows in their order, so that the tiles of one part are in memory at a time."""
        if self.points is None:
            yield [self.fixed] * len(image_ids)
            return
        latitude, longitude, radius_km, nearest = self.points.of(image_ids)
        most = np.where(nearest > 0, np.minimum(nearest, len(self.gallery)), len(self.gallery))
        part = np.cumsum(np.where(np.isfinite(latitude), most, 0)) // _TILES
        for rows in np.split(np.arange(len(latitude)), np.flatnonzero(np.diff(part)) + 1):
            yield self._part(latitude[rows], longitude[rows], radius_km[rows], nearest[rows])

    def _part(self, latitude: Floats, longitude: Floats, radius_km: Floats, nearest: Rows) -> list[Rows | Rejection | None]:
        named, bounded = np.isfinite(latitude), (radius_km > 0) | (nearest > 0)
        there = np.flatnonzero(named & bounded)
        whys = [f"{self.area.file} has {what} for it" for what in ("no point", "neither a radius nor a count of nearest tiles")]
        out: list[Rows | Rejection | None] = [Rejection("no_tile", whys[int(each)]) for each in named]
        kept = self._about(latitude[there], longitude[there], radius_km[there], nearest[there])
        for row, rows in zip(there.tolist(), kept, strict=True):
            if len(rows):
                out[row] = rows
            else:
                said = f"no tile in its area about {latitude[row]:.5f}, {longitude[row]:.5f}"
                out[row] = Rejection("no_tile", said if self.fixed is None else f"{said} and in {self._named()}")
        return out

    def _about(self, latitude: Floats, longitude: Floats, radius_km: Floats, nearest: Rows) -> list[Rows]:
        """Rows about each of N points with a bound, within the box and the countries.

        The n nearest are what lies as near as the nth, so that tiles of one spot are in or out together.
        """
        reach = np.where(radius_km > 0, radius_km, np.inf)
        counted = np.flatnonzero(nearest > 0)
        if len(counted):
            km, _ = self.gallery.near(latitude[counted], longitude[counted], int(nearest[counted].max()))
            last = np.minimum(nearest[counted], km.shape[1]) - 1
            reach[counted] = np.minimum(reach[counted], km[np.arange(len(counted)), last])
        return [self._inside(found) for found in self.gallery.within(latitude, longitude, reach)] if len(reach) else []

    def _inside(self, rows: Rows) -> Rows:
        """Those of the rows that lie within the box and the countries."""
        return rows if self.fixed is None else rows[self._mask[rows]]

    @cached_property
    def _mask(self) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.gallery), bool)
        mask[self.fixed] = True
        return mask

    def _fixed(self) -> Rows | None:
        """What box and countries leave for every row, ascending; None: everything."""
        area, gallery, left = self.area, self.gallery, None
        if area.box:
            left = np.sort(gallery.inside(*bounds(area.box)))
        if area.countries:
            names, towns = known_countries(area.countries), Geocoder.load()
            rows = np.arange(len(gallery)) if left is None else left
            town = towns.nearest(gallery.latitude[rows], gallery.longitude[rows]) if len(rows) else np.zeros(0, np.int64)
            each, back = np.unique(town, return_inverse=True)
            left = rows[np.array([towns[int(at)].country in names for at in each], bool)[back]]
        return left

    def _named(self) -> str:
        return " and ".join(filter(None, [f"the box {self.area.box}" * bool(self.area.box), ", ".join(self.area.countries)]))
