"""A table of places in two readings: what fits into memory at any number of rows, and the lists of candidates and neighbours.

A million rows are 0.2 GB of numbers and names and 2 GB of lists. Numbers are held; lists are gone through once, a batch at a
time, in the order of the rows. `Places.of` takes a table that is in memory already.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.errors import UserError
from geobatch.schema import CONFIDENCE, PLACE, RADII_KM, probability_column

Floats = NDArray[np.float64]

#: Columns that are held, where the table has them: one of an older schema lacks some.
HELD = (
    *("image_id", "status", "stage", "reason", "latitude", "longitude", "exif_latitude", "exif_longitude"),
    *map(probability_column, RADII_KM),
    *(field.name for field in CONFIDENCE),
)
#: Columns that are read in passing.
LISTS = ("reason", "latitude", "longitude", "candidates", "neighbours")

#: Rows of lists that are worked on at once: 30 candidates and 15 neighbours each are 40 MB with what is made of them.
BATCH = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Places:
    """A table of `geobatch.schema.PLACE`.

    Attributes:
        held: the columns of `HELD`, in any order of rows.
        lists: the columns of `LISTS` of the same rows in the same order, in tables of any length.
    """

    held: pa.Table
    lists: Callable[[], Iterator[pa.Table]]

    @classmethod
    def of(cls, table: pa.Table) -> Places:
        """Of a table in memory."""
        return cls(
            held=table.select([name for name in HELD if name in table.column_names]),
            lists=lambda: iter([table.select(list(LISTS))]),
        )

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """The lists, at most `BATCH` rows at a time, each with the position of its first row."""
        at = 0
        for table in self.lists():
            for start in range(0, len(table), BATCH):
                yield at + start, table.slice(start, BATCH)
            at += len(table)

    def ids(self, name: str) -> list[str]:
        """The image ids.

        Raises:
            UserError: one stands twice.
        """
        ids: list[str] = self.held["image_id"].to_pylist()
        once(ids, name)
        return ids


def once(ids: Sequence[str], name: str) -> None:
    """Refuses a table that holds an image twice.

    Raises:
        UserError: it does; the line names the first such image.
    """
    if len(set(ids)) == len(ids):
        return
    counts = Counter(ids)
    twice = next(one for one in ids if counts[one] > 1)
    raise UserError(f"{name} holds an image twice ({twice!r}); leave one row of each")


def bare(image_ids: pa.Array, latitude: Floats, longitude: Floats) -> pa.Table:
    """A table of PLACE with nothing but names and places, NaN for images that another system failed on."""
    placed = ~(np.isnan(latitude) | np.isnan(longitude))
    rows = len(image_ids)
    known = {
        "image_id": image_ids.cast(pa.string()),
        "status": pc.if_else(pa.array(placed), "placed", "rejected"),
        "stage": pc.if_else(pa.array(placed), pa.scalar(None, pa.string()), "predictions"),
        "reason": pc.if_else(pa.array(placed), pa.scalar(None, pa.string()), "no_place"),
        "latitude": pa.array(latitude, mask=~placed),
        "longitude": pa.array(longitude, mask=~placed),
    }
    wanted = [*dict.fromkeys([*HELD, *LISTS])]
    return pa.table({name: known.get(name, pa.nulls(rows, PLACE.field(name).type)) for name in wanted})


def numbers(column: pa.Array | pa.ChunkedArray) -> Floats:
    """A column of numbers as `(N,)`, NaN where null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy(zero_copy_only=False))
