"""Tiles get their places: the stage that says which ground a tile shows, its middle and its side.

Where a place comes from, `Places`:

    truth     a CSV or Parquet file of image_id, latitude, longitude, and footprint_km or size_m where it has one of them
    names     coordinates that the file's name begins with, as CVG-Text's do
    xyz       the address the name ends in, 17/70406/42987.png; `tms` counts y from the south, `quadkey` is one number
    geotiff   the file's own tags
    exif      the photograph's GPS position
    none      no place at all, for a gallery that is only asked which tile, never where
    auto      of truth (where it is given), geotiff, names and xyz the first that knows the tile

A file of truth is given on purpose, so in `auto` it goes before what a name only looks like; `17_70406_42987` is left to `xyz`,
since a date may look so. Only `xyz`, `geotiff` and a truth file know a side; the others take the one that is given for all. The
texts of one row of an archive of texts share its line of the file (`benchmark.named.rows_of`).

Addresses and tags are read from image_id and bytes, before pictures are decoded; `exif` needs what decoding found.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.benchmark.geotiff import ground, is_tiff
from geobatch.benchmark.lookup import Lookup
from geobatch.benchmark.named import path_of, place_of, rows_of
from geobatch.benchmark.titles import IMAGE_NAMES
from geobatch.benchmark.truth import Truth, load_truth
from geobatch.errors import Rejection, UserError
from geobatch.geo.tiles import Scheme, centres, place_in_name, side_km, tile_in_name
from geobatch.stage import Stage, rejected
from geobatch.store import Store, StoreConfig

Places = Literal["auto", "truth", "names", "xyz", "tms", "quadkey", "geotiff", "exif", "none"]

#: Columns of a truth file that give a tile's side, and how many of the unit make a km.
SIDES = {"footprint_km": 1.0, "size_km": 1.0, "footprint_m": 1000.0, "size_m": 1000.0}

#: Latitude and longitude in degrees, side in km (NaN: unknown); or why there is no place.
Found = tuple[float, float, float] | str

_TITLES = 1 << 16  # bytes in which a CSV's titles are


class Survey(Stage):
    """Adds `latitude`, `longitude` and `footprint_km`; a tile without a place is rejected as "no_place", but under `none`.

    Args:
        places: where they come from.
        truth: URI of the file.
        store: reaches it.
        footprint_km: side of the ground of tiles whose source states none; 0: unknown.

    Raises:
        UserError: there is no such file, it is needed and not given, or has no such columns.
    """

    adds = (
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("footprint_km", pa.float32()),
    )

    def __init__(
        self,
        places: Places = "auto",
        truth: str | None = None,
        store: StoreConfig | None = None,
        footprint_km: float = 0.0,
    ) -> None:
        self.places, self.footprint_km = places, footprint_km
        self.truth: Truth | None = None
        if places in ("truth", "auto") and truth is not None:
            self.truth, self._sides = _with_sides(Store(store), truth)
        elif places == "truth":
            raise UserError("--places truth reads a file of coordinates; give --truth")

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `image_id`; `bytes` for `geotiff` and `auto`, `exif_latitude` and `exif_longitude` for `exif`."""
        names = table["image_id"].to_pylist()
        found = np.full((len(names), 3), np.nan)
        why = [self._unknown] * len(names)
        if self.truth is not None:
            rows = rows_of(self.truth, names)
            there = rows >= 0
            known = (self.truth.latitude, self.truth.longitude, self._sides)
            found[there] = np.stack([each[rows[there]] for each in known], axis=1)
        if self.places == "exif":
            found[:, :2] = np.stack([table[f"exif_{axis}"].to_numpy() for axis in ("latitude", "longitude")], axis=1)
        for row in np.flatnonzero(np.isnan(found[:, 0])) if self.places not in ("truth", "exif", "none") else ():
            one = self._by_itself(names[row], table, int(row))
            if isinstance(one, str):
                why[row] = one
            else:
                found[row] = one
        if self.footprint_km > 0:
            found[np.isnan(found[:, 2]), 2] = self.footprint_km
        lost = {}
        if self.places != "none":
            lost = {int(row): Rejection("no_place", why[row]) for row in np.flatnonzero(np.isnan(found[:, :2]).any(axis=1))}
        for axis, field in enumerate(self.adds):
            # A row that lives has a number, if only NaN: null is what the sink takes for a row that got lost.
            kept = [row in lost for row in range(len(names))] if axis < 2 else np.isnan(found[:, 2])
            table = table.append_column(field, pa.array(found[:, axis], field.type, mask=np.asarray(kept, bool)))
        return rejected(table, "survey", lost)

    @property
    def _unknown(self) -> str:
        return {
            "truth": f"{self.truth.name if self.truth else 'the file'} holds no coordinates of it",
            "names": "its name does not begin with coordinates",
            "exif": "its EXIF holds no coordinates of it",
            "auto": "neither its tags nor its name say where it lies; give --truth or --places",
        }.get(self.places, f"its name ends in no {self.places} address of a tile")

    def _by_itself(self, name: str, table: pa.Table, row: int) -> Found:
        """What the tile's own name or tags say."""
        why = self._unknown
        if self.places in ("auto", "geotiff"):
            value = table["bytes"][row]
            data = value.as_buffer() if value.is_valid else b""
            if self.places == "geotiff" or is_tiff(memoryview(data)[:4]):
                said = ground(memoryview(data))
                if not isinstance(said, str) or self.places == "geotiff":
                    return said
                why = f"{said}, nor does its name say where it lies; give --truth or --places"
        path = path_of(name)
        if self.places in ("auto", "names") and (place := place_of(name) or place_in_name(path)):
            return (*place, np.nan)
        if self.places in ("auto", "xyz", "tms", "quadkey"):
            scheme: Scheme = "xyz" if self.places == "auto" else self.places
            if tile := tile_in_name(path, scheme, joined=self.places != "auto"):
                latitude, longitude = centres(*tile)
                return float(latitude), float(longitude), float(side_km(tile.zoom, tile.y))
        return why


