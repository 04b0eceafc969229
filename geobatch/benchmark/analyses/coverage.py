"""How much of the gallery lies in a country or continent, and how well its images are placed.

Both are counted by the nearest town's country (`regions`). The figure is Spearman's rank correlation, over countries with at
least 20 judged images, between gallery images and the share within 200 km: 1 says that the better covered are always the better
placed. Of fewer than 8 countries it is not told: of 3 one order in six is perfect by chance. Correlation is not cause: the best
covered countries are also the most photographed and the most built up, which is why `masked` and `nearest` look at coverage
image by image.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geobatch.benchmark.analyses.case import FEW, Case, Finding, extremes, told
from geobatch.benchmark.continents import CONTINENTS

#: Countries below which ranks say nothing.
_RANKED = 8
#: Countries that are listed, the most photographed first.
LISTED = 250


def analyse(case: Case) -> Finding | str:
    """See above."""
    if case.regions is None or case.where is None or case.guessed is None:
        return "there is no gazetteer"
    if case.gallery is None:
        return "the gallery is not known; give --gallery, or --model with one"
    there = case.regions.of(case.gallery.latitude, case.gallery.longitude)
    names = [str(name) or "unknown" for name in case.regions.countries]
    countries = _rows(case, case.where.country, case.guessed.country, there.country, names, "country")
    continents = _rows(case, case.where.continent, case.guessed.continent, there.continent, CONTINENTS, "continent")
    judged = [row for row in countries if row["images"] >= FEW]
    correlation = None
    counts, shares = ([row[key] for row in judged] for key in ("gallery", "share_200km"))
    if len(judged) >= _RANKED and len(set(counts)) > 1 and len(set(shares)) > 1:
        correlation = float(stats.spearmanr(counts, shares).statistic)
    bare = [row for row in countries if not row["gallery"]]
    figures: dict[str, Any] = {
        "gallery": len(case.gallery.latitude),
        "countries": len(countries),
        "countries_compared": len(judged),
        "rank_correlation": correlation,
        "images_in_countries_without_gallery": sum(row["images"] for row in bare),
    }
    for row in (*countries, *continents):
        del row["share_200km"]
    how = (
        f"over {len(judged)} countries the rank correlation of gallery images and the share within 200 km is {correlation:+.2f}"
        if correlation is not None
        else f"{len(judged)} countries have {FEW} images, too few or too equal to correlate"
    )
    sentence = (
        f"{_ends(continents)}; {how}, and the gallery has nothing of the countries of "
        f"{figures['images_in_countries_without_gallery']:,} images."
    )
    return Finding(
        name="coverage",
        title="Gallery coverage by region against accuracy",
        sentence=sentence,
        figures=figures,
        rows=[*continents, *countries[:LISTED]],
    )


def _ends(continents: list[dict[str, Any]]) -> str:
    """The best and the worst placed continent, of those with enough images."""
    found = extremes(continents, "within_200km")
    if found is None:
        return f"Fewer than two continents have {FEW} images"
    best, worst = found
    return (
        f"Within 200 km are {told(best['within_200km'])} of the images of {best['region']} ({best['gallery']:,} in the "
        f"gallery) and {told(worst['within_200km'])} of {worst['region']}'s ({worst['gallery']:,})"
    )


def _rows(
    case: Case, true: NDArray[Any], guessed: NDArray[Any], gallery: NDArray[Any], names: Any, kind: str
) -> list[dict[str, Any]]:
    """A row for each region with images, the most photographed first."""
    held = np.bincount(gallery[gallery >= 0], minlength=len(names))
    rows = []
    for at in np.unique(true[true >= 0]).tolist():
        among = true == at
        wide = case.share(case.km, 200, among)
        rows.append(
            {
                "kind": kind,
                "region": names[at],
                "images": int(among.sum()),
                "gallery": int(held[at]),
                "right_region": float(np.mean(guessed[among] == at)),
                "within_25km": asdict(case.share(case.km, 25, among)),
                "within_200km": asdict(wide),
                "share_200km": wide.value,
            }
        )
    return sorted(rows, key=lambda row: -row["images"])
