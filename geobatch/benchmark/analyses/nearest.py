"""Accuracy by the distance from the true place to the nearest image of the gallery.

What was never photographed nearby cannot be retrieved; what a method gets right there it knows by itself. Distance is on the
ground, by the gallery's own coordinates, whatever the images look like.
"""

from __future__ import annotations

import numpy as np

from geobatch.benchmark.analyses.case import FEW, Case, Finding, banded, extremes, groups, told

_EDGES = (0.0, 0.1, 1.0, 5.0, 25.0, 100.0, 200.0, 750.0)
_NAMES = ("below 0.1 km", "0.1 to 1 km", "1 to 5 km", "5 to 25 km", "25 to 100 km", "100 to 200 km", "200 to 750 km", "farther")


def analyse(case: Case) -> Finding | str:
    """See above."""
    away = case.nearest_km
    if away is None:
        return "no gallery with places is known; give --gallery, or --model with one"
    rows = groups(case, banded(away, _EDGES), _NAMES, "nearest_gallery_image")
    median = float(np.median(away))
    figures = {"median_km": median, "beyond_25km": float(np.mean(away > 25)), "beyond_200km": float(np.mean(away > 200))}
    ends = extremes(rows, "within_25km")
    how = (
        "; within 25 km are "
        + f"{told(ends[0]['within_25km'])} of the images whose nearest lies {ends[0]['nearest_gallery_image']} away and "
        + f"{told(ends[1]['within_25km'])} of those {ends[1]['nearest_gallery_image']}"
        if ends
        else f"; fewer than two bands have {FEW} images, so there is nothing to compare"
    )
    sentence = (
        f"The gallery's nearest image lies {median:.3g} km from the truth in the median, farther than 25 km for "
        f"{100 * figures['beyond_25km']:.1f} % of images{how}."
    )
    return Finding(
        name="nearest", title="Accuracy by distance to the nearest gallery image", sentence=sentence, figures=figures, rows=rows
    )
