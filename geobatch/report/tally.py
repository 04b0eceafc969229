"""Exact figures of a table that passes by in parts: counts, reasons, shares, the curve.

A page shows a limited number of images; what it says of the run is of all. Kept are four bytes an image that has a truth
(ten million: 40 MB), for the median and the curve, and up to `EXAMPLES` rejected images a reason.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

EXAMPLES = 5

#: Distances in km at which a page knows the curve: 24 a decade from 100 m to half the Earth's circumference.
CURVE_KM = np.geomspace(0.1, 20_015.1, 129)


class Tally:
    """Sums over tables with the columns `status`, `reason`, `image_id`, `detail` and `error_km`."""

    def __init__(self) -> None:
        self._status: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str | None]]] = {}
        self._errors: list[NDArray[np.float32]] = []

    def add(self, table: pa.Table, judged: NDArray[np.bool_]) -> None:
        """The next rows; `judged` `(N,)` says which of them have a truth, placed or not."""
        for column, counts in (("status", self._status), ("reason", self._reasons)):
            for each in pc.value_counts(table[column].drop_null()).to_pylist():
                counts[each["values"]] += each["counts"]
        self._errors.append(table["error_km"].to_numpy().astype(np.float32)[judged])
        rejected = table.filter(pc.is_valid(table["reason"])).select(["reason", "image_id", "detail"])
        for row in rejected.to_pylist():
            shown = self._examples.setdefault(row["reason"], [])
            if len(shown) < EXAMPLES:
                shown.append({"image_id": row["image_id"], "detail": row["detail"]})

    def figures(self) -> dict[str, Any]:
        """Plain values: what `Run.totals` of a page takes. An image without a place is beyond every distance."""
        errors = np.concatenate([np.zeros(0, np.float32), *self._errors])
        placed = np.sort(errors[np.isfinite(errors)])
        figures: dict[str, Any] = {
            "images": sum(self._status.values()),
            "placed": self._status["placed"],
            "rejected": self._status["rejected"],
            "reasons": [
                {"reason": reason, "images": count, "examples": self._examples[reason]}
                for reason, count in self._reasons.most_common()
            ],
            "judged": int(errors.size),
        }
        if errors.size:
            figures["shares"] = {str(km): float(np.mean(within(errors, km))) for km in RADII_KM}
            figures["curve"] = np.round(np.searchsorted(placed, CURVE_KM, "right") / errors.size, 5).tolist()
        if placed.size:
            figures["median_km"] = float(np.median(placed))
            figures["mean_km"] = float(np.mean(placed, dtype=np.float64))
        return figures
