"""An evaluation for a person at a terminal: some forty lines of at most 110 columns.

The figures first, each choice a line, then what is beside them: other systems, published rows, doubts, and a sentence for each
analysis. Published rows are marked as such: they were not measured here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geobatch.benchmark import published
from geobatch.benchmark.choices import CHOSEN
from geobatch.benchmark.intervals import Interval
from geobatch.benchmark.metrics import Figures
from geobatch.schema import RADII_KM

if TYPE_CHECKING:
    from geobatch.benchmark.evaluation import Evaluation

#: Failed images that are named.
NAMED = 5


def told(found: Evaluation) -> str:
    """The text."""
    rejected = sum(found.rejected.values())
    lines = [
        f"{found.placed} placed, {rejected} rejected; {found.images} judged by {found.truth}"
        f" ({found.without_truth} without truth, {found.missing} of the truth not in the table)"
    ]
    lines += [f"  rejected: {reason} {count}" for reason, count in found.rejected.items()]
    lines += ["", _line("% within", [f"{km} km" for km in RADII_KM], "median km", "mean km", "GeoScore")]
    lines += [_figures_line(name, one) for name, one in found.choices.items()]
    if found.exif:
        lines.append(_figures_line(f"to EXIF ({found.exif.images})", found.exif))
    lines += _published(found)
    chosen = found.choices[CHOSEN]
    lines += ["", _line("95 % interval", [_range(one) for one in chosen.shares])]
    lines.append(
        f"95 % interval of median km {_ends(chosen.median)}, mean km {_ends(chosen.mean)}, GeoScore {_ends(chosen.geoscore)}"
    )
    if found.regions:
        parts = (f"{part} {_percent(one.value)} ({_range(one)})" for part, one in found.regions.items())
        lines.append("% in the right " + ", ".join(parts))
    if found.against_neighbour:
        cells = [f"{100 * one.value:+.1f}" for one in found.against_neighbour.values()]
        lines.append(_line("over neighbour", cells))
        lines.append(_line("95 % interval", [_range(one) for one in found.against_neighbour.values()]))
    if CHOSEN in found.against_score:
        differences = list(found.against_score[CHOSEN].values())
        lines.append(_line("over log-probability", [f"{100 * one.value:+.1f}" for one in differences]))
        lines.append(_line("95 % interval", [_range(one) for one in differences]))
        closed = list(found.gap.values())
        lines.append(_line("% of gap to oracle", ["" if math.isnan(one.value) else _percent(one.value) for one in closed]))
        lines.append(_line("95 % interval", ["" if math.isnan(one.value) else _range(one) for one in closed]))
    return "\n".join([*lines, *_confidence(found), *_failed(found), *_against(found), *_analyses(found)])


def _published(found: Evaluation) -> list[str]:
    if found.benchmark is None:
        return []
    note = published.size_note(found.benchmark, found.images)
    return ["", *published.lines(found.benchmark), *([note] if note else [])]


def _failed(found: Evaluation) -> list[str]:
    """The failed images, the first by name; each was counted as wrong."""
    if not found.failed:
        return []
    named = ", ".join(f"{name[-60:]} ({reason})" for name, reason in found.failed[:NAMED])
    more = f" and {len(found.failed) - NAMED:,} more" if len(found.failed) > NAMED else ""
    return _wrapped(f"{len(found.failed):,} judged images failed and count as wrong: {named}{more}")


def _against(found: Evaluation) -> list[str]:
    lines = []
    for name, one in found.against.items():
        lines += ["", _figures_line(name[-21:], one.theirs)]
        lines.append(_line("ours over it", [f"{100 * each.value:+.1f}" for each in one.shares.values()]))
        lines.append(_line("95 % interval", [_range(each) for each in one.shares.values()]))
        lines += _wrapped(one.sentence(name))
    return lines


def _analyses(found: Evaluation) -> list[str]:
    lines = []
    for one in found.findings:
        lines += ["", f"{one.title}:", *_wrapped(one.sentence)]
    if found.unmade:
        lines += ["", *_wrapped("not analysed: " + "; ".join(f"{name} ({why})" for name, why in found.unmade.items()))]
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent="  ", subsequent_indent="  ", break_long_words=False)


def _confidence(found: Evaluation) -> list[str]:
    lines = []
    if found.calibration:
        lines += [
            _line("stated", [_percent(one.stated) for one in found.calibration]),
            _line("calibration err", [_percent(one.error) for one in found.calibration]),
            _line("Brier score", [f"{one.brier:.3f}" for one in found.calibration]),
            _line("log loss", [f"{one.log_loss:.4f}" for one in found.calibration]),
            _line("  of best constant", [f"{one.constant_loss:.4f}" for one in found.calibration]),
        ]
    for one in found.coverage:
        lines.append(
            f"{one.name} holds {_percent(one.held.value)} % of {one.images} ({_range(one.held)}), says "
            f"{_percent(one.stated)}; median {one.median_km:.0f} km; {one.without} without"
        )
    if found.chosen_by:
        lines.append("chosen by " + ", ".join(f"{name} {count}" for name, count in found.chosen_by.items()))
    return lines + [f"  fallback: {why} {count}" for why, count in found.fallbacks.items()]


def _figures_line(name: str, one: Figures) -> str:
    shares = [_percent(share.value) for share in one.shares]
    return _line(name, shares, f"{one.median_km:.1f}", f"{one.mean_km:.1f}", f"{one.geoscore.value:.0f}")


def _line(name: str, cells: Sequence[str], *more: str) -> str:
    ends = (f"{cell:>{wide}s}" for cell, wide in zip(more, (10, 9, 9), strict=False))
    return f"{name:22s}" + "".join(f"{cell:>12s}" for cell in cells) + "".join(ends)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(one: Interval) -> str:
    return f"{100 * one.low:.1f}…{100 * one.high:.1f}"


def _ends(one: Interval) -> str:
    return f"{one.low:.1f}…{one.high:.1f}"
