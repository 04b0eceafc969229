"""The analyses that the papers left open, each a file: numbers, a table, and one sentence that says what they show.

case            what an analysis is given, and what it finds
levels          where a sequence of tokens first leaves the truth
oracle          what more candidates could give
doubt           whether stated probabilities are true
coverage        the gallery by country and continent, against accuracy
masked          retrieval with parts of the gallery masked
nearest         accuracy by distance to the nearest gallery image
leakage         accuracy without near-duplicates of the gallery
density, cover  accuracy by population density and by land cover
seeds           the same images by runs of other seeds
collapse        many images at one place
attract         places that attract errors

Each has `analyse(case)`, which gives its `Finding`, or in a few words why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from geobatch.benchmark.analyses import (
    attract,
    collapse,
    cover,
    coverage,
    density,
    doubt,
    leakage,
    levels,
    masked,
    nearest,
    oracle,
    seeds,
)
from geobatch.benchmark.analyses.case import Case, Finding

Analysis = Literal[
    "levels", "oracle", "doubt", "coverage", "masked", "nearest", "leakage", "density", "cover", "seeds", "collapse", "attract"
]

__all__ = ["ALL", "Analysis", "Case", "Finding", "analysed"]

_BY_NAME: dict[Analysis, Callable[[Case], Finding | str]] = {
    "levels": levels.analyse,
    "oracle": oracle.analyse,
    "doubt": doubt.analyse,
    "coverage": coverage.analyse,
    "masked": masked.analyse,
    "nearest": nearest.analyse,
    "leakage": leakage.analyse,
    "density": density.analyse,
    "cover": cover.analyse,
    "seeds": seeds.analyse,
    "collapse": collapse.analyse,
    "attract": attract.analyse,
}

#: Every analysis, in the order in which they are told.
ALL: tuple[Analysis, ...] = tuple(_BY_NAME)


def analysed(case: Case, wanted: Sequence[Analysis] = ALL) -> tuple[list[Finding], dict[str, str]]:
    """What the wanted analyses found, and of those that found nothing, why."""
    said = {name: _BY_NAME[name](case) for name in ALL if name in wanted}
    findings = [one for one in said.values() if isinstance(one, Finding)]
    return findings, {name: why for name, why in said.items() if isinstance(why, str)}
