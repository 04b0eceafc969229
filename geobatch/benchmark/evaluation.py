"""What an evaluation found: figures by choice, intervals, calibration, as text and as plain numbers.

One object holds both what is printed and, per image, what plots are drawn from. The dict is what
`figures.json` holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.metrics import Calibration, Figures, Interval
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Names of choices that other code looks up.
CHOSEN = "chosen"
NEIGHBOUR = "nearest neighbour"


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
    choices: dict[str, Figures]
    """Figures of each way to choose, the chosen places first."""
    against_neighbour: dict[int, Interval]
    """The chosen places' share less the nearest neighbour's, by radius."""
    calibration: list[Calibration]
    """Of the probability columns, by radius; empty where the table has none."""
    exif: Figures | None
    """Distance from the chosen place to the photograph's own GPS; None where no image has one."""
    distances: dict[str, Floats] = field(repr=False)
    """Kilometres from the truth `(images,)` by choice, NaN where it offers no place: what plots are drawn from."""
    rows: NDArray[np.intp] = field(repr=False)
    """Row of the table of each judged image `(images,)`, -1 where it is missing there."""
    latitude: Floats = field(repr=False)
    """Of the chosen places `(images,)`, NaN where there is none."""
    longitude: Floats = field(repr=False)
    """Of the chosen places `(images,)`."""
    true_latitude: Floats = field(repr=False)
    """Where the images were taken `(images,)`."""
    true_longitude: Floats = field(repr=False)
    """Where the images were taken `(images,)`."""

    def as_dict(self) -> dict[str, Any]:
        """Every figure as plain numbers, None in place of NaN; nothing per image."""
        plain = {
            "truth": self.truth,
            "images": self.images,
            "placed": self.placed,
            "rejected": self.rejected,
            "without_truth": self.without_truth,
            "missing": self.missing,
            "choices": {name: _figures_dict(one) for name, one in self.choices.items()},
            "against_neighbour": {f"{km}km": asdict(one) for km, one in self.against_neighbour.items()},
            "calibration": [asdict(one) for one in self.calibration],
            "exif": _figures_dict(self.exif) if self.exif else None,
        }
        return _without_nan(plain)

    def as_text(self) -> str:
        """The same for a person, some 20 lines of at most 100 columns."""
        rejected = sum(self.rejected.values())
        lines = [
            f"{self.placed} placed, {rejected} rejected; {self.images} judged by {self.truth}"
            f" ({self.without_truth} without truth, {self.missing} of the truth not in the table)"
        ]
        lines += [f"  rejected: {reason} {count}" for reason, count in self.rejected.items()]
        lines += ["", _line("% within", [f"{km} km" for km in RADII_KM], "median km", "mean km")]
        lines += [_figures_line(name, one) for name, one in self.choices.items()]
        if self.exif:
            lines.append(_figures_line(f"to EXIF ({self.exif.images})", self.exif))
        chosen = self.choices[CHOSEN]
        lines += ["", _line("95 % interval", [_range(one) for one in chosen.shares])]
        if self.against_neighbour:
            cells = [f"{100 * one.value:+.1f}" for one in self.against_neighbour.values()]
            lines.append(_line("over neighbour", cells))
            lines.append(_line("95 % interval", [_range(one) for one in self.against_neighbour.values()]))
        if self.calibration:
            lines += [
                _line("stated", [_percent(one.stated) for one in self.calibration]),
                _line("calibration err", [_percent(one.error) for one in self.calibration]),
                _line("Brier score", [f"{one.brier:.3f}" for one in self.calibration]),
            ]
        return "\n".join(lines)


def _figures_dict(one: Figures) -> dict[str, Any]:
    shares = {f"{km}km": asdict(share) for km, share in zip(one.radii, one.shares, strict=True)}
    return {
        "images": one.images,
        "placed": one.placed,
        "shares": shares,
        "median_km": one.median_km,
        "mean_km": one.mean_km,
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _figures_line(name: str, one: Figures) -> str:
    shares = [_percent(share.value) for share in one.shares]
    return _line(name, shares, f"{one.median_km:.1f}", f"{one.mean_km:.1f}")


def _line(name: str, cells: Sequence[str], *more: str) -> str:
    return f"{name:22s}" + "".join(f"{cell:>13s}" for cell in cells) + "".join(f"{cell:>10s}" for cell in more)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(one: Interval) -> str:
    return f"{100 * one.low:.1f}…{100 * one.high:.1f}"
