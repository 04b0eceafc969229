"""Which columns of somebody's table are names, latitudes and longitudes, by their titles.

A latitude and a longitude are taken from one family of titles (`gt_lat` with `gt_lng`, `lat` with `lng`), the first that has
both: each axis by itself would mix the place that a system predicted with the true one. What says that it is true, or
predicted, goes before what is merely called latitude and longitude; where such a title is there and its like is missing, the
bare ones may be the other place, and the table is refused.

One published list has LAT and LON exchanged, which shows when many latitudes pass 90 and no longitude does: a twentieth of a
truth's, a quarter of predictions (`turned`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geobatch.errors import UserError

Floats = NDArray[np.float64]

#: Names of columns, in lower case with `_` for blanks and hyphens; the first that is there wins.
IMAGE_NAMES = (
    *("image_id", "img_id", "imageid", "id", "file", "file_name", "filename", "image", "img", "path"),
    *("filepath", "file_path", "key", "uri", "url", "name"),
)
_LATITUDES, _LONGITUDES = ("latitude", "lat"), ("longitude", "lon", "lng", "long")
_BARE = (_LATITUDES, _LONGITUDES)
_AXIS = r"(lat|lon|lng|long)(itude)?(?![a-z])|^(lat|lon|lng)"
#: Latitudes beyond 90 that no typing error explains: so many rows at least, this share of a truth's, and this of predictions,
#: where a model that fails writes some as well.
_EXCHANGED_ROWS, TRUE_SHARE, PREDICTED_SHARE = 3, 0.05, 0.25


class Wanted(NamedTuple):
    """What a reader looks for."""

    kind: str
    """Of place, for messages."""
    say: tuple[str, str]
    """What a latitude and a longitude are best called."""
    families: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """Titles of latitudes and of longitudes that belong together, the best first, the bare ones last."""
    marks: str
    """Pattern of titles that mean such a place for certain."""


def _marked(*words: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    for form in ("{word}_{axis}", "{axis}_{word}"):
        for word in words:
            north, east = ([form.format(word=word, axis=axis) for axis in axes] for axes in (_LATITUDES, _LONGITUDES))
            yield tuple(north), tuple(east)


TRUTH = Wanted(
    kind="",
    say=("latitude", "longitude"),
    families=(*_marked("gt", "true", "ground_truth"), _BARE),
    marks=r"(^|_)(gt|true|truth)(_|$)",
)
#: Every title of a true place.
AXES = frozenset(title for family in TRUTH.families for axis in family for title in axis)
PREDICTIONS = Wanted(
    kind="predicted ",
    say=("predicted_lat", "predicted_lon"),
    families=(*_marked("predicted", "pred", "prediction"), _BARE),
    marks="pred",
)


def chosen(titles: list[str], name: str, wanted: Wanted) -> list[int]:
    """Where names, latitudes and longitudes stand among plain titles; the last of those that are called alike.

    Raises:
        UserError: one is missing, or those that are there may be of another kind of place.
    """
    image = next((one for one in IMAGE_NAMES if one in titles), None)
    if image is None:
        raise UserError(f"{name} has no column for an image id; name one {IMAGE_NAMES[0]!r}")
    pairs = [[next((one for one in names if one in titles), None) for names in family] for family in wanted.families]
    found = next((pair for pair in pairs if None not in pair), None)
    if found is None:
        for axis, what in enumerate(("latitude", "longitude")):
            if not any(pair[axis] for pair in pairs):
                raise UserError(f"{name} has no column for a {wanted.kind}{what}; name one {wanted.say[axis]!r}")
    single = next((one for one in titles if re.search(wanted.marks, one) and re.search(_AXIS, one)), None)
    if found is None or (found == pairs[-1] and single is not None):
        one = single or next(one for pair in pairs for one in pair if one)
        raise UserError(f"{name} has {one!r} and no column that belongs to it; name two columns {wanted.say[0]!r} and "
                        f"{wanted.say[1]!r}")  # fmt: skip
    return [len(titles) - 1 - titles[::-1].index(str(title)) for title in (image, *found)]


def plain(title: str) -> str:
    """A title as the names above are written.

    >>> plain(" GT Lat ")
    'gt_lat'
    """
    return re.sub(r"[\s-]+", "_", title.strip().lower())


def turned(
    latitude: Floats, longitude: Floats, known: NDArray[np.bool_], name: str, share: float = TRUE_SHARE
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Degrees `(N,)`, the other way round where their titles are exchanged, and a note that says so.

    Args:
        known: `(N,)` the rows that have both.
        name: of the file.
        share: of latitudes beyond 90, three of them at least, that means exchanged titles where no longitude passes 90.
    """
    if not _exchanged(latitude[known], longitude[known], share):
        return latitude, longitude, ()
    beyond = int(np.sum(np.abs(latitude[known]) > 90))
    note = (f"{name} has its latitudes and longitudes exchanged ({beyond} of {known.sum()} latitudes pass 90, no longitude "
            "does); they are read the other way round")  # fmt: skip
    return longitude, latitude, (note,)


def _exchanged(latitude: Floats, longitude: Floats, share: float) -> bool:
    """Whether columns `(N,)` titled latitude and longitude, without NaN, can only be each other's."""
    beyond = (np.abs(latitude) > 90) & (np.abs(latitude) <= 180)
    enough = beyond.sum() >= max(_EXCHANGED_ROWS, share * len(latitude))
    return bool(enough and np.all(np.abs(latitude) <= 180) and np.all(np.abs(longitude) <= 90))
