"""Accuracy by how many people live around the true place.

People a km² are those of the towns in an S2 cell some 36 km wide (`regions.Regions.density`): from open country to the inside
of a metropolis. Nobody is counted where no town is listed, and where those that are have no known population.
"""

from __future__ import annotations

import numpy as np

from geobatch.benchmark.analyses.case import FEW, Case, Finding, banded, extremes, groups, told

_EDGES = (0.0, 1e-9, 10.0, 100.0, 1000.0)
_NAMES = ("nobody counted", "below 10 / km²", "10 to 100 / km²", "100 to 1,000 / km²", "above 1,000 / km²")


def analyse(case: Case) -> Finding | str:
    """See above."""
    if case.regions is None:
        return "there is no gazetteer"
    people = case.regions.density(case.true_latitude, case.true_longitude)
    rows = groups(case, banded(people, _EDGES), _NAMES, "people")
    ends = extremes(rows, "within_25km")
    figures = {"median_people_km2": float(np.median(people)), "nobody_counted": float(np.mean(people == 0))}
    how = (
        f"within 25 km are {told(ends[0]['within_25km'])} where people are: {ends[0]['people']}, and "
        f"{told(ends[1]['within_25km'])} where they are: {ends[1]['people']}"
        if ends
        else f"fewer than two bands of density have {FEW} images, so there is nothing to compare"
    )
    sentence = f"{100 * figures['nobody_counted']:.1f} % of {len(case):,} images lie where no townspeople are counted; {how}."
    return Finding(name="density", title="Accuracy by population density", sentence=sentence, figures=figures, rows=rows)
