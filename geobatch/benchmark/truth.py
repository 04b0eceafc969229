"""Where images really were taken: a table of truth, read forgivingly and matched strictly.

Every benchmark names its columns differently (`IMG_ID, LAT, LON`; `id, latitude, longitude`; `img_id, gt_lat,
gt_long`), and some name them wrongly: one published list has LAT and LON exchanged, which shows when a
latitude passes 90. So names are guessed from a list, and values are never guessed: a number out of range or
unreadable, an id given twice with different places, or a name that fits several images ends in one line that
says what to do.

An image is looked up by its whole `image_id` first, then by ever shorter endings of it, cut after `/` or `#`
(`s3://b/a.tar#x/1.jpg`, `b/a.tar#x/1.jpg`, …, `1.jpg`), last by the final part of both. Anything but the
whole id may belong to one image only.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.errors import UserError
from geobatch.geo.point import valid

Floats = NDArray[np.float64]

#: Names of columns, in lower case with `_` for blanks and hyphens; the first that is there wins.
IMAGE_NAMES = (
    *("image_id", "img_id", "imageid", "id", "file", "file_name", "filename", "image", "img", "path"),
    *("filepath", "file_path", "key", "uri", "url", "name"),
)
LATITUDE_NAMES = ("latitude", "lat", "gt_lat", "gt_latitude", "true_lat", "true_latitude")
LONGITUDE_NAMES = (
    *("longitude", "lon", "lng", "long", "gt_lon", "gt_lng", "gt_long", "gt_longitude"),
    *("true_lon", "true_longitude"),
)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Places known to be true.

    Attributes:
        name: where they come from, for messages.
        image_id: `(N,)` unique names.
        latitude, longitude: `(N,)` degrees.
        without_place: rows of the source whose coordinates were empty.
    """

    name: str
    image_id: tuple[str, ...]
    latitude: Floats
    longitude: Floats
    without_place: int = 0

    def match(self, image_ids: Sequence[str]) -> NDArray[np.intp]:
        """Rows `(M,)` of the truth that images belong to, -1 where there is none.

        Raises:
            UserError: a shortened name fits several rows, or several images.
        """
        found = np.full(len(image_ids), -1, np.intp)
        owner: dict[int, int] = {}
        for at, image_id in enumerate(image_ids):
            whole = self._exact.get(image_id)
            row = whole if whole is not None else self._shortened(image_id)
            if row is None:
                continue
            found[at] = row
            if owner.setdefault(row, at) != at:
                raise UserError(
                    f"{self.image_id[row]!r} in {self.name} fits both {image_ids[owner[row]]!r} and {image_id!r}; "
                    "write whole image ids there"
                )
        return found

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.image_id)}

    @cached_property
    def _by_last(self) -> dict[str, list[int]]:
        return _grouped(self.image_id)

    def _shortened(self, image_id: str) -> int | None:
        for ending in _endings(image_id):
            if ending in self._exact:
                return self._exact[ending]
        last = _last(image_id)
        rows = self._by_last.get(last, []) if last else []
        if len(rows) > 1:
            first, second = (self.image_id[row] for row in rows[:2])
            raise UserError(f"{image_id!r} fits both {first!r} and {second!r} in {self.name}; write whole image ids there")
        return rows[0] if rows else None


def read_truth(source: str | Path) -> Truth:
    """Reads truth from a local CSV (comma, semicolon or tab) or Parquet file.

    Raises:
        UserError: no such file, no such columns, an unreadable value; the line says which row and what to do.
    """
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); give a CSV or Parquet file of truth") from error
    return parse_truth(data, str(path))


def parse_truth(data: bytes, name: str) -> Truth:
    """Truth from the bytes of a CSV or Parquet file; `name` is for messages. Errors as `read_truth`."""
    columns = _parquet(data, name) if data[:4] == b"PAR1" else _csv(data, name)
    ids = columns[_pick(columns, IMAGE_NAMES, "an image id", name)]
    latitude = _numbers(columns[_pick(columns, LATITUDE_NAMES, "a latitude", name)], "latitude", name)
    longitude = _numbers(columns[_pick(columns, LONGITUDE_NAMES, "a longitude", name)], "longitude", name)
    return truth_of([str(one) for one in ids], latitude, longitude, name)


