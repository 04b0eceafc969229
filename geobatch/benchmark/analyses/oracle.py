"""The gap to the oracle by number of candidates: what more draws could give, and how much of it the selector takes.

Of an image with K draws, h of them within a radius, k draws without replacement hold one of the h with probability
1 − C(K − h, k) / C(K, k): the unbiased estimate that pass@k uses (Chen et al. 2021, arXiv 2107.03374, equation 1), no drawing
needed. The mean over images is the share that a perfect selector of k candidates would get; failed images have no draw and
count as wrong. The gap closed is what the chosen place has over the likeliest draw, of what the oracle of all draws has over
it; it is told with its interval, and not where there may be no gap.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import Case, Finding, told
from geobatch.benchmark.choices import ORACLE, SCORE
from geobatch.benchmark.intervals import gap_closed
from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Numbers of candidates that are told of.
KS = (1, 2, 3, 5, 10, 20, 30, 50, 100)


def held(draws: int, k: int) -> Floats:
    """Probability `(draws + 1,)` that k of the draws hold one within a radius, by how many of them lie within it.

    With fewer draws than k all are taken.
    """
    k = min(k, draws)
    return np.array([1 - math.comb(draws - inside, k) / math.comb(draws, k) for inside in range(draws + 1)])


def analyse(case: Case) -> Finding | str:
    """See above."""
    draws = dict(sorted(case.lists.draws.items()))
    if not draws:
        return "the table has no draws"
    most = max(draws)
    ks = [k for k in KS if k < most] + [most]
    rows: list[dict[str, Any]] = []
    for k in ks:
        kinds = {number: held(number, k) for number in draws}
        hits = [sum(float(draws[number][radius] @ kinds[number]) for number in draws) for radius in range(len(RADII_KM))]
        rows.append({"candidates": k, **{f"within_{km}km": hit / len(case) for km, hit in zip(RADII_KM, hits, strict=True)}})
    chosen = {km: float(within(case.km, km).mean()) for km in RADII_KM}
    likeliest = {km: float(within(case.distances[SCORE], km).mean()) for km in RADII_KM}
    gap = {km: rows[-1][f"within_{km}km"] - likeliest[km] for km in RADII_KM}
    score, best = (case.distances[name] for name in (SCORE, ORACLE))
    closed = {km: gap_closed(within(case.km, km), within(score, km), within(best, km), case.bootstrap) for km in RADII_KM}
    figures = {
        "draws": most,
        "chosen": {f"{km}km": one for km, one in chosen.items()},
        "likeliest": {f"{km}km": one for km, one in likeliest.items()},
        "gap": {f"{km}km": one for km, one in gap.items()},
        "closed": {f"{km}km": one.value for km, one in closed.items()},
        "closed_low": {f"{km}km": one.low for km, one in closed.items()},
        "closed_high": {f"{km}km": one.high for km, one in closed.items()},
    }
    first, last = rows[0]["within_25km"], rows[-1]["within_25km"]
    enough = next((row["candidates"] for row in rows if row["within_25km"] >= first + 0.9 * (last - first)), most)
    sentence = (
        f"A perfect choice at 25 km rises from {100 * first:.1f} % with one draw to {100 * last:.1f} % with {most}, nine "
        f"tenths of it by {enough}; the chosen place has {100 * chosen[25]:.1f} %, the likeliest draw "
        f"{100 * likeliest[25]:.1f} %"
        + (
            ", and there may be no gap to close."
            if math.isnan(closed[25].value)
            else f", so the selector closes {told(closed[25])} of the gap."
        )
    )
    return Finding(
        name="oracle", title="Gap to the oracle by number of candidates", sentence=sentence, figures=figures, rows=rows
    )
