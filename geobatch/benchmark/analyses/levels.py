"""Where a sequence of S2 tokens first leaves the truth, and what that costs.

A place is its cell's tokens, coarse to fine: the face, then a child at each level (GeoToken, arXiv 2511.01082). The
first token that differs from the truth's decides how far off a place can be, since everything after it describes the wrong
cell.
By level: the images whose sequence had held until then and left it there, the share of them that went (the hazard), and how far
they ended up.

A border between two cells is a line on the ground and nothing more: a place 100 m across one leaves the truth at that level and
is 100 m off. Such misses are counted apart, as those that end within the edge of a cell two levels finer.

The likeliest draw is judged where the table has draws, for it is the sequence that the network decoded; else the chosen place,
which a selector may have moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import Case, Finding
from geobatch.benchmark.choices import CHOSEN, SCORE
from geobatch.geo import cell, s2
from geobatch.geo.distance import within

Floats = NDArray[np.float64]

#: The finest level that GeoToken decodes.
FINEST = 20


def left_at(latitude: Floats, longitude: Floats, true_latitude: Floats, true_longitude: Floats) -> NDArray[np.int64]:
    """First level `(N,)` whose cell of the place is not the truth's, 0 (another face) to 20; 21 where none differs.

    Places in degrees, none of them NaN.
    """
    ours, theirs = (s2.cell_ids(*pair, FINEST) for pair in ((latitude, longitude), (true_latitude, true_longitude)))
    out = np.zeros(len(ours), np.int64)
    for level in range(FINEST + 1):
        out += cell.parents(ours, level) == cell.parents(theirs, level)
    return out


def analyse(case: Case) -> Finding | str:
    """See above."""
    drawn = SCORE in case.distances
    latitude, longitude = (case.lists.score_latitude, case.lists.score_longitude) if drawn else (case.latitude, case.longitude)
    km = case.distances[SCORE if drawn else CHOSEN]
    there = ~np.isnan(km)
    if not there.any():
        return "no image has a place"
    km = km[there]
    level = left_at(latitude[there], longitude[there], case.true_latitude[there], case.true_longitude[there])
    rows: list[dict[str, Any]] = []
    for at in range(FINEST + 1):
        holding, gone = level >= at, level == at
        if not holding.any():
            break
        rows.append(
            {
                "level": at,
                "edge_km": cell.edge_km(at),
                "held_until": int(holding.sum()),
                "left": int(gone.sum()),
                "hazard": float(gone.sum() / holding.sum()),
                "median_km": float(np.median(km[gone])) if gone.any() else None,
                "near_the_border": float(np.mean(km[gone] <= cell.edge_km(at + 2))) if gone.any() else None,
            }
        )
    wide = ~within(km, 200)
    coarse = level <= 6
    share = float(np.mean(coarse[wide])) if wide.any() else 0.0
    border = float(np.mean(km[coarse] <= 25)) if coarse.any() else 0.0
    middle = int(np.median(level))
    figures = {
        "judged": "the likeliest draw" if drawn else "the chosen place",
        "images": int(there.sum()),
        "median_level": middle,
        "misses_of_200km": int(wide.sum()),
        "of_them_left_by_level_6": share,
        "left_by_level_6": int(coarse.sum()),
        "of_them_within_25km": border,
    }
    sentence = _told(figures, level, wide, rows)
    return Finding(name="levels", title="Error by token level", sentence=sentence, figures=figures, rows=rows)


def _told(figures: dict[str, Any], level: NDArray[np.int64], wide: NDArray[np.bool_], rows: list[dict[str, Any]]) -> str:
    """The sentence, of the levels `(N,)` at which sequences left and of whether they missed by more than 200 km."""
    share, coarse, middle = figures["of_them_left_by_level_6"], figures["left_by_level_6"], figures["median_level"]
    # A cell of level 6 is 144 km wide: what is more than 200 km off has nearly always left it.
    wrong = (
        f"{100 * share:.0f} % of the {wide.sum():,} misses beyond 200 km had left the truth by level 6, "
        if wide.any()
        else "no image missed by more than 200 km, "
    )
    leaving = [f"level {row['level']}" for row in sorted(rows, key=lambda row: -row["left"])[:2] if row["left"]]
    seen = f"; most that leave do so at {', '.join(leaving)}" if leaving else ""
    half = (
        f"half have left the truth by level {middle} ({cell.edge_km(middle):.3g} km cells)"
        if middle <= FINEST
        else f"{100 * np.mean(level > FINEST):.0f} % hold the truth to level {FINEST} ({cell.edge_km(FINEST):.2g} km cells)"
    )
    early = (
        f"of the {coarse:,} that had left so early {100 * figures['of_them_within_25km']:.0f} % lie within 25 km all the same, "
        "just across a cell's border"
        if coarse
        else "none had left by level 6"
    )
    return f"Of {level.size:,} sequences ({figures['judged']}) {half}{seen}; {wrong}and {early}."
