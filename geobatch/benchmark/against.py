"""Two systems on the same images: paired differences with their intervals, wins and losses.

Over the same images in the same order, so that what both or neither got right widens no interval. Only images that both tables
hold are compared: one that a table rejected is wrong, one that it was never asked about says nothing of it (unless missing
images are counted as wrong on either side). An image is won if ours lies nearer to the truth by more than 1 km (`CLOSE_KM`; a
place less than that beside another is the same answer), lost if theirs does, else a tie; a failed image is infinitely far.
Whether wins and losses differ by more than chance is the two-sided sign test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark.intervals import (
    Bootstrap,
    Difference,
    Interval,
    mean_interval,
    paired_difference,
    share_difference,
    unequal,
)
from geobatch.benchmark.metrics import Figures, figures, geoscore
from geobatch.benchmark.named import mark_of, rows_of
from geobatch.benchmark.places import numbers, once
from geobatch.benchmark.regions import Where
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Kilometres below which two distances are the same.
CLOSE_KM = 1.0
#: What a place may be right in beside its distance.
PARTS = ("country", "region", "city")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours less theirs, over N images."""

    images: int
    theirs: Figures
    shares: dict[int, Difference]
    """Difference of the shares within each radius."""
    geoscore: Interval
    """Difference of the mean points."""
    regions: dict[str, Difference]
    """Difference of the shares placed in the right country, region and city; empty without a gazetteer."""
    only_ours: dict[int, int]
    """Images within each radius by ours alone."""
    only_theirs: dict[int, int]
    """Images within each radius by theirs alone."""
    wins: int
    losses: int
    ties: int
    sign_test: float
    """Probability of so unequal wins and losses if both systems were as good; 1 where there are none."""
    left_out: tuple[int, int] = (0, 0)
    """Images of known place that ours alone, and theirs alone, holds: they are not among `images`."""

    def sentence(self, name: str) -> str:
        """What the numbers show."""
        better = [km for km, one in self.shares.items() if one.sure > 0]
        worse = [km for km, one in self.shares.items() if one.sure < 0]
        one = self.shares[25]
        told = (f"surely better at {_list(better)} km" if better else "surely better at no radius") + (
            f" and surely worse at {_list(worse)} km" if worse else ""
        )
        return (
            f"Over {self.images:,} images ours is within 25 km {100 * one.value:+.1f} points [{100 * one.low:+.1f}, "
            f"{100 * one.high:+.1f}] more often than {name}, {told}; it is nearer to the truth for {self.wins:,} images, "
            f"farther for {self.losses:,} and the same for {self.ties:,} (sign test p = {self.sign_test:.2g})."
            + (
                f" Left out are {self.left_out[0]:,} images that only ours and {self.left_out[1]:,} that only theirs holds."
                if any(self.left_out)
                else ""
            )
        )

    def as_dict(self, name: str) -> dict[str, Any]:
        """Plain numbers and the sentence."""
        return {
            "images": self.images,
            "left_out": {"only_ours_holds": self.left_out[0], "only_theirs_holds": self.left_out[1]},
            "shares": {f"{km}km": asdict(one) for km, one in self.shares.items()},
            "geoscore": asdict(self.geoscore),
            "regions": {part: asdict(one) for part, one in self.regions.items()},
            "only_ours": {f"{km}km": one for km, one in self.only_ours.items()},
            "only_theirs": {f"{km}km": one for km, one in self.only_theirs.items()},
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "sign_test": self.sign_test,
            "sentence": self.sentence(name),
        }


