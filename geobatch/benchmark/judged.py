"""The rows of a table that are judged: those whose image has a known place, and if they count those that the table lacks.

Rejected rows are judged as any others and are wrong; so are missing images where a published benchmark's denominator is wanted.
Which images failed, and why, is kept by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.confidence import Coverage, area_coverage, radius_coverage
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.metrics import Calibration, calibration
from geobatch.benchmark.named import rows_of
from geobatch.benchmark.places import Places, numbers
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.schema import CONFIDENCE, RADII_KM, probability_column

Floats = NDArray[np.float64]

_DOUBTS = tuple(field.name for field in CONFIDENCE)


class Judged:
    """The rows of a table that are judged (-1: not in it), with the true place of each."""

    def __init__(
        self,
        held: pa.Table,
        ids: Sequence[str],
        rows: NDArray[np.intp],
        true_rows: NDArray[np.intp],
        truth: Truth,
        counts: tuple[int, int],
    ) -> None:
        self.rows, self.true_rows = rows, true_rows
        self.known, self.missing = counts
        self.image_ids: list[str | None] = [ids[row] if row >= 0 else None for row in rows.tolist()]
        self._absent = [truth.image_id[row] for row in true_rows[rows < 0].tolist()]
        self._held = held.drop_columns("image_id").take(pa.array(rows, pa.int64(), mask=rows < 0))
        self.true_latitude, self.true_longitude = truth.latitude[true_rows], truth.longitude[true_rows]
        self.latitude, self.longitude = self.column("latitude"), self.column("longitude")
        self.km = self.distance(self.latitude, self.longitude)

    def column(self, name: str) -> Floats:
        """A column of numbers `(images,)`, NaN where null."""
        return numbers(self._held[name])

    def distance(self, latitude: Floats, longitude: Floats) -> Floats:
        """Kilometres `(images,)` from the truth."""
        return haversine_km(latitude, longitude, self.true_latitude, self.true_longitude)

    def names(self) -> list[str]:
        """The judged images `(images,)` by name, missing ones as the truth calls them."""
        absent = iter(self._absent)
        return [next(absent) if name is None else name for name in self.image_ids]

    def failed(self) -> list[tuple[str, str]]:
        """The images without a place, and why."""
        reasons, names = self._held["reason"].to_pylist(), self.names()
        return [
            (names[at], "not in the table" if self.rows[at] < 0 else reasons[at] or "no place")
            for at in np.flatnonzero(np.isnan(self.km)).tolist()
        ]

    def calibrations(self, bootstrap: Bootstrap) -> list[Calibration]:
        """Of each probability column that says anything."""
        found = [calibration(self.column(probability_column(km)), self.km, km, bootstrap=bootstrap) for km in RADII_KM]
        return [one for one in found if one.images]

    def coverages(self, bootstrap: Bootstrap) -> list[Coverage]:
        """Of the radius and of the area, where the table has them."""
        if not {*_DOUBTS} <= {*self._held.column_names}:
            return []
        found = [
            radius_coverage(self.column("radius_90_km"), self.km, bootstrap=bootstrap),
            area_coverage(
                self._held["area"],
                self.column("area_probability"),
                self.true_latitude,
                self.true_longitude,
                ~np.isnan(self.km),
                bootstrap,
            ),
        ]
        return [one for one in found if one is not None]

    def counts(self, name: str) -> dict[str, int]:
        """Rows by the words of a column, the most frequent first; null is not counted."""
        if name not in self._held.column_names:
            return {}
        counted = pc.value_counts(self._held[name].drop_null()).to_pylist()
        return {one["values"]: one["counts"] for one in sorted(counted, key=lambda one: (-one["counts"], one["values"]))}


def judged_of(places: Places, truth: Truth, count_missing: bool) -> Judged:
    """The rows whose image has a known place, behind them the missing ones if they count.

    Raises:
        UserError: there is none, or an image stands in the table twice.
    """
    ids = places.ids("the table")
    found = rows_of(truth, ids)
    rows, true_rows = np.flatnonzero(found >= 0), found[found >= 0]
    if not rows.size:
        raise UserError(f"no image of the table is in {truth.name} (the table has {ids[:1]}, the truth "
                        f"{list(truth.image_id[:1])}); give the truth of these images")  # fmt: skip
    absent = np.ones(len(truth.image_id), bool)
    absent[true_rows] = False
    missing, known = np.flatnonzero(absent), int(rows.size)
    if count_missing:
        rows, true_rows = np.append(rows, np.full(missing.size, -1)), np.append(true_rows, missing)
    return Judged(places.held, ids, rows, true_rows, truth, (known, int(missing.size)))
