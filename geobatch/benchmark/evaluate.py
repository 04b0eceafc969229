"""A table of places against truth: what the chosen places got, and what other choices would have got.

    chosen                   the table's latitude and longitude
    nearest neighbour        the first image of `neighbours`, no model at all
    place between neighbours the one of `neighbours` that is no image, where there is one
    log-probability          the sample with the largest score
    oracle of the samples    the sample nearest to the truth: what the model knew
    oracle of the pool       the nearest to the truth of all candidates and the first neighbours: a perfect choice

All rows of the table whose image has a known place are judged, rejected ones as wrong, so that every choice
has the same denominator; a choice that a row does not offer (no neighbours, no samples) is wrong there too.
Rows without truth are counted, not judged, and so are places in the truth whose image the table does not
hold, unless `count_missing` makes them wrong as well, as a published benchmark wants where images could not
be had.

The distance to the photographs' own GPS is reported beside all that, whatever the truth is.

Not covered: tables of some millions of judged images, whose lists pass Arrow's 2 GiB of text; a selector that
needs more than the table holds, such as the likeness to gallery images. `others` takes whole tables located
in another way and judges them over the same images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.confidence import Coverage, area_coverage, radius_coverage
from geobatch.benchmark.evaluation import CHOSEN, NEIGHBOUR, ORACLE, SCORE, Evaluation
from geobatch.benchmark.metrics import Bootstrap, Calibration, Figures, Interval, calibration, figures, paired_difference
from geobatch.benchmark.named import mark_of, rows_of
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.schema import CONFIDENCE, RADII_KM, probability_column

Floats = NDArray[np.float64]


def evaluate(
    places: pa.Table,
    truth: Truth,
    *,
    others: Mapping[str, pa.Table] | None = None,
    count_missing: bool = False,
    pool_neighbours: int = 5,
    bootstrap: Bootstrap | None = None,
) -> Evaluation:
    """Judges a table of `geobatch.schema.PLACE`.

    Args:
        places: the table, in any order; `candidates`, `neighbours` and probabilities may be null.
        truth: where the images were taken.
        others: further tables of the same images, by the name of their line.
        count_missing: whether an image of the truth that the table does not hold is wrong (otherwise left out).
        pool_neighbours: how many of the first neighbours a choice may answer with, for the oracle of the pool.
        bootstrap: how intervals are drawn.

    Raises:
        UserError: no image of the table is in the truth, or an image stands in a table twice.
    """
    ids = _unique_ids(places, "the table")
    found = rows_of(truth, ids)
    rows, true_rows = np.flatnonzero(found >= 0), found[found >= 0]
    if not rows.size:
        raise UserError(f"no image of the table is in {truth.name} (the table has {ids[:1]}, the truth "
                        f"{list(truth.image_id[:1])}); give the truth of these images")  # fmt: skip
    absent = np.setdiff1d(np.arange(len(truth.image_id)), true_rows)
    if count_missing:
        rows, true_rows = np.append(rows, np.full(absent.size, -1)), np.append(true_rows, absent)
    judged = _Judged(places, rows, truth.latitude[true_rows], truth.longitude[true_rows])
    distances = judged.choices(pool_neighbours)
    for name, table in (others or {}).items():
        marks = [mark_of(ids[row]) if row >= 0 else "" for row in rows.tolist()]
        distances[name] = _other(table, name, list(zip(true_rows.tolist(), marks, strict=True)), judged, truth)
    chosen, neighbour = distances[CHOSEN], distances.get(NEIGHBOUR)
    reasons = pc.value_counts(places["reason"].drop_null()).to_pylist()
    return Evaluation(
        truth=truth.name,
        images=rows.size,
        placed=int(pc.sum(pc.equal(places["status"], "placed")).as_py() or 0),
        rejected={one["values"]: one["counts"] for one in sorted(reasons, key=lambda one: -one["counts"])},
        without_truth=len(ids) - int(np.sum(found >= 0)),
        missing=absent.size,
        choices={name: figures(distance, bootstrap=bootstrap) for name, distance in distances.items()},
        against_neighbour={} if neighbour is None else _paired(chosen, neighbour, bootstrap),
        against_score=_against_score(distances, bootstrap),
        calibration=judged.calibrations(chosen),
        coverage=judged.coverages(chosen, bootstrap),
        chosen_by=judged.counts("chosen_by"),
        fallbacks=judged.counts("fallback"),
        exif=_exif_figures(places, bootstrap),
        distances=distances,
        rows=rows,
        latitude=judged.column("latitude"),
        longitude=judged.column("longitude"),
        true_latitude=judged.latitude,
        true_longitude=judged.longitude,
    )


def _against_score(distances: Mapping[str, Floats], bootstrap: Bootstrap | None) -> dict[str, dict[int, Interval]]:
    """Of every choice that knows no truth, by how much it is within each radius more often than the log-probability's."""
    return {
        name: _paired(distance, distances[SCORE], bootstrap)
        for name, distance in distances.items()
        if SCORE in distances and name != SCORE and not name.startswith("oracle")
    }


def _paired(ours: Floats, theirs: Floats, bootstrap: Bootstrap | None) -> dict[int, Interval]:
    return {km: paired_difference(ours, theirs, km, bootstrap) for km in RADII_KM}


_JUDGED_BY = ("latitude", "longitude", "candidates", "neighbours", *map(probability_column, RADII_KM))
_DOUBTS = tuple(field.name for field in CONFIDENCE)


