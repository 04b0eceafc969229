"""What an evaluation found: figures by choice, intervals, comparisons, analyses, as text and as plain numbers.

One object holds both what is printed (`telling`) and, per image, what plots are drawn from. `as_dict` is `evaluation.json`:

    version                   2; raised when a key changes its meaning or goes
    places, table             the absolute URI of what was judged, no slash at its end; the version of a table, null of a file
    truth, images             where the truth is from; how many images were judged
    placed, rejected          rows of the whole table with a place, and without one by reason
    without_truth, missing    rows whose true place is not known; true places whose image the table does not hold
    missing_counted           whether those count as wrong, and are among `images`
    notes                     what of the truth was read otherwise than it says, a line each
    choices                   by choice: images, placed, shares by radius, median_km, mean_km, and median, mean and geoscore
                              with their intervals
    regions                   share placed in the right country, region and city
    against_neighbour         the chosen places' shares less the first neighbours', by radius
    against_log_probability   each choice's shares less the likeliest draw's, by radius
    gap_closed                share of the gap from the likeliest draw to the oracle that each choice closes, by radius
    gap_closed_by_chosen      the same of the chosen places, with its interval; null where there may be no gap
    against                   by another system's name: paired differences, wins and losses, and a sentence (`against`)
    calibration, coverage     of probabilities by radius; of the radius and the area that are to hold the truth
    chosen_by, fallbacks      judged images by selector, and why it was not the one asked for
    exif                      the same figures by the photographs' own GPS; null without any
    failed                    count, by_reason, and the first 1,000 images with their reasons
    benchmark, published      the benchmark that was named, or null; what others published on it, marked as such
    analyses                  a list: name, title, sentence, figures, rows (`analyses`)
    unmade                    by analysis, why there is none
    sentences                 by figure above, one sentence that says what it shows

Shares and other figures with an interval are {"value", "low", "high"}, paired differences of shares also "p", the exact
probability of so much by chance (`intervals`); what has no value is null.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark import published, sentences, telling
from geobatch.benchmark.against import Comparison, Rival
from geobatch.benchmark.analyses.case import Finding
from geobatch.benchmark.choices import ORACLE, SCORE
from geobatch.benchmark.confidence import Coverage
from geobatch.benchmark.intervals import Difference, Interval
from geobatch.benchmark.metrics import Calibration, Figures
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Of the form of `as_dict`.
VERSION = 2
#: Failed images that it names.
LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one table against one truth; `as_dict` is JSON-able, `as_text` for a terminal."""

    truth: str
    images: int
    """Images that were judged."""
    placed: int
    """Rows of the whole table that have a place."""
    rejected: dict[str, int]
    """Rows of the whole table without one, by reason."""
    without_truth: int
    """Rows of the table whose true place is not known."""
    missing: int
    """True places whose image is not in the table."""
    missing_counted: bool
    """Whether those count as wrong."""
    choices: dict[str, Figures]
    """Figures of each way to choose, the chosen places first."""
    regions: dict[str, Interval]
    """Share of the chosen places in the right country, region and city; empty without a gazetteer."""
    against_neighbour: dict[int, Difference]
    """The chosen places' share less the nearest neighbour's, by radius."""
    against_score: dict[str, dict[int, Difference]]
    """Each choice's share less the log-probability's, by radius; empty where the table has no samples."""
    gap: dict[int, Interval]
    """Share of the gap from log-probability to the oracle of the samples that the chosen places close, by radius."""
    against: dict[str, Comparison]
    """Of other systems by name."""
    calibration: list[Calibration]
    """Of the probability columns, by radius; empty where the table has none."""
    coverage: list[Coverage]
    """Of `radius_90_km` and `area`, where the table has them."""
    chosen_by: dict[str, int]
    """Judged images by the selector that chose their place."""
    fallbacks: dict[str, int]
    """Judged images whose place another selector chose than the one asked for, by why."""
    exif: Figures | None
    """Distance from the chosen place to the photograph's own GPS; None where no image has one."""
    findings: list[Finding]
    """What the analyses found."""
    unmade: dict[str, str]
    """Why an analysis found nothing, by its name."""
    failed: list[tuple[str, str]] = field(repr=False)
    """Judged images without a place and why, each counted as wrong."""
    notes: tuple[str, ...] = ()
    """What of the truth was read otherwise than it says."""
    benchmark: str | None = None
    """The benchmark that was named (`published`)."""
    places: str | None = None
    """Address of the table, or of the file of predictions, without a slash at its end."""
    table: int | None = None
    """Version of the table; None of a file."""
    spread: pa.Table | None = field(default=None, repr=False)
    """Of each judged image, how far runs of other seeds place it apart (`analyses.seeds.by_image`); None without such runs."""
    distances: dict[str, Floats] = field(repr=False)
    """Kilometres from the truth `(images,)` by choice, NaN where it offers no place: what plots are drawn from."""
    rivals: dict[str, Rival] = field(repr=False)
    """Distances of the other tables, by name."""
    rows: NDArray[np.intp] = field(repr=False)
    """Row of the table of each judged image `(images,)`, -1 where it is missing there."""
    image_ids: list[str | None] = field(repr=False)
    """Of the judged images `(images,)`, None where the table does not hold it."""
    latitude: Floats = field(repr=False)
    """Of the chosen places `(images,)`, NaN where there is none."""
    longitude: Floats = field(repr=False)
    """Of the chosen places `(images,)`."""
    true_latitude: Floats = field(repr=False)
    """Where the images were taken `(images,)`."""
    true_longitude: Floats = field(repr=False)
    """Where the images were taken `(images,)`."""

    def gap_closed(self) -> dict[str, dict[int, float]]:
        """Share of the gap between log-probability and the oracle of the samples that each choice closes, by radius."""
        if SCORE not in self.choices or ORACLE not in self.choices:
            return {}
        low, high = self.choices[SCORE].shares, self.choices[ORACLE].shares
        return {
            name: {
                km: (mine.value - one.value) / (other.value - one.value) if other.value > one.value else math.nan
                for km, mine, one, other in zip(RADII_KM, figures.shares, low, high, strict=True)
            }
            for name, figures in self.choices.items()
            if name not in (SCORE, ORACLE)
        }

    def as_dict(self) -> dict[str, Any]:
        """Every figure as plain numbers, None in place of NaN; nothing per image."""
        plain = {
            "version": VERSION,
            "places": self.places,
            "table": self.table,
            "truth": self.truth,
            "images": self.images,
            "placed": self.placed,
            "rejected": self.rejected,
            "without_truth": self.without_truth,
            "missing": self.missing,
            "missing_counted": self.missing_counted,
            "notes": self.notes,
            "choices": {name: _figures_dict(one) for name, one in self.choices.items()},
            "regions": {part: asdict(one) for part, one in self.regions.items()},
            "against_neighbour": {f"{km}km": asdict(one) for km, one in self.against_neighbour.items()},
            "against_log_probability": {
                name: {f"{km}km": asdict(one) for km, one in by.items()} for name, by in self.against_score.items()
            },
            "gap_closed": {name: {f"{km}km": one for km, one in by.items()} for name, by in self.gap_closed().items()},
            "gap_closed_by_chosen": {f"{km}km": asdict(one) for km, one in self.gap.items()},
            "against": {name: one.as_dict(name) for name, one in self.against.items()},
            "calibration": [asdict(one) for one in self.calibration],
            "coverage": [asdict(one) for one in self.coverage],
            "chosen_by": self.chosen_by,
            "fallbacks": self.fallbacks,
            "exif": _figures_dict(self.exif) if self.exif else None,
            "failed": {
                "count": len(self.failed),
                "by_reason": dict(Counter(reason for _, reason in self.failed).most_common()),
                "images": [{"image_id": name, "reason": reason} for name, reason in self.failed[:LISTED]],
            },
            "benchmark": self.benchmark,
            "published": [
                {**asdict(one), "published": True, "columns": published.COLUMNS[self.benchmark]}
                for one in published.PUBLISHED[self.benchmark]
            ]
            if self.benchmark
            else [],
            "analyses": [one.as_dict() for one in self.findings],
            "unmade": self.unmade,
            "sentences": sentences.of(self),
        }
        return _without_nan(plain)

    def as_text(self) -> str:
        """The same for a person, some 40 lines of at most 110 columns."""
        return telling.told(self)


def _figures_dict(one: Figures) -> dict[str, Any]:
    shares = {f"{km}km": asdict(share) for km, share in zip(one.radii, one.shares, strict=True)}
    return {
        "images": one.images,
        "placed": one.placed,
        "shares": shares,
        "median_km": one.median_km,
        "mean_km": one.mean_km,
        "median": asdict(one.median),
        "mean": asdict(one.mean),
        "geoscore": asdict(one.geoscore),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