def compare(
    ours_km: Floats,
    theirs_km: Floats,
    bootstrap: Bootstrap | None = None,
    regions: tuple[Where, Where, Where] | None = None,
    left_out: tuple[int, int] = (0, 0),
) -> Comparison:
    """Of distances `(N,)` of the same images, NaN for failed ones.

    Args:
        regions: of the true places, of ours and of theirs.
        left_out: images that ours alone, and theirs alone, holds.

    Raises:
        ValueError: lists of different lengths.
    """
    inside = {km: (within(ours_km, km), within(theirs_km, km)) for km in RADII_KM}
    ours, theirs = (np.nan_to_num(km, nan=np.inf) for km in (ours_km, theirs_km))
    wins, losses = int(np.sum(ours + CLOSE_KM < theirs)), int(np.sum(theirs + CLOSE_KM < ours))
    return Comparison(
        images=len(ours_km),
        theirs=figures(theirs_km, bootstrap=bootstrap),
        shares={km: paired_difference(ours_km, theirs_km, km, bootstrap) for km in RADII_KM},
        geoscore=mean_interval(geoscore(ours_km) - geoscore(theirs_km), bootstrap),
        regions={} if regions is None else _regions(*regions, bootstrap),
        only_ours={km: int(np.sum(mine & ~other)) for km, (mine, other) in inside.items()},
        only_theirs={km: int(np.sum(other & ~mine)) for km, (mine, other) in inside.items()},
        wins=wins,
        losses=losses,
        ties=len(ours_km) - wins - losses,
        sign_test=unequal(wins, losses),
        left_out=left_out,
    )


def right(true: Where, guessed: Where, part: str) -> NDArray[np.bool_]:
    """Which images `(N,)` were placed in the right country, state or city."""
    codes = getattr(guessed, part)
    return np.asarray((codes >= 0) & (codes == getattr(true, part)))


def _regions(true: Where, ours: Where, theirs: Where, bootstrap: Bootstrap | None) -> dict[str, Difference]:
    return {part: share_difference(right(true, ours, part), right(true, theirs, part), bootstrap) for part in PARTS}


class Elsewhere(NamedTuple):
    """What another table says of N judged images."""

    latitude: Floats
    """`(N,)` degrees, NaN where it has no place."""
    longitude: Floats
    """`(N,)` degrees."""
    held: NDArray[np.bool_]
    """`(N,)` whether it holds the image, placed or not."""
    more: int
    """Images of the truth that it holds beside these."""


class Rival(NamedTuple):
    """How far from the truth another table places N judged images, for plots."""

    km: Floats
    """`(N,)`, NaN where it has no place."""
    compared: NDArray[np.bool_]
    """`(N,)` whether the image is compared: both tables hold it, or missing ones count as wrong."""


def places_of(
    table: pa.Table, name: str, truth: Truth, image_ids: Sequence[str | None], true_rows: NDArray[np.intp]
) -> Elsewhere:
    """Where another table places the judged images.

    Args:
        table: with image_id, latitude and longitude.
        name: of the table, for messages.
        image_ids: of the judged images; None: not in our table.
        true_rows: `(N,)` their rows of the truth.

    Raises:
        UserError: it holds an image twice, or none of the truth, or texts where ours holds images.
    """
    ids: list[str] = table["image_id"].to_pylist()
    once(ids, name)
    found = rows_of(truth, ids)
    if not (found >= 0).any():
        raise UserError(f"{name} holds no image of {truth.name} (its first is {ids[:1]}); name a table of the same images")
    ours, theirs = (["" if one is None else mark_of(one) for one in some] for some in (image_ids, ids))
    if any("@" in mark for mark in ours) != any("@" in mark for mark in theirs):
        raise UserError(
            f"of {name} and the table one names texts (as a.png@1) and the other images; compare tables of one archive"
        )
    if any(ours) or any(theirs):
        # The texts of one image share its row of the truth and are told apart by their mark; of an image we lack any will do.
        known: dict[tuple[int, str | None], int] = {}
        for row, at in enumerate(found.tolist()):
            known |= {(at, theirs[row]): row, (at, None): row}
        marks = (None if one is None else mark for one, mark in zip(image_ids, ours, strict=True))
        rows = np.array([known.get(key, -1) for key in zip(true_rows.tolist(), marks, strict=True)], np.intp)
    else:
        row_of = np.full(len(truth.image_id), -1, np.intp)
        row_of[found[found >= 0]] = np.flatnonzero(found >= 0)
        rows = row_of[true_rows]
    held = rows >= 0
    latitude, longitude = (np.where(held, numbers(table[axis])[rows], np.nan) for axis in ("latitude", "longitude"))
    return Elsewhere(latitude, longitude, held, int((found >= 0).sum() - held.sum()))


def _list(radii: Sequence[float]) -> str:
    return "/".join(f"{km:g}" for km in radii)
