"""Tables of places pass by, part by part, and what a page or a file needs of them is kept.

Each part gets its truth, its error and its country, then goes to the exact figures, to the choice of rows that the page shows,
and to the files that were asked for. Memory holds a part or two, at most twice the page's rows, four bytes a judged image, and
while its truth is looked up a table's names; while it is compared with a file, the names of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.named import rows_of
from geobatch.benchmark.truth import Truth
from geobatch.engine.geocode import Geocoder
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.pipeline.report_tables import Named, Predicted, Rows, Table, paired
from geobatch.report.choice import pictured, shown
from geobatch.report.sidecar import Sidecars
from geobatch.report.tally import Tally
from geobatch.schema import RADII_KM, probability_column
from geobatch.store import Store

Floats = NDArray[np.float64]

#: Where the images of a part were taken, from the part and the number of its first row: degrees, NaN where that is not known.
Known = Callable[[pa.Table, int], tuple[Floats, Floats]]

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

    def other(self, table: Table, first: Table, said: Read) -> Read:
        """What another table says of the page's images, in their order; rows of nulls for those that it does not hold.

        Names of runs are matched to the letter, those of a file among all images of both tables (`paired`). Without a truth a
        run's images are judged by their own EXIF, a file's by that of the first table's, and none if none of the first is.

        Args:
            first: the table that the page is of.
            said: what was kept of it.

        Raises:
            UserError: it has none of the page's images, or a file's name fits several.
        """
        images = said.rows["image_id"].combine_chunks()
        known, wanted = self._beside(table, first, said)
        tally, found, at = Tally(), [], np.full(len(images), -1, np.intp)
        seen = held = 0
        for part, judged in self._parts(table, _LIGHT, known):
            tally.add(part, judged)
            rows = _index(images, part["image_id"].combine_chunks()) if wanted is None else wanted - seen
            there = (rows >= 0) & (rows < len(part))
            found.append(part.take(pa.array(rows[there])))
            at[there] = held + np.arange(len(found[-1]))
            seen, held = seen + len(part), held + len(found[-1])
        if not held:
            raise UserError(f"{table.output} and the first table have no image in common; compare runs over one archive")
        kept = pa.concat_tables(found, promote_options="default")
        return Read(totals=tally.figures(), rows=kept.take(pa.array(at, mask=at < 0)))

    def _beside(self, table: Table, first: Table, said: Read) -> tuple[Known, Rows | None]:
        """By what another table is judged, and its rows of the page's images, -1 where it has none; None: go by their names."""
        judged = self._truth is not None or said.totals["judged"]
        if not isinstance(first, Predicted) and not isinstance(table, Predicted):
            return self._known(table) if judged else _nowhere, None
        ours, theirs = self._named(first), self._named(table)
        pairs = paired(ours, theirs)
        wanted = np.append(pairs, -1)[_index(said.rows["image_id"].combine_chunks(), pa.array(ours.ids, pa.string()))]
        if self._truth is not None:
            return _of(self._truth.latitude, self._truth.longitude, theirs.rows), wanted
        if not judged:
            return _nowhere, wanted
        exif = pa.concat_tables(first.tables(self._store, list(_EXIF)))
        rows = np.full(len(theirs.ids), -1, np.intp)
        rows[pairs[pairs >= 0]] = np.flatnonzero(pairs >= 0)
        return _of(_floats(exif, "exif_latitude"), _floats(exif, "exif_longitude"), rows), wanted

    def _known(self, table: Table) -> Known:
        """By what a table is judged."""
        return _exif if self._truth is None else _of(self._truth.latitude, self._truth.longitude, self._named(table).rows)

    def _named(self, table: Table) -> Named:
        """The images of a table, their rows of the truth found at once, as an evaluation finds them.

        Raises:
            UserError: a name fits several.
        """
        ids = [one for part in table.tables(self._store, ["image_id"]) for one in part["image_id"].to_pylist()]
        rows = np.full(len(ids), -1, np.intp) if self._truth is None else rows_of(self._truth, ids)
        return Named(ids, rows, table.output if isinstance(table, Predicted) else None)

    def _parts(
        self, table: Table, columns: Sequence[str], known: Known | None = None
    ) -> Iterator[tuple[pa.Table, NDArray[np.bool_]]]:
        """Parts with the columns of `_ADDED`, and which of their rows have a truth."""
        names = list(dict.fromkeys([*columns, *_EXIF]))
        true, at = known or self._known(table), 0
        for part in table.tables(self._store, names):
            if not len(part):
                continue
            true_latitude, true_longitude = true(part, at)
            at += len(part)
            latitude, longitude = (_floats(part, axis) for axis in ("latitude", "longitude"))
            judged = np.isfinite(true_latitude)
            country = self._country(np.where(judged, true_latitude, latitude), np.where(judged, true_longitude, longitude))
            error = haversine_km(latitude, longitude, true_latitude, true_longitude)
            added = dict(zip(_ADDED, (true_latitude, true_longitude, error, country), strict=True))
            yield pa.table({**{name: part[name] for name in names}, **added}), judged

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


def _index(images: pa.Array, among: pa.Array) -> Rows:
    """Where names `(N,)` stand among others, -1 where they do not."""
    return np.asarray(pc.fill_null(pc.index_in(images, value_set=among), -1).to_numpy(zero_copy_only=False), np.intp)


def _exif(part: pa.Table, _: int) -> tuple[Floats, Floats]:
    return _floats(part, "exif_latitude"), _floats(part, "exif_longitude")


def _nowhere(part: pa.Table, _: int) -> tuple[Floats, Floats]:
    return np.full(len(part), np.nan), np.full(len(part), np.nan)


def _of(latitude: Floats, longitude: Floats, rows: Rows) -> Known:
    """Degrees by the rows `(N,)` that a table's images have of them, -1 where there is none."""
    degrees = np.append(latitude, np.nan), np.append(longitude, np.nan)

    def known(part: pa.Table, first: int) -> tuple[Floats, Floats]:
        here = rows[first : first + len(part)]
        return degrees[0][here], degrees[1][here]

    return known
