"""What near-duplicates of the gallery are worth: accuracy with such images left out.

A test image of which the gallery holds another shot is answered by memory. Two marks of one, where they are known: its first
neighbour is very like it (the inner product of unit vectors, whose scale is the encoder's, so thresholds are also taken at the
upper tenth and hundredth of this table's own likenesses), and the gallery has an image within 0.1 or 1 km of it. Images so
marked are left out, the rest are judged again. The drop is an upper bound of what leaked: easy places are photographed often,
and are left out with the duplicates.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from geobatch.benchmark.analyses.case import Bools, Case, Finding, told
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
    judged = [row for row in rows[1:] if row["images"]]
    if not judged:
        return "every image is marked as a near-duplicate"
    worst = min(judged, key=lambda row: row["within_25km"]["value"])
    drop = whole["within_25km"]["value"] - worst["within_25km"]["value"]
    figures = {"drop_25km": drop, "left_out": worst["left_out"], "images_left_out": worst["images_left_out"]}
    sentence = (
        f"Within 25 km are {told(whole['within_25km'])} of {len(case):,} images, and {told(worst['within_25km'])} of the "
        f"{worst['images']:,} that remain without {worst['left_out']} ({worst['images_left_out']:,} images): "
        f"near-duplicates can "
        f"account for at most {100 * max(drop, 0):.1f} points."
    )
    return Finding(
        name="leakage", title="Accuracy without near-duplicates of the gallery", sentence=sentence, figures=figures, rows=rows
    )


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
