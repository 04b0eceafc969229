"""What retrieval would answer if parts of the gallery were not there.

From the neighbours that the table lists, those are left out that lie within 1, 25 or 200 km of the truth, in its country, or on
its continent; the first that is left is the answer, and an image of which none is left counts as wrong. It is retrieval alone
that is judged so: the draws were made with the neighbours in sight and cannot be taken back. How a whole method fares without
them takes a run with a masked gallery, compared by `--against`.

Lists end after some 15 neighbours. Where a gallery is dense all of them may lie in the masked part, so the figure is a lower
bound of what a search of the rest would find; how many images have nothing left is said beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from geobatch.benchmark.analyses.case import Case, Finding, told
from geobatch.benchmark.choices import NEIGHBOUR
from geobatch.schema import RADII_KM


def analyse(case: Case) -> Finding | str:
    """See above."""
    if NEIGHBOUR not in case.distances:
        return "the table has no neighbours"
    rows: list[dict[str, Any]] = []
    for name, km in {"nothing": case.distances[NEIGHBOUR], **case.lists.masked}.items():
        rows.append(
            {
                "masked": name,
                "images": len(case),
                "with_a_neighbour_left": int(np.sum(~np.isnan(km))),
                **{f"within_{radius}km": asdict(case.share(km, radius)) for radius in RADII_KM},
            }
        )
    whole, near = rows[0], next(row for row in rows if row["masked"] == "images within 25 km")
    last = rows[-1]
    figures = {row["masked"]: row["within_200km"]["value"] for row in rows}
    sentence = (
        f"The first neighbour is within 200 km for {told(whole['within_200km'])} of {len(case):,} images; without the "
        f"gallery's "
        f"images within 25 km of the truth for at least {told(near['within_200km'])} ({near['with_a_neighbour_left']:,} images "
        f"have a listed neighbour left), without {last['masked']} for at least {told(last['within_200km'])} "
        f"({last['with_a_neighbour_left']:,} have one left)."
    )
    return Finding(
        name="masked", title="Retrieval with parts of the gallery masked", sentence=sentence, figures=figures, rows=rows
    )