def _with_sides(store: Store, uri: str) -> tuple[Truth, NDArray[np.float64]]:
    """The truth at `uri`, and of each of its rows the side in km, NaN where it says none."""
    truth = load_truth(store, uri)
    sides = np.full(len(truth.image_id), np.nan)
    table = _read_sides(store, uri)
    if table is not None:
        rows = Lookup(truth.image_id.values).find(table[0])[0]
        sides[rows[rows >= 0]] = table[1][rows >= 0]
    return truth, np.where(sides > 0, sides, np.nan)


def _read_sides(store: Store, uri: str) -> tuple[pa.LargeStringArray, NDArray[np.float64]] | None:
    """Names (N,) and sides in km (N,) of a truth file, None where it has no column of them."""
    head = store.get(uri, 0, _TITLES)
    about = store.head(uri)
    assert about is not None  # the truth has just been read from it
    try:
        file = pq.ParquetFile(store.seekable(uri, about.size)) if head[:4] == b"PAR1" else None
        first = head.decode("utf-8-sig", "replace").splitlines()[0]
        comma = max(",;\t", key=first.count)
        titles = file.schema_arrow.names if file else [title.strip('" ') for title in first.split(comma)]
        plain = {title.strip().lower().replace(" ", "_").replace("-", "_"): title for title in titles}
        side = next((one for one in SIDES if one in plain), None)
        if side is None:
            return None
        chosen = [plain[next(one for one in IMAGE_NAMES if one in plain)], plain[side]]
        table = file.read(columns=chosen) if file else _columns(store.get(uri), titles, comma, chosen)
        names = pa.concat_arrays([pa.nulls(0, pa.large_string()), *table[chosen[0]].cast(pa.large_string()).chunks])
        sides = table[chosen[1]].cast(pa.float64()).to_numpy() / SIDES[side]
    except pa.ArrowException as error:
        raise UserError(f"{uri} has sides of tiles that are no numbers ({str(error)[:120]}); correct the column") from error
    return names, np.asarray(sides, np.float64)


def _columns(data: bytes, titles: list[str], comma: str, chosen: list[str]) -> pa.Table:
    """Names as text and sides as numbers of a CSV."""
    return pa.csv.read_csv(
        io.BytesIO(data),
        read_options=pa.csv.ReadOptions(column_names=titles, skip_rows=1),
        parse_options=pa.csv.ParseOptions(delimiter=comma, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            include_columns=chosen, column_types=dict(zip(chosen, (pa.large_string(), pa.float64()), strict=True))
        ),
    )
