"""Tables of places pass by, part by part, and what a page or a file needs of them is kept.

Each part gets its truth, its error and its country, then goes to the exact figures, to the choice of rows that the page shows,
and to the files that were asked for. Memory holds a part or two, at most twice the page's rows, four bytes a judged image, and
while the truth of a table is looked up its images' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.named import rows_of
from geobatch.benchmark.truth import Truth, truth_from_exif
from geobatch.engine.geocode import Geocoder
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.pipeline.report_tables import Predicted, Table, known_by, rows_for
from geobatch.report.choice import pictured, shown
from geobatch.report.sidecar import Sidecars
from geobatch.report.tally import Tally
from geobatch.schema import RADII_KM, probability_column
from geobatch.store import Store

Floats = NDArray[np.float64]

#: What a page knows of a row; a sample's rows have more.
_LIGHT = [
    *("image_id", "uri", "status", "stage", "reason", "detail", "latitude", "longitude", "radius_90_km", "area"),
    *map(probability_column, RADII_KM),
    *("chosen_by", "text"),
]
_SAMPLE = ["etag", "size", "run", "candidates", "neighbours"]
_EXPORTED = ["s2_token", "score", "exif_time", "method", "model"]
_EXIF = ["exif_latitude", "exif_longitude"]
_ADDED = ["true_latitude", "true_longitude", "error_km", "country"]
_SIDECAR = ["image_id", "uri", "latitude", "longitude", "exif_latitude", "method", "radius_90_km"]


class Writer(Protocol):
    """A file that rows go to."""

    def add(self, table: pa.Table) -> None:
        """The next rows."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of the first table."""

    shown: int
    """Rows on the page at most."""
    pictures: int
    """Rows with a picture at most."""
    writers: Sequence[AbstractContextManager[Writer]] = field(default_factory=tuple)
    """Files for all rows."""
    sidecars: Sidecars | None = None
    """Takes all rows."""


@dataclass(kw_only=True)
class Read:
    """What was kept of one table."""

    totals: dict[str, Any]
    rows: pa.Table
    sample: pa.Table | None = None


class Reading:
    """Goes through tables.

    Args:
        store: reaches them.
        truth: where images were taken; None: what their EXIF says.
        towns: tell the country of a place; None: it is left null.
    """

    def __init__(self, store: Store, truth: Truth | None, towns: Geocoder | None) -> None:
        self._store, self._truth, self._towns = store, truth, towns

    def first(self, table: Table, asked: Asked) -> Read:
        """All that is asked for, of the table that the page is of."""
        pictures = min(asked.pictures, max(1, asked.shown // 2))
        tally, rows, sample = Tally(), shown(asked.shown, pictures), pictured(pictures)
        with ExitStack() as stack:
            writers = [stack.enter_context(writer) for writer in asked.writers]
            for part, judged in self._parts(table, [*_LIGHT, *_SAMPLE, *_EXPORTED]):
                tally.add(part, judged)
                for writer in writers:
                    writer.add(part)
                if asked.sidecars is not None:
                    asked.sidecars.add(part.select(_SIDECAR).to_pylist())
                rows.add(part.select([*_LIGHT, *_ADDED]))
                if asked.pictures:
                    sample.add(part.select([*_LIGHT, *_SAMPLE, *_ADDED]))
        if not tally.figures()["images"]:
            raise UserError(f"the table at {table.output} has no rows; check that the archive holds images")
        return Read(totals=tally.figures(), rows=rows.table(), sample=sample.table() if asked.pictures else None)

    def other(self, table: Table, images: pa.Table, first: Table) -> Read:
        """What another table says of the same images, in their order; rows of nulls for those that it does not hold.

        Args:
            images: rows of the page.
            first: the table that they are of; names of files are matched as a truth's are, those of runs to the letter.

        Raises:
            UserError: it has none of them.
        """
        tally, found, places = Tally(), [], images["image_id"].combine_chunks()
        page = known_by(places.to_pylist(), first.output) if isinstance(first, Predicted) else None
        at, held = np.full(len(places), -1, np.intp), 0
        for part, judged in self._parts(table, _LIGHT):
            tally.add(part, judged)
            rows = rows_for(places, part, table, page)
            there = rows >= 0
            found.append(part.take(pa.array(rows[there])))
            at[there] = held + np.arange(len(found[-1]))
            held += len(found[-1])
        if not held:
            raise UserError(f"{table.output} and the first table have no image in common; compare runs over one archive")
        kept = pa.concat_tables(found, promote_options="default")
        return Read(totals=tally.figures(), rows=kept.take(pa.array(at, mask=at < 0)))

    def judging(self, first: Table, others: Sequence[Table]) -> Reading:
        """The same for the other tables: a file has no EXIF, so its places are judged by that of the first table's images.

        Without a truth and without EXIF nothing is judged.
        """
        if self._truth is not None or not any(isinstance(one, Predicted) for one in others):
            return self
        parts = pa.concat_tables(first.tables(self._store, ["image_id", *_EXIF]))
        if not pc.any(pc.is_valid(parts["exif_latitude"])).as_py():
            return self
        return Reading(self._store, truth_from_exif(parts), self._towns)

    def _parts(self, table: Table, columns: Sequence[str]) -> Iterator[tuple[pa.Table, NDArray[np.bool_]]]:
        """Parts with the columns of `_ADDED`, and which of their rows have a truth."""
        names = list(dict.fromkeys([*columns, *_EXIF]))
        rows, at = self._matched(table), 0
        for part in table.tables(self._store, names):
            if not len(part):
                continue
            true_latitude, true_longitude = self._true(part, rows[at : at + len(part)])
            at += len(part)
            latitude, longitude = (_floats(part, axis) for axis in ("latitude", "longitude"))
            judged = np.isfinite(true_latitude)
            country = self._country(np.where(judged, true_latitude, latitude), np.where(judged, true_longitude, longitude))
            error = haversine_km(latitude, longitude, true_latitude, true_longitude)
            added = dict(zip(_ADDED, (true_latitude, true_longitude, error, country), strict=True))
            yield pa.table({**{name: part[name] for name in names}, **added}), judged

    def _matched(self, table: Table) -> NDArray[np.intp]:
        """Rows of the truth of all images of a table, -1 where there is none; found at once, as an evaluation finds them.

        Raises:
            UserError: a name fits several.
        """
        if self._truth is None:
            return np.zeros(0, np.intp)
        ids: list[str] = []
        for part in table.tables(self._store, ["image_id"]):
            ids += part["image_id"].to_pylist()
        return rows_of(self._truth, ids)

    def _true(self, part: pa.Table, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        if self._truth is None:
            return _floats(part, "exif_latitude"), _floats(part, "exif_longitude")
        return np.where(rows >= 0, self._truth.latitude[rows], np.nan), np.where(rows >= 0, self._truth.longitude[rows], np.nan)

    def _country(self, latitude: Floats, longitude: Floats) -> pa.Array:
        """Of the truth, or of the place where that is not known; null without either."""
        names: list[str | None] = [None] * latitude.size
        there = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
        if self._towns is not None and there.size:
            for row, town in zip(there, self._towns.nearest(latitude[there], longitude[there]), strict=True):
                names[row] = self._towns[int(town)].country or None
        return pa.array(names, pa.string())


def _floats(table: pa.Table, name: str) -> Floats:
    return pc.cast(table[name], pa.float64()).to_numpy().astype(np.float64)