def truth_of(image_ids: Sequence[str], latitude: Floats, longitude: Floats, name: str) -> Truth:
    """Truth from columns; rows where a coordinate is NaN are counted and left out, equal rows merged.

    Raises:
        UserError: a coordinate out of range, an id with two places, or no place at all.
    """
    known = ~(np.isnan(latitude) | np.isnan(longitude))
    wrong = known & ~valid(latitude, longitude)
    if np.any(wrong):
        row = int(np.argmax(wrong))
        raise UserError(
            f"row {row + 1} of {name} has latitude {latitude[row]:g} and longitude {longitude[row]:g}, which is nowhere; "
            "correct it (are the two columns exchanged?)"
        )
    rows: dict[str, int] = {}
    for row in np.flatnonzero(known).tolist():
        first = rows.setdefault(image_ids[row], row)
        if (latitude[first], longitude[first]) != (latitude[row], longitude[row]):
            raise UserError(f"{image_ids[row]!r} has two places in {name}; leave one")
    if not rows:
        raise UserError(f"{name} holds no place; give a file with image ids, latitudes and longitudes")
    kept = np.array(list(rows.values()), np.intp)
    return Truth(
        name=name,
        image_id=tuple(rows),
        latitude=latitude[kept],
        longitude=longitude[kept],
        without_place=int(np.sum(~known)),
    )


def truth_from_exif(places: pa.Table) -> Truth:
    """The photographs' own GPS positions, from a table of `geobatch.schema.PLACE`, as truth.

    Raises:
        UserError: no image of the table has one.
    """
    there = places.filter(pc.and_(pc.is_valid(places["exif_latitude"]), pc.is_valid(places["exif_longitude"])))
    latitude, longitude = (there[f"exif_{axis}"].to_numpy() for axis in ("latitude", "longitude"))
    return truth_of(there["image_id"].to_pylist(), latitude, longitude, "the images' EXIF")


def _csv(data: bytes, name: str) -> dict[str, list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is neither Parquet nor UTF-8 text; save it as a UTF-8 CSV") from error
    head = text[: text.find("\n")] if "\n" in text else text
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(rows, [])
        lines = [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{name} is no CSV ({error}); save it as a UTF-8 CSV with a header") from error
    for number, row in enumerate(lines, 1):
        if len(row) < len(header):
            raise UserError(f"row {number} of {name} has {len(row)} of {len(header)} columns; complete or drop it")
    return {_plain(title): [row[at] for row in lines] for at, title in enumerate(header)}


def _parquet(data: bytes, name: str) -> dict[str, list[object]]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} is a damaged Parquet file ({error}); write it again") from error
    wanted = {*IMAGE_NAMES, *LATITUDE_NAMES, *LONGITUDE_NAMES}
    return {_plain(title): table[title].to_pylist() for title in table.column_names if _plain(title) in wanted}


def _plain(title: str) -> str:
    return re.sub(r"[\s-]+", "_", title.strip().lower())


def _pick(columns: dict[str, list[str]] | dict[str, list[object]], names: Sequence[str], what: str, name: str) -> str:
    for one in names:
        if one in columns:
            return one
    raise UserError(f"{name} has no column for {what}; name one {names[0]!r}")


def _numbers(cells: Sequence[object], what: str, name: str) -> Floats:
    """Degrees `(N,)`, NaN where empty."""
    out = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        text = "" if cell is None else str(cell).strip()
        if text.lower() in {"", "nan", "null", "none", "na"}:
            continue
        try:
            out[row] = float(text)
        except ValueError as error:
            raise UserError(f"row {row + 1} of {name}: {text[:40]!r} is no {what}; give decimal degrees") from error
    return out


def _last(image_id: str) -> str:
    return re.split(r"[/#]", image_id)[-1]


def _endings(image_id: str) -> Iterator[str]:
    for cut in re.finditer(r"[/#]", image_id):
        yield image_id[cut.end() :]


def _grouped(image_ids: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows.setdefault(_last(image_id), []).append(row)
    return rows
