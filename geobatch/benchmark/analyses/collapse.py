"""Whether a method gives many images the same few places.

Mode collapse, as multimodal models show it: the coordinates of a capital for whatever they cannot tell. Two marks. Places that
are the same to a ten-thousandth of a degree (11 m) for several images, whose truths are not. And the effective number of S2
cells of level 8 (36 km) that the places fill, the exponential of their entropy, against that of the truths: far fewer means
that answers crowd where the truth does not. Truths differ here if one lies more than 1 km from that of the first such image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import Case, Finding
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km, within

Floats = NDArray[np.float64]

_LEVEL = 8
#: Kilometres beyond which two truths are not the same.
_SAME_KM = 1.0
#: Places that are listed.
LISTED = 20


def effective(latitude: Floats, longitude: Floats) -> float:
    """Exponential of the entropy of how places `(N,)` are spread over cells: the number of cells if all were as full."""
    counts = np.unique(s2.cell_ids(latitude, longitude, _LEVEL), return_counts=True)[1]
    share = counts / counts.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def analyse(case: Case) -> Finding | str:
    """See above."""
    there = ~np.isnan(case.km)
    if not there.any():
        return "no image has a place"
    latitude, longitude, km = case.latitude[there], case.longitude[there], case.km[there]
    rounded = np.round(np.stack([latitude, longitude], axis=1) * 1e4).astype(np.int64)
    true_latitude, true_longitude = case.true_latitude[there], case.true_longitude[there]
    spots, first, of, counts = np.unique(rounded, axis=0, return_index=True, return_inverse=True, return_counts=True)
    of = of.ravel()
    apart = haversine_km(true_latitude, true_longitude, true_latitude[first[of]], true_longitude[first[of]]) > _SAME_KM
    differing = np.bincount(of, apart, len(spots)) > 0
    shared = differing[of]
    rows: list[dict[str, Any]] = []
    hits = np.bincount(of, within(km, 25), len(spots))
    for at in np.argsort(np.where(differing, -counts, 0), kind="stable")[: min(LISTED, int(differing.sum()))].tolist():
        place = (float(spots[at, 0] / 1e4), float(spots[at, 1] / 1e4))
        name = case.regions.name(*place) if case.regions is not None else None
        rows.append(
            {
                "latitude": place[0],
                "longitude": place[1],
                "near": name,
                "images": int(counts[at]),
                "within_25km": float(hits[at] / counts[at]),
            }
        )
    ours = effective(latitude, longitude)
    theirs = effective(true_latitude, true_longitude)
    figures = {
        "placed": int(there.sum()),
        "different_places": len(spots),
        "images_that_share_a_place": float(shared.mean()),
        "of_them_within_25km": float(np.mean(within(km[shared], 25))) if shared.any() else None,
        "commonest": int(counts.max()),
        "effective_cells": ours,
        "effective_cells_of_the_truth": theirs,
    }
    most = f", {rows[0]['images']:,} images the commonest such place" if rows else ""
    crowd = (
        "crowd together"
        if ours < 0.5 * theirs
        else "are spread wider than the truth is"
        if ours > 2 * theirs
        else "are spread about as the truth is"
    )
    sentence = (
        f"{there.sum():,} images got {len(spots):,} different places; {100 * shared.mean():.1f} % share theirs with images "
        f"taken elsewhere{most}. The places fill {ours:,.0f} cells of 36 km effectively, the truth {theirs:,.0f}: they {crowd}."
    )
    return Finding(name="collapse", title="Mode collapse", sentence=sentence, figures=figures, rows=rows)
