"""What the names of published tiles tell: where they are, and which of them show the same thing.

CVG-Text writes a tile's place into its name, `<latitude>,<longitude>_<YYYY-MM>_<panoid>_d<yaw>_z<zoom>.png`; its own code
reads the two numbers in front, and so is it done here, so that `40.7,-74.0.png` is a place too. GeoText-1652 keeps all views
of a building in a folder of its number, `0839/image-43.jpeg`; a hit is any image of the query's building.

A name may be a whole `image_id`: its URI, the `#` before a member, and what marks the second text of a row (`@2`) or the
second row of a name (`~2`) are seen through, and escapes are undone. What it does not cover: folders that are not buildings;
for names that carry places the folder says nothing, for others it is taken at its word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geobatch.benchmark.truth import Truth

_MARKS = re.compile(r"(?:~\d+)?(?:@\d+)?$")
_PLACE = re.compile(r"([-+]?\d{1,3}(?:\.\d+)?),([-+]?\d{1,3}(?:\.\d+)?)(?=_|\.[A-Za-z]\w*$|$)")
_ESCAPES = (("%7E", "~"), ("%40", "@"), ("%3D", "="), ("%23", "#"), ("%25", "%"))


def path_of(name: str) -> str:
    """The path of a tile inside its archive: a member's name without marks and escapes, or the whole URI.

    >>> path_of("s3://b/test.json#0839/image-43.jpeg@2"), path_of("s3://b/tiles/0839/image-43.jpeg")
    ('0839/image-43.jpeg', 's3://b/tiles/0839/image-43.jpeg')
    """
    _, hash_, member = name.partition("#")
    return _unescaped(_MARKS.sub("", member) if hash_ else name)


def stem_of(name: str) -> str:
    """An image_id without the mark of which text, or which row of its name, it is.

    >>> stem_of("s3://b/test.json#0839/image-43.jpeg~2@1")
    's3://b/test.json#0839/image-43.jpeg'
    """
    return name.removesuffix(mark_of(name))


def mark_of(name: str) -> str:
    """What `stem_of` leaves out.

    >>> mark_of("s3://b/test.json#0839/image-43.jpeg~2@1"), mark_of("a.png")
    ('~2@1', '')
    """
    found = _MARKS.search(name)
    return found[0] if found else ""


def rows_of(truth: Truth, image_ids: Sequence[str]) -> NDArray[np.intp]:
    """Rows `(M,)` of a truth that images or texts belong to, -1 where there is none: `Truth.match`, but that the texts of one
    row share its place, unless the truth names them one by one.

    Raises:
        UserError: as `Truth.match`.
    """
    rows = truth.match(image_ids)
    ways: tuple[Callable[[str], str], ...] = (stem_of, lambda name: _unescaped(stem_of(name)))
    for way in ways:
        other = [(at, name) for at in np.flatnonzero(rows < 0).tolist() if (name := way(image_ids[at])) != image_ids[at]]
        if other:
            each, back = np.unique(np.array([name for _, name in other], object), return_inverse=True)
            rows[[at for at, _ in other]] = truth.match(each.tolist())[back]
    return rows


def _unescaped(path: str) -> str:
    for escape, character in _ESCAPES:
        path = path.replace(escape, character)
    return path


def file_of(name: str) -> str:
    """The last part of a tile's path.

    >>> file_of("s3://b/test.json#40.7,-74.0_2019-05_x_d193_z3.png@1")
    '40.7,-74.0_2019-05_x_d193_z3.png'
    """
    return path_of(name).rpartition("/")[2]


def place_of(name: str) -> tuple[float, float] | None:
    """Latitude and longitude in degrees that a tile's name begins with; None where it begins with none on Earth.

    >>> place_of("s3://b/sat/40.7,-74.0_2019-05_x_d193_z3.png"), place_of("0839/image-43.jpeg")
    ((40.7, -74.0), None)
    """
    found = _PLACE.match(file_of(name))
    if found is None:
        return None
    latitude, longitude = float(found[1]), float(found[2])
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def building_of(name: str) -> str:
    """What a tile shows: names with the same answer show the same. Of a name with a place it is the file, as in CVG-Text; else
    the folder, the building of GeoText-1652; else the name itself.

    >>> building_of("s3://b/sat/40.7,-74.0_z3.png"), building_of("s3://b/test.json#0839/image-43.jpeg@2"), building_of("a.png")
    ('40.7,-74.0_z3.png', '0839', 'a.png')
    """
    folder, slash, file = path_of(name).rpartition("/")
    if not slash or place_of(name) is not None:
        return file
    return folder.rpartition("/")[2] or file
