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

from geobatch.benchmark.confidence import Coverage
from geobatch.benchmark.metrics import Calibration, Figures, Interval
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

#: Names of choices that other code looks up.
CHOSEN = "chosen"
NEIGHBOUR = "nearest neighbour"
SCORE = "log-probability"
ORACLE = "oracle of the samples"


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
    against_score: dict[str, dict[int, Interval]]
    """Each choice's share less the log-probability's, by radius; empty where the table has no samples."""
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
            "truth": self.truth,
            "images": self.images,
            "placed": self.placed,
            "rejected": self.rejected,
            "without_truth": self.without_truth,
            "missing": self.missing,
            "choices": {name: _figures_dict(one) for name, one in self.choices.items()},
            "against_neighbour": {f"{km}km": asdict(one) for km, one in self.against_neighbour.items()},
            "against_log_probability": {
                name: {f"{km}km": asdict(one) for km, one in by.items()} for name, by in self.against_score.items()
            },
            "gap_closed": {name: {f"{km}km": one for km, one in by.items()} for name, by in self.gap_closed().items()},
            "calibration": [asdict(one) for one in self.calibration],
            "coverage": [asdict(one) for one in self.coverage],
            "chosen_by": self.chosen_by,
            "fallbacks": self.fallbacks,
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
        if CHOSEN in self.against_score:
            differences = list(self.against_score[CHOSEN].values())
            lines.append(_line("over log-probability", [f"{100 * one.value:+.1f}" for one in differences]))
            lines.append(_line("95 % interval", [_range(one) for one in differences]))
            closed = self.gap_closed().get(CHOSEN, {})
            lines.append(_line("% of gap to oracle", ["" if math.isnan(one) else _percent(one) for one in closed.values()]))
        return "\n".join([*lines, *self._confidence()])

    def _confidence(self) -> list[str]:
        lines = []
        if self.calibration:
            lines += [
                _line("stated", [_percent(one.stated) for one in self.calibration]),
                _line("calibration err", [_percent(one.error) for one in self.calibration]),
                _line("Brier score", [f"{one.brier:.3f}" for one in self.calibration]),
                _line("log loss", [f"{one.log_loss:.4f}" for one in self.calibration]),
                _line("  of best constant", [f"{one.constant_loss:.4f}" for one in self.calibration]),
            ]
        for one in self.coverage:
            lines.append(
                f"{one.name} holds {_percent(one.held.value)} % of {one.images} ({_range(one.held)}), says "
                f"{_percent(one.stated)}; median {one.median_km:.0f} km; {one.without} without"
            )
        if self.chosen_by:
            lines.append("chosen by " + ", ".join(f"{name} {count}" for name, count in self.chosen_by.items()))
        return lines + [f"  fallback: {why} {count}" for why, count in self.fallbacks.items()]


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
    if isinstance(value, list | tuple):
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
