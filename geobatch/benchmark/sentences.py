"""One sentence for each figure of an evaluation, so that a page can say what a number shows without knowing it.

The sentences are made from the numbers alone; nothing is claimed that an interval does not carry: "surely" is said where the
95 % interval leaves zero out and McNemar's exact test agrees (`intervals`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geobatch.benchmark import published
from geobatch.benchmark.analyses.case import told
from geobatch.benchmark.choices import CHOSEN, ORACLE, SCORE
from geobatch.benchmark.intervals import Difference, Interval

if TYPE_CHECKING:
    from geobatch.benchmark.evaluation import Evaluation


def of(found: Evaluation) -> dict[str, str]:
    """By the key of `Evaluation.as_dict` that each is of; only what there is."""
    chosen = found.choices[CHOSEN]
    km = [f"{radius:g} km for {told(share)}" for radius, share in zip(chosen.radii, chosen.shares, strict=True)]
    out = {
        "shares": f"Of {found.images:,} judged images the chosen place lies within {', '.join(km)}.",
        "failed": f"{len(found.failed):,} of {found.images:,} judged images have no place; each counts as wrong.",
    }
    if chosen.placed:
        out["distance"] = (
            f"The {chosen.placed:,} placed images lie {chosen.median_km:.4g} km from the truth in the median "
            f"{_ends(chosen.median)} and {chosen.mean_km:.4g} km in the mean {_ends(chosen.mean)}."
        )
    out["geoscore"] = f"Mean GeoScore {chosen.geoscore.value:,.0f} of 5,000 {_ends(chosen.geoscore)}, failed images at 0."
    if found.regions:
        parts = (f"the right {part} for {told(one)}" for part, one in found.regions.items())
        out["regions"] = f"By the nearest town the chosen place is in {', '.join(parts)} of the images."
    if found.against_neighbour:
        out["against_neighbour"] = "Against the nearest neighbour alone the chosen place is " + _better(found.against_neighbour)
    if CHOSEN in found.against_score:
        out["against_log_probability"] = "Against the likeliest draw the chosen place is " + _better(
            found.against_score[CHOSEN]
        )
    closed = found.gap.get(25)
    if closed is not None and not math.isnan(closed.value):
        low, high = (found.choices[name].shares[1].value for name in (SCORE, ORACLE))
        out["gap_closed"] = (
            f"At 25 km the chosen place closes {told(closed)} of the gap from the likeliest draw ({100 * low:.1f} %) to the "
            f"oracle of the samples ({100 * high:.1f} %)."
        )
    out |= _doubts(found)
    if found.exif is not None and found.exif.placed:
        out["exif"] = (
            f"{found.exif.images:,} images carry a GPS position of their own; the places of {found.exif.placed:,} of them lie "
            f"{found.exif.median_km:.4g} km from it in the median."
        )
    if found.benchmark is not None:
        out["published"] = _rank(found, found.benchmark)
    return out


def _doubts(found: Evaluation) -> dict[str, str]:
    out = {}
    if found.calibration:
        parts = (f"{one.km:g} km {100 * one.stated:.1f} for {100 * one.true:.1f} %" for one in found.calibration)
        out["calibration"] = f"Stated for true probability by radius: {', '.join(parts)}."
    if found.coverage:
        parts = (f"{one.name} says {100 * one.stated:.0f} % and holds the truth for {told(one.held)}" for one in found.coverage)
        out["coverage"] = f"Of its own doubts, {'; '.join(parts)}."
    return out


def _rank(found: Evaluation, benchmark: str) -> str:
    rows = [row for row in published.PUBLISHED[benchmark] if len(row.figures) == len(found.choices[CHOSEN].shares)]
    if not rows:
        return f"No published row is known for {benchmark}."
    if note := published.size_note(benchmark, found.images):
        return f"{note}."
    one = found.choices[CHOSEN].shares[1]
    above = sum(100 * one.low > row.figures[1] for row in rows)
    level = [row.system for row in rows if 100 * one.low <= row.figures[1] <= 100 * one.high]
    return (
        f"With {told(one)} within 25 km this table lies surely above {above} of {len(rows)} published rows of {benchmark}, "
        "none of which was measured here" + (f"; within its interval, undecided, are {', '.join(level)}." if level else ".")
    )


def _better(differences: dict[int, Difference]) -> str:
    better, worse = ([f"{km:g}" for km, one in differences.items() if one.sure == sign] for sign in (1, -1))
    one = differences[25]
    return (
        f"within 25 km {100 * one.value:+.1f} points more often [{100 * one.low:+.1f}, {100 * one.high:+.1f}]; surely better "
        f"at {'/'.join(better) or 'no radius'}{' km' if better else ''}, surely worse at {'/'.join(worse) or 'none'}"
        f"{' km' if worse else ''}."
    )


def _ends(one: Interval) -> str:
    return f"[{one.low:.4g}, {one.high:.4g}]"
