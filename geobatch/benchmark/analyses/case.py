"""What an analysis is given, and what it finds.

A `Case` is one evaluated table: per image the place, the truth and the distance by choice, and whatever else is known (regions,
the gallery, other seeds). A `Finding` is a few numbers, a table of rows that all have the same keys, and one sentence that says
what they show. A page can draw any of them without knowing which it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.benchmark.choices import CHOSEN
from geobatch.benchmark.intervals import Bootstrap, Interval, share_interval
from geobatch.benchmark.lists import Lists
from geobatch.benchmark.metrics import Calibration
from geobatch.benchmark.regions import Regions, Where
from geobatch.geo.distance import within

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Images below which a group's share says too little to be compared.
FEW = 20


class Gallery(Protocol):
    """Places of a gallery's images; `engine.gallery.Gallery` is one."""

    latitude: Floats
    longitude: Floats

    def near(self, latitude: ArrayLike, longitude: ArrayLike, k: int = 1) -> tuple[Floats, NDArray[np.int64]]:
        """The k rows nearest on the sphere to each place: km (N, k) and rows (N, k)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An evaluated table of N judged images.

    Attributes:
        latitude, longitude: `(N,)` of the chosen places, NaN where there is none.
        true_latitude, true_longitude: `(N,)`.
        distances: km `(N,)` by choice.
        lists: what candidates and neighbours make of them.
        calibration: of the probabilities, by radius.
        bootstrap: how intervals are drawn.
        regions, where, guessed: the gazetteer, and what it says of the true and of the chosen places; None: there is none.
        gallery: the images that were retrieved from; None: not given.
        cover: land cover by name and `(N,)` which of them each true place has, -1 unknown; None: no map.
        seeds: places `(N,)` of the same images by further runs, by name.
        run_by_all: `(N,)` the images that all those runs hold, placed or not; None: all.
    """

    latitude: Floats
    longitude: Floats
    true_latitude: Floats
    true_longitude: Floats
    distances: dict[str, Floats]
    lists: Lists
    calibration: list[Calibration] = field(default_factory=list)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    regions: Regions | None = None
    where: Where | None = None
    guessed: Where | None = None
    gallery: Gallery | None = None
    cover: tuple[Sequence[str], NDArray[np.int64]] | None = None
    seeds: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    run_by_all: Bools | None = None

    @property
    def km(self) -> Floats:
        """Of the chosen places from the truth, NaN for failed images."""
        return self.distances[CHOSEN]

    @cached_property
    def nearest_km(self) -> Floats | None:
        """From each true place to the gallery's nearest image; None where no gallery is known, or none of it has a place."""
        if self.gallery is None:
            return None
        km = self.gallery.near(self.true_latitude, self.true_longitude)[0]
        return km[:, 0] if km.size else None

    def __len__(self) -> int:
        return len(self.true_latitude)

    def share(self, km: Floats, radius: float, among: Bools | None = None) -> Interval:
        """Share of distances `(N,)` within a radius, of all images or some."""
        hit = within(km if among is None else km[among], radius)
        return share_interval(float(hit.mean()) if hit.size else math.nan, hit.size, self.bootstrap)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an analysis found."""

    name: str
    """Of the analysis: the name of its file."""
    title: str
    """What was looked at, in a few words."""
    sentence: str
    """What the numbers show."""
    figures: dict[str, Any]
    """The numbers that the sentence speaks of."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """A table; each row has the same keys."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, None in place of NaN; shares with intervals as {"value", "low", "high"}."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def groups(
    case: Case, numbers: NDArray[np.int64], names: Sequence[str], what: str, radii: Sequence[float] = (25, 200, 750)
) -> list[dict[str, Any]]:
    """A row for each group of images that there is, in the order of the names: images, median km and shares within radii.

    Args:
        numbers: `(N,)` group of each image, -1 in none.
    """
    rows = []
    for at, name in enumerate(names):
        among = numbers == at
        if not among.any():
            continue
        placed = case.km[among][~np.isnan(case.km[among])]
        rows.append(
            {
                what: name,
                "images": int(among.sum()),
                "median_km": float(np.median(placed)) if placed.size else None,
                **{f"within_{radius:g}km": asdict(case.share(case.km, radius, among)) for radius in radii},
            }
        )
    return rows


def banded(values: Floats, edges: Sequence[float]) -> NDArray[np.int64]:
    """Position `(N,)` of the band (edges rising, each the begin of one) that values lie in, -1 for NaN and below the first."""
    found = np.searchsorted(np.asarray(edges, np.float64), values, side="right") - 1
    return np.where(np.isnan(values), -1, found).astype(np.int64)


def told(one: Interval | dict[str, float]) -> str:
    """A share in per cent with its interval, for a sentence."""
    value, low, high = (one["value"], one["low"], one["high"]) if isinstance(one, dict) else (one.value, one.low, one.high)
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def extremes(rows: list[dict[str, Any]], figure: str, few: int = FEW) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The rows of the largest and the smallest share among those of at least `few` images; None where there are not two."""
    judged = sorted((row for row in rows if row["images"] >= few), key=lambda row: row[figure]["value"])
    return (judged[-1], judged[0]) if len(judged) > 1 else None
