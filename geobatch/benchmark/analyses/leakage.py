"""What near-duplicates of the gallery are worth: accuracy with such images left out.

A test image of which the gallery holds another shot is answered by memory. Two marks of one, where they are known: its first
neighbour is very like it (the inner product of unit vectors, whose scale is the encoder's, so thresholds are also taken at the
upper tenth and hundredth of this table's own likenesses), and the gallery has an image within 0.1 or 1 km of it. Images so
marked are left out, the rest are judged again, where 20 of either kind are there. By how much accuracy falls without them is
told with the interval of that difference, of images drawn anew with their marks. It bounds nothing: easy places are
photographed often and go with the duplicates, and a mark misses copies from another angle.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import FEW, Bools, Case, Finding, told
from geobatch.benchmark.intervals import Bootstrap, Interval
from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

_LIKE = (0.95, 0.99)
_NEAR_KM = (0.1, 1.0)


def analyse(case: Case) -> Finding | str:
    """See above."""
    marks = _marks(case)
    if not marks:
        return "neither neighbours nor a gallery are known; give --gallery"
    everything = np.zeros(len(case), bool)
    rows: list[dict[str, Any]] = []
    for name, left_out in {"nothing": everything, **marks}.items():
        kept = ~left_out
        shares = {f"within_{km}km": asdict(case.share(case.km, km, kept)) if kept.any() else None for km in RADII_KM}
        rows.append({"left_out": name, "images_left_out": int(left_out.sum()), "images": int(kept.sum()), **shares})
    whole = rows[0]
    judged = [row for row in rows[1:] if min(row["images"], row["images_left_out"]) >= FEW]
    if not judged:
        return f"no mark of near-duplicates parts the images into two groups of at least {FEW}"
    worst = min(judged, key=lambda row: row["within_25km"]["value"])
    drop = fall(within(case.km, 25), marks[worst["left_out"]], case.bootstrap)
    figures = {
        "drop_25km": drop.value,
        "drop_25km_low": drop.low,
        "drop_25km_high": drop.high,
        "left_out": worst["left_out"],
        "images_left_out": worst["images_left_out"],
    }
    sentence = (
        f"Within 25 km are {told(whole['within_25km'])} of {len(case):,} images, and {told(worst['within_25km'])} of the "
        f"{worst['images']:,} that remain without {worst['left_out']} ({worst['images_left_out']:,} images): accuracy falls by "
        f"{100 * drop.value:.1f} points [{100 * drop.low:.1f}, {100 * drop.high:.1f}] without them."
    )
    return Finding(
        name="leakage", title="Accuracy without near-duplicates of the gallery", sentence=sentence, figures=figures, rows=rows
    )


def fall(hit: Bools, left_out: Bools, bootstrap: Bootstrap) -> Interval:
    """Share of hits `(N,)` among all images less that among those that are not left out, some of either.

    A resample of images is a draw of how many of each of the four kinds there are; it keeps one image at least.
    """
    kinds = np.array([np.sum(hit & left_out), np.sum(~hit & left_out), np.sum(hit & ~left_out), np.sum(~hit & ~left_out)])

    def drop(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        kept = np.maximum(counts[..., 2] + counts[..., 3], 1)
        return np.asarray((counts[..., 0] + counts[..., 2]) / hit.size - counts[..., 2] / kept)

    draws = np.random.default_rng(bootstrap.seed).multinomial(hit.size, kinds / hit.size, bootstrap.resamples)
    low, high = bootstrap.ends(drop(draws))
    return Interval(value=float(drop(kinds)), low=low, high=high)


def _marks(case: Case) -> dict[str, Bools]:
    """What is left out, by name."""
    marks: dict[str, Bools] = {}
    like = case.lists.similarity
    if not np.all(np.isnan(like)):
        limits = [(f"first neighbours at least {limit} alike", limit) for limit in _LIKE]
        limits += [
            (f"the most alike {name}", float(np.nanquantile(like, share)))
            for name, share in (("hundredth", 0.99), ("tenth", 0.9))
        ]
        marks |= {name: np.nan_to_num(like, nan=-2.0) >= limit for name, limit in limits}
    away = case.nearest_km
    if away is not None:
        marks |= {f"what has a gallery image within {km:g} km": away <= km for km in _NEAR_KM}
    return marks
