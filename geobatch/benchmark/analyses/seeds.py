"""How much of a place is chance: the same images by runs that differ in their seed alone.

Of an image placed by all S runs, the spread is the root mean square distance of its S places from their mean direction on the
sphere, in km along the ground; its variance is the spread's square. An image flips at a radius if some runs place it within and
others do not. Two means of shares differ by chance as much as their standard deviation over runs says. Images that some run
does not hold are left out, unless missing images count as wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import Case, Finding
from geobatch.geo import point
from geobatch.geo.distance import haversine_km, within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]


def spread_km(latitude: Floats, longitude: Floats) -> Floats:
    """Root mean square distance `(N,)` of places `(S, N)` in degrees from their mean direction; NaN where a place is missing.

    Places that cancel out (antipodes) have no mean direction; the first of them stands in.
    """
    vectors = point.unit_vectors(latitude, longitude)
    mean = vectors.mean(axis=0)
    mean = np.where(np.linalg.norm(mean, axis=-1, keepdims=True) < 1e-9, vectors[0], mean)
    middle = point.lat_lon(mean)
    return np.asarray(np.sqrt(np.mean(haversine_km(latitude, longitude, *middle) ** 2, axis=0)), np.float64)


def analyse(case: Case) -> Finding | str:
    """See above."""
    if not case.seeds:
        return "there is one run only; give others of other seeds by --seeds"
    runs = {"this": (case.latitude, case.longitude), **case.seeds}
    among = np.ones(len(case), bool) if case.run_by_all is None else case.run_by_all
    latitude, longitude = (np.stack([places[axis][among] for places in runs.values()]) for axis in (0, 1))
    km = haversine_km(latitude, longitude, case.true_latitude[among], case.true_longitude[among])
    spread = spread_km(latitude, longitude)
    spread = spread[~np.isnan(spread)]
    if not spread.size:
        return "no image was placed by all runs"
    rows: list[dict[str, Any]] = []
    for radius in RADII_KM:
        hit = within(km, radius)
        shares = hit.mean(axis=1)
        rows.append(
            {
                "radius_km": radius,
                "mean_share": float(shares.mean()),
                "deviation_of_runs": float(shares.std(ddof=1)),
                "flipping": float(np.mean(hit.any(axis=0) & ~hit.all(axis=0))),
            }
        )
    figures = {
        "runs": len(runs),
        "compared": int(among.sum()),
        "left_out": int(np.sum(~among)),
        "images": int(spread.size),
        "median_spread_km": float(np.median(spread)),
        "mean_spread_km": float(spread.mean()),
        "mean_variance_km2": float(np.mean(spread**2)),
        "steady_within_1km": float(np.mean(spread <= 1)),
    }
    at = rows[1]
    sentence = (
        f"Over {len(runs)} runs the places of an image lie {figures['median_spread_km']:.3g} km about their middle in the "
        f"median "
        f"({figures['mean_spread_km']:.3g} km in the mean), {100 * figures['steady_within_1km']:.0f} % of the {spread.size:,} "
        f"placed by all within 1 km; at 25 km {100 * at['flipping']:.1f} % of {among.sum():,} images are right in some runs "
        f"and wrong in others, and the share of a run deviates by {100 * at['deviation_of_runs']:.2f} points."
        + (f" {np.sum(~among):,} images that not all runs hold are left out." if not among.all() else "")
    )
    return Finding(name="seeds", title="Stability over seeds", sentence=sentence, figures=figures, rows=rows)
