"""How much of a place is chance: the same images by runs that differ in their seed alone.

Of an image placed by all S runs, the spread is the root mean square distance of its S places from their mean direction on the
sphere, in km along the ground; its variance is the spread's square. What of the S (S - 1) / 2 pairs of runs place it within
25 km of each other is the share that agrees; a run that does not place it agrees with none. An image flips at a radius if some
runs place it within and others do not. Two means of shares differ by chance as much as their standard deviation over runs says.
Images that some run does not hold are left out, unless missing images count as wrong.

`by_image` has the numbers of each image; over all of them they are means with bootstrap intervals, images drawn and runs not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark.analyses.case import Case, Finding, told
from geobatch.benchmark.intervals import mean_interval
from geobatch.geo import point
from geobatch.geo.distance import haversine_km, within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Kilometres within which two runs agree.
AGREED_KM = 25

#: A row of `by_image`.
ROW = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("runs", pa.int32()),  # that were compared
        pa.field("placed", pa.int32()),  # how many of them have a place for it
        pa.field("variance_km2", pa.float64()),  # null where not all have
        pa.field("agreed_25km", pa.float64()),
    ]
)


def spread_km(latitude: Floats, longitude: Floats) -> Floats:
    """Root mean square distance `(N,)` of places `(S, N)` in degrees from their mean direction; NaN where a place is missing.

    Places that cancel out (antipodes) have no mean direction; the first of them stands in.
    """
    vectors = point.unit_vectors(latitude, longitude)
    mean = vectors.mean(axis=0)
    mean = np.where(np.linalg.norm(mean, axis=-1, keepdims=True) < 1e-9, vectors[0], mean)
    middle = point.lat_lon(mean)
    return np.asarray(np.sqrt(np.mean(haversine_km(latitude, longitude, *middle) ** 2, axis=0)), np.float64)


def agreed(latitude: Floats, longitude: Floats) -> Floats:
    """Share `(N,)` of the pairs of places `(S, N)` in degrees, NaN where there is none, that lie within 25 km of each other."""
    pairs = list(combinations(range(len(latitude)), 2))
    near = [within(haversine_km(latitude[one], longitude[one], latitude[two], longitude[two]), AGREED_KM) for one, two in pairs]
    return np.asarray(np.mean(near, axis=0), np.float64)


def _runs(case: Case) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Places `(S, M)` by all runs, this one first, and which of the N images `(N,)` those M are."""
    among = np.ones(len(case), bool) if case.run_by_all is None else case.run_by_all
    runs = [(case.latitude, case.longitude), *case.seeds.values()]
    latitude, longitude = (np.stack([places[axis][among] for places in runs]) for axis in (0, 1))
    return latitude, longitude, among


def by_image(case: Case, names: Sequence[str]) -> pa.Table | None:
    """A row (`ROW`) of each image that all runs hold; None where there are no other runs.

    Args:
        names: `(N,)` of the case's images.
    """
    if not case.seeds:
        return None
    latitude, longitude, among = _runs(case)
    placed = np.sum(~np.isnan(latitude), axis=0)
    columns = [
        pa.array(names, pa.string()).filter(pa.array(among)),
        pa.array(np.full(len(placed), len(latitude)), pa.int32()),
        pa.array(placed, pa.int32()),
        pa.array(spread_km(latitude, longitude) ** 2, from_pandas=True),
        pa.array(agreed(latitude, longitude)),
    ]
    return pa.table(columns, schema=ROW)


def analyse(case: Case) -> Finding | str:
    """See above."""
    if not case.seeds:
        return "there is one run only; give others of other seeds by --seeds"
    latitude, longitude, among = _runs(case)
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
    variance = mean_interval(spread**2, case.bootstrap)
    alike = mean_interval(agreed(latitude, longitude), case.bootstrap)
    figures: dict[str, Any] = {
        "runs": len(latitude),
        "compared": int(among.sum()),
        "left_out": int(np.sum(~among)),
        "images": int(spread.size),
        "median_spread_km": float(np.median(spread)),
        "mean_spread_km": float(spread.mean()),
        "mean_variance_km2": variance.value,
        "variance_km2": asdict(variance),
        "agreed_25km": asdict(alike),
        "steady_within_1km": float(np.mean(spread <= 1)),
    }
    at = rows[1]
    sentence = (
        f"Over {len(latitude)} runs the places of an image lie {figures['median_spread_km']:.3g} km about their middle in the "
        f"median "
        f"({figures['mean_spread_km']:.3g} km in the mean; variance {variance.value:.4g} km² [{variance.low:.4g}, "
        f"{variance.high:.4g}]), {100 * figures['steady_within_1km']:.0f} % of the {spread.size:,} placed by all within 1 km; "
        f"two runs are within 25 km of each other for {told(alike)} of {among.sum():,} images; at 25 km "
        f"{100 * at['flipping']:.1f} % are right in some runs "
        f"and wrong in others, and the share of a run deviates by {100 * at['deviation_of_runs']:.2f} points."
        + (f" {np.sum(~among):,} images that not all runs hold are left out." if not among.all() else "")
    )
    return Finding(name="seeds", title="Stability over seeds", sentence=sentence, figures=figures, rows=rows)
