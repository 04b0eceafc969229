"""Accuracy over distance, the table of figures, and what stated probabilities are worth, drawn on matplotlib axes.

No pyplot, so no state and no window. The curve is the share of all images placed within d, over d on a logarithmic scale:
the published five radii are five points of it. An image without a place never enters its curve, so the curve's right end
shows what was rejected. Colours are Okabe and Ito's, which stay apart for colour-blind eyes; what cannot be had without the
truth (an oracle) is grey and dashed. The table doubles as the curve's legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.distance import within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

INK, FAINT, PAPER = "#1d2433", "#8a93a3", "#ffffff"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
BOUND = "#6b7280"
#: Letters of a name that find room in the table.
NAME = 34
NEAREST_KM, FARTHEST_KM = 0.5, 20_015.0


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line styles by name, in the order given: solid colours, for oracles grey dashes and dots."""
    colours, dashes = iter(PALETTE * len(names)), iter(((0, (4, 2)), (0, (1, 1.5))) * len(names))
    return {
        name: {"color": BOUND, "linestyle": next(dashes), "linewidth": 1.6}
        if name.startswith("oracle")
        else {"color": next(colours), "linestyle": "-", "linewidth": 2.2}
        for name in names
    }


def cumulative(distance_km: ArrayLike) -> tuple[Floats, Floats]:
    """Steps of the curve: distances `(n,)` rising, and the share of all images within each, NaN counting as beyond."""
    distances = np.asarray(distance_km, np.float64)
    placed = np.sort(distances[~np.isnan(distances)])
    return placed, np.arange(1, placed.size + 1) / max(1, distances.size)


