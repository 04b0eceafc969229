"""What candidates and neighbours make of every image, in one pass over the lists: distances by choice, and sums for analyses.

Of each image some hundred bytes are kept, whatever its lists hold: by choice the distance, the likeliest draw's place, how
alike
the first neighbour is, and how near the first neighbour is that a masked gallery would have left. Draws are counted: of each
image only the number K of its draws and the number within each radius, as a histogram over images, which is all that it takes
to say what the best of k draws would be for every k (`analyses.oracle`). A million images with 30 candidates and 15 neighbours
take about a minute on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.choices import BETWEEN, NEIGHBOUR, ORACLE, ORDER, POOL, SCORE
from geobatch.benchmark.places import numbers
from geobatch.benchmark.regions import Regions, Where
from geobatch.geo.distance import haversine_km
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
#: Gives a table of places by another way to choose among the same candidates.
Chooser = Callable[[pa.Table], pa.Table]

#: Kilometres around the truth within which a masked gallery has no image.
MASKED_KM = (1, 25, 200)


@dataclass(frozen=True)
class Entries:
    """A list column, flattened.

    Attributes:
        row: `(E,)` the image of each entry, by its position in the batch.
        rank: `(E,)` its position in the image's list.
        values: the entries.
        latitude, longitude: `(E,)` degrees.
        km: `(E,)` from the truth of its image.
    """

    row: Rows
    rank: Rows
    values: pa.StructArray
    latitude: Floats
    longitude: Floats
    km: Floats

    def first(self, chosen: NDArray[np.bool_], images: int) -> Rows:
        """Entry `(images,)` of the lowest rank among those chosen, -1 where an image has none."""
        return self.best(-self.rank.astype(np.float64), chosen, images)

    def best(self, score: Floats, chosen: NDArray[np.bool_], images: int) -> Rows:
        """Entry `(images,)` of the largest score among those chosen, the last of equal ones, -1 where an image has none."""
        out = np.full(images, -1, np.intp)
        at = np.flatnonzero(chosen)
        if at.size:
            key = np.where(np.isnan(score[at]), -np.inf, score[at])
            order = at[np.lexsort((key, self.row[at]))]
            last = order[np.append(np.flatnonzero(np.diff(self.row[order])), order.size - 1)]
            out[self.row[last]] = last
        return out


@dataclass(kw_only=True)
class Lists:
    """What was found, of N judged images.

    Attributes:
        distances: km `(N,)` by choice, NaN where it offers no place.
        score_latitude, score_longitude: `(N,)` of the likeliest draw, NaN where nothing was drawn.
        similarity: `(N,)` of the first neighbour that is an image, NaN where there is none.
        masked: km `(N,)` of the first neighbour that is left by what of the gallery is masked, NaN where none is.
        draws: by number of draws K, images `(R, K + 1)` by radius and by how many of their draws lie within it.
    """

    images: int
    distances: dict[str, Floats] = field(default_factory=dict)
    score_latitude: Floats = field(default_factory=lambda: np.zeros(0))
    score_longitude: Floats = field(default_factory=lambda: np.zeros(0))
    similarity: Floats = field(default_factory=lambda: np.zeros(0))
    masked: dict[str, Floats] = field(default_factory=dict)
    draws: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.score_latitude, self.score_longitude, self.similarity = (np.full(self.images, np.nan) for _ in range(3))

    def put(self, where: dict[str, Floats], name: str, at: Rows, values: Floats) -> None:
        """Values of the images at `at` under a name."""
        where.setdefault(name, np.full(self.images, np.nan))[at] = values

    def ordered(self) -> dict[str, Floats]:
        """The distances, in the order in which the README names choices."""
        names = [name for name in ORDER if name in self.distances]
        return {name: self.distances[name] for name in [*names, *(name for name in self.distances if name not in ORDER)]}


class Reading:
    """One pass over the lists of judged images.

    Args:
        latitude, longitude: `(N,)` true places in degrees.
        pool_neighbours: how many of the first neighbours the oracle of the pool may answer with.
        choosers: other ways to choose, by name.
        regions: tells a masked country and continent; None: those masks are left out.
        where: of the true places.
    """

    def __init__(
        self,
        latitude: Floats,
        longitude: Floats,
        *,
        pool_neighbours: int,
        choosers: Mapping[str, Chooser],
        regions: Regions | None = None,
        where: Where | None = None,
    ) -> None:
        self.latitude, self.longitude = latitude, longitude
        self.pool_neighbours, self.choosers = pool_neighbours, choosers
        self.regions, self.where = regions, where
        self.found = Lists(images=len(latitude))

    def take(self, table: pa.Table, at: Rows) -> None:
        """The rows of `table` are those of the judged images at positions `at`."""
        near, drawn = self._entries(table["neighbours"], at), self._entries(table["candidates"], at)
        if near.row.size:
            self._neighbours(near, at)
        if drawn.row.size:
            self._candidates(drawn, at)
        if near.row.size or drawn.row.size:
            km = np.full(len(at), np.inf)
            np.minimum.at(km, drawn.row, np.nan_to_num(drawn.km, nan=np.inf))
            first = near.rank < self.pool_neighbours
            np.minimum.at(km, near.row[first], np.nan_to_num(near.km[first], nan=np.inf))
            self.found.put(self.found.distances, POOL, at, np.where(np.isfinite(km), km, np.nan))
        for name, chooser in self.choosers.items():
            other = chooser(table)
            km = haversine_km(numbers(other["latitude"]), numbers(other["longitude"]), self.latitude[at], self.longitude[at])
            self.found.put(self.found.distances, name, at, km)

    def _entries(self, column: pa.ChunkedArray, at: Rows) -> Entries:
        lists = column.combine_chunks()
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(False).astype(np.intp)
        row = np.repeat(np.arange(len(lengths)), lengths)
        values = pc.list_flatten(lists)
        latitude, longitude = (numbers(values.field(axis)) for axis in ("latitude", "longitude"))
        true = at[row]
        return Entries(
            row=row,
            rank=np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths),
            values=values,
            latitude=latitude,
            longitude=longitude,
            km=haversine_km(latitude, longitude, self.latitude[true], self.longitude[true]),
        )

    def _neighbours(self, near: Entries, at: Rows) -> None:
        found, images = self.found, len(at)
        image = near.values.field("image_id").is_valid().to_numpy(False)
        first = near.first(image, images)
        found.put(found.distances, NEIGHBOUR, at, _of(near.km, first))
        found.similarity[at] = _of(numbers(near.values.field("similarity")), first)
        if not image.all():
            found.put(found.distances, BETWEEN, at, _of(near.km, near.first(~image, images)))
        masks = {f"images within {km} km": near.km > km for km in MASKED_KM}
        if self.regions is not None and self.where is not None:
            lies = self.regions.of(near.latitude, near.longitude)
            true = at[near.row]
            masks["its country"] = lies.country != self.where.country[true]
            masks["its continent"] = lies.continent != self.where.continent[true]
        for name, left in masks.items():
            found.put(found.masked, name, at, _of(near.km, near.first(image & left & ~np.isnan(near.km), images)))

    def _candidates(self, drawn: Entries, at: Rows) -> None:
        found, images = self.found, len(at)
        sampled = pc.fill_null(pc.equal(drawn.values.field("origin"), "sample"), False).to_numpy(False)
        if not sampled.any():
            return
        likeliest = drawn.best(numbers(drawn.values.field("score")), sampled, images)
        found.put(found.distances, SCORE, at, _of(drawn.km, likeliest))
        found.put(found.distances, ORACLE, at, _of(drawn.km, drawn.best(-drawn.km, sampled, images)))
        found.score_latitude[at] = _of(drawn.latitude, likeliest)
        found.score_longitude[at] = _of(drawn.longitude, likeliest)
        self._count(drawn, sampled, images)

    def _count(self, drawn: Entries, sampled: NDArray[np.bool_], images: int) -> None:
        counts = np.where(sampled, np.nan_to_num(numbers(drawn.values.field("count")), nan=1.0), 0.0).astype(np.int64)
        total = np.bincount(drawn.row, counts, images).astype(np.int64)
        inside = [
            np.bincount(drawn.row, counts * (np.nan_to_num(drawn.km, nan=np.inf) <= km), images).astype(np.int64)
            for km in RADII_KM
        ]
        for number in np.unique(total[total > 0]).tolist():
            these = total == number
            held = self.found.draws.setdefault(number, np.zeros((len(RADII_KM), number + 1), np.int64))
            for radius, within in enumerate(inside):
                held[radius] += np.bincount(within[these], minlength=number + 1)


def _of(values: Floats, entries: Rows) -> Floats:
    """Values `(N,)` of entries, NaN where there is none."""
    return np.where(entries >= 0, values[entries], np.nan)
