"""Places that attract errors: where images end up that were taken elsewhere.

A miss is an image placed more than 200 km off. By S2 cell of level 6 (144 km): the misses that ended there, the images truly of
there, and how many misses more there are than if every miss had fallen as the truth falls. A cell that takes far more than its
share is a landmark that is confused with others, or where a method goes when it knows nothing; whence the misses came is told
by their commonest country.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geobatch.benchmark.analyses.case import Case, Finding
from geobatch.geo import s2
from geobatch.geo.distance import within

_LEVEL = 6
_MISS_KM = 200
#: Cells that are listed.
LISTED = 20


def analyse(case: Case) -> Finding | str:
    """See above."""
    there = ~np.isnan(case.km)
    missed = there & ~within(case.km, _MISS_KM)
    if not missed.any():
        return f"no image was placed more than {_MISS_KM} km off"
    ended = s2.cell_ids(case.latitude[missed], case.longitude[missed], _LEVEL)
    cells, of, counts = np.unique(ended, return_inverse=True, return_counts=True)
    of = of.ravel()
    true, true_counts = np.unique(s2.cell_ids(case.true_latitude, case.true_longitude, _LEVEL), return_counts=True)
    at = np.minimum(np.searchsorted(true, cells), len(true) - 1)
    taken = np.where(true[at] == cells, true_counts[at], 0)
    expected = taken / len(case) * missed.sum()
    order = np.argsort(-(counts - expected), kind="stable")
    latitude, longitude = s2.centres(cells)
    from_country = None if case.where is None else case.where.country[missed]
    rows: list[dict[str, Any]] = []
    for one in order.tolist():
        if len(rows) == LISTED or counts[one] <= expected[one]:
            break
        if counts[one] < 2:
            continue
        here = of == one
        origin = None
        if from_country is not None and case.regions is not None:
            known = from_country[here][from_country[here] >= 0]
            origin = str(case.regions.countries[np.bincount(known).argmax()]) if known.size else None
        rows.append(
            {
                "latitude": float(latitude[one]),
                "longitude": float(longitude[one]),
                "near": case.regions.name(float(latitude[one]), float(longitude[one])) if case.regions is not None else None,
                "s2_token": s2.cell_tokens(cells[[one]])[0],
                "misses": int(counts[one]),
                "expected": float(expected[one]),
                "images_of_there": int(taken[one]),
                "commonest_origin": origin,
            }
        )
    ten = float(np.sort(counts)[::-1][:10].sum() / counts.sum())
    figures = {"misses": int(missed.sum()), "cells": len(cells), "share_of_ten_cells": ten, "attractors": len(rows)}
    if rows:
        first = rows[0]
        name = first["near"] or f"{first['latitude']:.1f}, {first['longitude']:.1f}"
        how = f"the strongest lies near {name}, with {first['misses']} misses where {first['expected']:.1f} were to be expected"
    else:
        how = "no cell takes two or more and above its share: nothing attracts errors"
    sentence = (
        f"{missed.sum():,} images were placed more than {_MISS_KM} km off, into {len(cells):,} cells of 144 km, "
        f"{100 * ten:.0f} % of them into the ten fullest; {how}."
    )
    return Finding(name="attract", title="Places that attract errors", sentence=sentence, figures=figures, rows=rows)