def draw_curve(axes: Axes, distances: Mapping[str, ArrayLike]) -> None:
    """Share of images (%) within a distance (km, logarithmic), one line a choice."""
    for km in RADII_KM:
        axes.axvline(km, color="#dfe3ea", linewidth=1, zorder=0)
        axes.text(km, 101.5, f"{km:,} km", color=FAINT, fontsize=8.5, ha="center", va="bottom")
    for name, style in reversed(styles(list(distances)).items()):
        placed, share = cumulative(distances[name])
        # From the left rim, where what is nearer than it has already been counted, to the right one.
        start = float(np.mean(within(distances[name], NEAREST_KM))) if np.size(distances[name]) else 0.0
        shown = placed > NEAREST_KM
        x = np.concatenate([[NEAREST_KM], placed[shown], [FARTHEST_KM]])
        y = np.concatenate([[start], share[shown], share[-1:] if share.size else [0.0]])
        axes.step(x, 100 * y, where="post", solid_capstyle="round", **style)
    axes.set_xscale("log")
    axes.set_xlim(NEAREST_KM, FARTHEST_KM)
    axes.set_ylim(0, 100)
    ticks = [1, 10, 100, 1000, 10_000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.minorticks_off()
    axes.grid(axis="y", color="#eef0f4", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.set_xlabel("kilometres between the place and the truth", fontsize=9, color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9ced8")


def draw_table(axes: Axes, distances: Mapping[str, ArrayLike]) -> None:
    """Shares (%) within the five radii, one row a choice with its line; the best that needs no truth is bold."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    rows = len(distances)
    axes.set_ylim(rows + 0.6, -1.0)
    columns = np.linspace(0.56, 0.99, len(RADII_KM))
    table = {name: 100 * _shares(km) for name, km in distances.items()}
    fair = [np.round(values, 1) for name, values in table.items() if not name.startswith("oracle")]
    best = np.max(fair, axis=0) if fair else np.full(len(RADII_KM), np.inf)
    axes.text(0.0, -0.5, "% of images within … km", fontsize=9, color=FAINT, va="center")
    for x, km in zip(columns, RADII_KM, strict=True):
        axes.text(x, -0.5, f"{km:,}", fontsize=9, color=FAINT, ha="right", va="center")
    axes.plot([0, 0.99], [0, 0], color="#c9ced8", linewidth=0.8)
    for row, (name, style) in enumerate(styles(list(table)).items()):
        y = row + 0.55
        axes.plot([0, 0.055], [y, y], solid_capstyle="round", **style)
        axes.text(0.075, y, name, fontsize=9.5, color=INK, va="center")
        oracle = name.startswith("oracle")
        for x, value, top in zip(columns, table[name], best, strict=True):
            weight = "bold" if not oracle and np.round(value, 1) >= top > 0 else "normal"
            colour = FAINT if oracle else INK
            axes.text(x, y, f"{value:.1f}", fontsize=9.5, color=colour, weight=weight, ha="right", va="center")


def draw_reliability(axes: Axes, points: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> None:
    """What came true (%) over what was stated (%), one line a name; the diagonal is a probability that can be believed.

    Args:
        points: mean stated probabilities, shares that came true and numbers of images `(bins,)` by name. A dot's area grows
            with its images, so that the dots that carry the error are the large ones.
    """
    axes.plot([0, 100], [0, 100], color=BOUND, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1)
    whole = max((float(np.sum(images)) for _, _, images in points.values()), default=1.0)
    for (name, style), (stated, true, images) in zip(styles(list(points)).items(), points.values(), strict=True):
        x, y = 100 * np.asarray(stated, np.float64), 100 * np.asarray(true, np.float64)
        axes.plot(x, y, label=name, zorder=2, **style)
        axes.scatter(x, y, s=12 + 380 * np.asarray(images, np.float64) / whole, color=style["color"], alpha=0.75, zorder=3)
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    axes.set_aspect("equal")
    ticks = range(0, 101, 20)
    axes.set_xticks(ticks, [f"{tick} %" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick} %" for tick in ticks])
    axes.grid(color="#eef0f4", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.set_xlabel("stated probability", fontsize=9, color=INK)
    axes.set_ylabel("came true", fontsize=9, color=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    if points:
        axes.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=INK)


def picture_of_reliability(
    path: str | Path, points: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], title: str = ""
) -> None:
    """Writes `draw_reliability` as a PNG of 800 pixels' width."""
    figure = Figure(figsize=(6.4, 6.6), dpi=125, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.04, 0.965, title, fontsize=13, weight="bold", color=INK, va="center")
    draw_reliability(figure.add_axes((0.12, 0.09, 0.84, 0.83)), points)
    figure.savefig(path, metadata={"Software": None})


def picture_of_comparison(path: str | Path, distances: Mapping[str, ArrayLike], title: str = "", note: str = "") -> None:
    """Writes the curves of several systems over the same images and their table as a PNG of 1600 pixels' width.

    Args:
        distances: kilometres `(N,)` between place and truth by system, NaN without a place; of names too long for the table
            the end is shown.
        title, note: one line each; the note is small and grey.
    """
    numbered = enumerate(distances.items(), 1)
    shown = {name if len(name) <= NAME else f"{number}: …{name[5 - NAME :]}": km for number, (name, km) in numbered}
    height = max(3.6, 1.3 + 0.35 * len(shown))
    figure = Figure(figsize=(12.8, height), dpi=125, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.025, 1 - 0.26 / height, title, fontsize=17, weight="bold", color=INK, va="center")
    figure.text(0.025, 1 - 0.57 / height, note, fontsize=10.5, color=FAINT, va="center")
    draw_curve(figure.add_axes((0.065, 0.55 / height, 0.43, 1 - 1.6 / height)), shown)
    table = 0.33 * (len(shown) + 1.6)
    draw_table(figure.add_axes((0.535, 1 - (0.95 + table) / height, 0.44, table / height)), shown)
    figure.savefig(path, metadata={"Software": None})


def _shares(distance_km: ArrayLike) -> Floats:
    distances = np.asarray(distance_km, np.float64)
    return np.array([np.mean(within(distances, km)) if distances.size else np.nan for km in RADII_KM])