class _Judged:
    """The rows of a table that are judged (-1: not in it), with the true place of each."""

    def __init__(self, places: pa.Table, rows: NDArray[np.intp], latitude: Floats, longitude: Floats) -> None:
        here = pa.array(rows, pa.int64(), mask=rows < 0)
        known = [name for name in _DOUBTS if name in places.column_names]  # a table of schema 1 has none
        self.places = places.select([*_JUDGED_BY, *known]).take(here).combine_chunks()
        self.latitude, self.longitude = latitude, longitude

    def column(self, name: str) -> Floats:
        """A column of numbers `(images,)`, NaN where null."""
        return _numbers(self.places[name])

    def choices(self, pool_neighbours: int) -> dict[str, Floats]:
        """Distances `(images,)` by choice, those the table says nothing of left out."""
        out = {CHOSEN: self.distance(self.column("latitude"), self.column("longitude"))}
        images = len(self.latitude)
        near_row, near_km, rank = self.pool("neighbours")
        if near_row.size:
            image = _flat(self.places["neighbours"]).field("image_id").is_valid().to_numpy(False)
            out[NEIGHBOUR] = _best(near_row[image], near_km[image], -rank[image], images)
            if not image.all():
                out["place between neighbours"] = _best(near_row[~image], near_km[~image], -rank[~image], images)
        row, km, _ = self.pool("candidates")
        if row.size:
            entries = _flat(self.places["candidates"])
            sampled = pc.fill_null(pc.equal(entries.field("origin"), "sample"), False).to_numpy(False)
            score = _numbers(entries.field("score"))
            if np.any(sampled):
                out[SCORE] = _best(row[sampled], km[sampled], score[sampled], images)
                out[ORACLE] = _best(row[sampled], km[sampled], -km[sampled], images)
        if row.size or near_row.size:
            within_pool = rank < pool_neighbours
            row, km = np.append(row, near_row[within_pool]), np.append(km, near_km[within_pool])
            out["oracle of the pool"] = _best(row, km, -km, images)
        return out

    def distance(self, latitude: Floats, longitude: Floats) -> Floats:
        """Kilometres `(images,)` from the truth."""
        return haversine_km(latitude, longitude, self.latitude, self.longitude)

    def pool(self, name: str) -> tuple[NDArray[np.intp], Floats, NDArray[np.intp]]:
        """Of each entry of a list column: its image, its kilometres from the truth, its position in the list."""
        lists = self.places[name].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(False).astype(np.intp)
        row = np.repeat(np.arange(len(lengths)), lengths)
        entries = _flat(lists)
        latitude, longitude = (_numbers(entries.field(axis)) for axis in ("latitude", "longitude"))
        rank = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, haversine_km(latitude, longitude, self.latitude[row], self.longitude[row]), rank

    def calibrations(self, chosen_km: Floats) -> list[Calibration]:
        """Of each probability column that says anything."""
        found = [calibration(self.column(probability_column(km)), chosen_km, km) for km in RADII_KM]
        return [one for one in found if one.images]

    def coverages(self, chosen_km: Floats, bootstrap: Bootstrap | None) -> list[Coverage]:
        """Of the radius and of the area, where the table has them."""
        if not {*_DOUBTS} <= {*self.places.column_names}:
            return []
        found = [
            radius_coverage(self.column("radius_90_km"), chosen_km, bootstrap=bootstrap),
            area_coverage(
                self.places["area"],
                self.column("area_probability"),
                self.latitude,
                self.longitude,
                ~np.isnan(chosen_km),
                bootstrap,
            ),
        ]
        return [one for one in found if one is not None]

    def counts(self, name: str) -> dict[str, int]:
        """Rows by the words of a column, the most frequent first; null is not counted."""
        if name not in self.places.column_names:
            return {}
        counted = pc.value_counts(self.places[name].drop_null()).to_pylist()
        return {one["values"]: one["counts"] for one in sorted(counted, key=lambda one: (-one["counts"], one["values"]))}


def _numbers(column: pa.Array | pa.ChunkedArray) -> Floats:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy(zero_copy_only=False))


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.StructArray:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _best(row: NDArray[np.intp], km: Floats, score: Floats | NDArray[np.intp], images: int) -> Floats:
    """Kilometres `(images,)` of the entry of largest score in each row, NaN where it has none."""
    out = np.full(images, np.nan)
    if row.size:
        order = np.lexsort((np.where(np.isnan(score), -np.inf, score), row))
        last = order[np.append(np.flatnonzero(np.diff(row[order])), row.size - 1)]
        out[row[last]] = km[last]
    return out


def _unique_ids(places: pa.Table, name: str) -> list[str]:
    ids: list[str] = places["image_id"].to_pylist()
    if len(set(ids)) != len(ids):
        raise UserError(f"{name} holds an image twice; read it with geobatch.sink.read")
    return ids


def _other(table: pa.Table, name: str, true_rows: Sequence[tuple[int, str]], judged: _Judged, truth: Truth) -> Floats:
    """Distances `(images,)` of another table's places over the images that are judged, known by row of the truth and mark."""
    ids = _unique_ids(table, name)
    row_of = {(at, mark_of(ids[row])): row for row, at in enumerate(rows_of(truth, ids).tolist()) if at >= 0}
    rows = np.array([row_of.get(one, -1) for one in true_rows], np.intp)
    theirs = _Judged(table, rows, judged.latitude, judged.longitude)
    return theirs.distance(theirs.column("latitude"), theirs.column("longitude"))


def _exif_figures(places: pa.Table, bootstrap: Bootstrap | None) -> Figures | None:
    latitude, longitude = _numbers(places["exif_latitude"]), _numbers(places["exif_longitude"])
    known = ~(np.isnan(latitude) | np.isnan(longitude))
    if not np.any(known):
        return None
    km = haversine_km(_numbers(places["latitude"]), _numbers(places["longitude"]), latitude, longitude)
    return figures(km[known], bootstrap=bootstrap)
