"""The rows of a gallery that retrieval is judged by, and what was rejected when it was built.

A gallery holds what has a vector. The table beside it, of which it was made, knows the rest: captions that were no text, tiles
that broke. They belong to the question all the same, and follow the gallery's rows by name, place and reason; those rejected
for want of a place alone (`no_place`) are left out, as rows without truth are everywhere. A folder that was copied without its
table is taken as whole, and a note says so.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.named import path_of, place_of
from geobatch.benchmark.retrieval import Side
from geobatch.benchmark.truth import Truth
from geobatch.engine.gallery import Gallery
from geobatch.sink import latest
from geobatch.store import Store

Floats = NDArray[np.float64]

#: Rejected rows that a document names.
LISTED = 1000


@dataclass(frozen=True)
class Named:
    """The N rows of a gallery, and behind them the F that were rejected.

    Attributes:
        gallery: the N rows.
        names: `(N + F,)` image_ids.
        latitude, longitude: `(N + F,)` degrees, NaN where nobody knows.
        why: `(F,)` reasons.
        notes: what is to be said of those, a line each.
    """

    gallery: Gallery
    names: list[str]
    latitude: Floats
    longitude: Floats
    why: list[str]
    notes: list[str]

    def found(self, classes: NDArray[np.int64] | None) -> Side:
        """As what is asked for: the gallery alone, with `classes` `(N + F,)`."""
        count = len(self.gallery)
        return Side(self.gallery, None if classes is None else classes[:count], self.latitude[:count], self.longitude[:count])

    def rejected(self) -> dict[str, Any]:
        """As an evaluation tells failed images: their number, by reason, and the first 1,000."""
        names = self.names[len(self.gallery) :]
        return {
            "count": len(names),
            "by_reason": dict(Counter(self.why).most_common()),
            "images": [{"image_id": name, "reason": why} for name, why in zip(names[:LISTED], self.why[:LISTED], strict=True)],
        }


def named(store: Store, uri: str, gallery: Gallery, truth: Truth | None) -> Named:
    """The rows of the gallery at `uri`, with what its table has beside them.

    Raises:
        UserError: a name fits several places of the truth.
    """
    names: list[str] = gallery.ids(np.arange(len(gallery))).to_pylist()
    rejected, notes = _rejected(store, uri, {*names})
    every = [*names, *rejected]
    return Named(gallery, every, *_places(gallery, every, truth), list(rejected.values()), notes)


def _rejected(store: Store, uri: str, held: set[str]) -> tuple[dict[str, str], list[str]]:
    """Reasons of what the table beside a gallery has and the gallery lacks, by image_id, and notes of how many they are."""
    table = latest(store, uri)
    if table is None:
        return {}, [f"{uri} is a gallery without its table: whether anything was rejected when it was built is not known"]
    found: dict[str, str] = {}
    for part in table.tables(store, ["image_id", "status", "reason"]):
        lost = part.filter(pc.not_equal(part["status"], "placed"))
        reasons = lost["reason"].fill_null("failed").to_pylist()
        found |= {name: why for name, why in zip(lost["image_id"].to_pylist(), reasons, strict=True) if name not in held}
    notes = [
        f"{uri}: {count:,} rejected when it was built, {why}" + (", left out" if why == "no_place" else "")
        for why, count in Counter(found.values()).most_common()
    ]
    return {name: why for name, why in found.items() if why != "no_place"}, notes


def _places(gallery: Gallery, names: list[str], truth: Truth | None) -> tuple[Floats, Floats]:
    """Where rows are, NaN where nobody knows: by the truth, else the gallery, else their names."""
    behind = np.full(len(names) - len(gallery), np.nan)
    latitude, longitude = (np.append(axis.astype(np.float64), behind) for axis in (gallery.latitude, gallery.longitude))
    if truth is not None:
        paths = [path_of(name) for name in names]
        rows = {path: at for at, path in enumerate(dict.fromkeys(paths))}
        matched = truth.match(list(rows))[[rows[path] for path in paths]]
        known = matched >= 0
        latitude[known], longitude[known] = truth.latitude[matched[known]], truth.longitude[matched[known]]
    for row in np.flatnonzero(~(np.isfinite(latitude) & np.isfinite(longitude))):
        latitude[row], longitude[row] = place_of(names[row]) or (math.nan, math.nan)
    return latitude, longitude
