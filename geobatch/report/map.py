"""The picture of a run: places on a map of the world, coloured by their error, over the curve and the table of figures.

The map is plain equirectangular, as NASA's Blue Marble comes; the background is turned towards a dark grey blue, so
that light dots stand out over ocean and desert alike. Errors are six classes cut at the field's radii, from deep to
light (matplotlib's plasma, which keeps its order in grey and for colour-blind eyes), the worst drawn last and largest,
and each error beyond 750 km with the great circle to its truth, a small ring. More places than `SHOWN` are thinned at
random with a fixed seed; the figures are of all.

Not covered: projections other than the plain one, tiles, interaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.point import lat_lon, unit_vectors
from geobatch.report.plots import FAINT, INK, PAPER, draw_curve, draw_table
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]

SHOWN = 6000
SOUTH, NORTH = -60.0, 80.0
_LAND, _SEA = np.array([0.16, 0.20, 0.27]), np.array([0.07, 0.10, 0.16])


def error_classes() -> list[tuple[float, str, str]]:
    """Upper end in km, colour and label of each class of error, the smallest first."""
    ends = [*RADII_KM, np.inf]
    shades = colormaps["plasma"](np.linspace(0.30, 1.0, len(ends)))
    labels = [f"≤ {ends[0]:,} km", *(f"≤ {end:,}" for end in ends[1:-1]), f"> {RADII_KM[-1]:,} km"]
    colours = ["#" + "".join(f"{round(255 * part):02x}" for part in shade[:3]) for shade in shades]
    return list(zip(ends, colours, labels, strict=True))


def picture_of_run(
    path: str | Path,
    *,
    latitude: ArrayLike,
    longitude: ArrayLike,
    true_latitude: ArrayLike,
    true_longitude: ArrayLike,
    distances: Mapping[str, ArrayLike],
    background: ArrayLike | None = None,
    title: str = "",
    note: str = "",
) -> None:
    """Draws a PNG of 1600 pixels' width.

    Args:
        path: where to write it.
        latitude, longitude: chosen places `(N,)` in degrees, NaN where an image was not placed.
        true_latitude, true_longitude: where the images were taken `(N,)`.
        distances: kilometres `(N,)` between place and truth by choice, NaN without a place; the first is that of the
            places.
        background: the whole world `(H, W, 3)` uint8, plain equirectangular from 90° N and 180° W; without it, a graticule.
        title, note: one line each; the note is small and grey.

    Raises:
        ValueError: arrays of different lengths, or no choice.
    """
    places = [np.asarray(one, np.float64) for one in (latitude, longitude, true_latitude, true_longitude)]
    if not distances or len({*(one.shape for one in places), *(np.shape(one) for one in distances.values())}) != 1:
        raise ValueError("a picture needs places, truths and the distances of one choice at least, all of one length")
    figure = Figure(figsize=(12.8, 8.9), dpi=125, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.025, 0.965, title, fontsize=17, weight="bold", color=INK, va="center")
    figure.text(0.025, 0.930, note, fontsize=10.5, color=FAINT, va="center")
    draw_map(
        figure.add_axes((0.025, 0.365, 0.95, 0.5315)),
        latitude=places[0],
        longitude=places[1],
        true_latitude=places[2],
        true_longitude=places[3],
        error_km=np.asarray(next(iter(distances.values())), np.float64),
        background=background,
    )
    draw_curve(figure.add_axes((0.065, 0.062, 0.43, 0.245)), distances)
    draw_table(figure.add_axes((0.535, 0.035, 0.44, min(0.29, 0.055 * (len(distances) + 2)))), distances)
    figure.savefig(path, metadata={"Software": None})


def draw_map(
    axes: Axes,
    *,
    latitude: Floats,
    longitude: Floats,
    true_latitude: Floats,
    true_longitude: Floats,
    error_km: Floats,
    background: ArrayLike | None = None,
) -> None:
    """Places `(N,)` coloured by error, between 60° S and 80° N, with a line to the truth beyond 750 km."""
    axes.set_xlim(-180, 180)
    axes.set_ylim(SOUTH, NORTH)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor(tuple(_SEA))
    if background is None:
        axes.hlines(range(-60, 81, 20), -180, 180, color=tuple(_LAND), linewidth=0.8)
        axes.vlines(range(-180, 181, 30), SOUTH, NORTH, color=tuple(_LAND), linewidth=0.8)
    else:
        axes.imshow(_subdued(background), extent=(-180, 180, -90, 90), aspect="auto", interpolation="bilinear")
        axes.set_xlim(-180, 180)
        axes.set_ylim(SOUTH, NORTH)
    shown = _thinned(np.flatnonzero(~np.isnan(error_km)))
    crowd = np.clip(700 / max(shown.size, 1), 0.35, 1.0) ** 0.5
    lower = -1.0
    for number, (upper, colour, label) in enumerate(error_classes()):
        these = shown[(error_km[shown] > lower) & (error_km[shown] <= upper)]
        lower = upper
        size = (10 + 5.0 * number) * crowd
        if number >= 4:
            ends = (latitude[these], longitude[these], true_latitude[these], true_longitude[these])
            axes.add_collection(LineCollection(_great_circles(*ends), colors=colour, linewidths=0.7, alpha=0.5, zorder=3))
            axes.scatter(ends[3], ends[2], s=9, facecolors="none", edgecolors=colour, linewidths=0.7, zorder=3)
        style: dict[str, Any] = {"color": colour, "linewidths": 0.35, "edgecolors": "#0b0f18", "zorder": 3 + number / 10}
        axes.scatter(longitude[these], latitude[these], s=size, **style)
        _legend_entry(axes, number, label, size=16 + 5 * number, colour=colour)
    axes.text(-176.5, SOUTH + 30, "place, by its error", color="#e8ebf1", fontsize=9.5, va="center", zorder=6)


def _legend_entry(axes: Axes, number: int, label: str, *, size: float, colour: str) -> None:
    y = SOUTH + 25 - 4.3 * number
    axes.scatter([-174.5], [y], s=size, color=colour, linewidths=0.35, edgecolors="#0b0f18", zorder=6)
    axes.text(-171, y, label, color="#e8ebf1", fontsize=9, va="center", zorder=6)


def _subdued(background: ArrayLike) -> NDArray[np.float32]:
    """The background's light and shade in two dark colours, thinned to some 1800 columns."""
    world = np.asarray(background)
    step = max(1, world.shape[1] // 1800)
    picture = world[::step, ::step].astype(np.float32) / 255
    light = picture @ np.array([0.35, 0.5, 0.15], np.float32)
    # Sea is where blue leads; sea floor and clouds of Blue Marble's ocean stay below this.
    sea = np.clip((picture[..., 2] - picture[..., 0]) * 8, 0, 1)[..., None]
    tone = 0.55 + 0.75 * light[..., None]
    return np.clip((sea * _SEA + (1 - sea) * _LAND * 1.25) * tone * 1.15, 0, 1).astype(np.float32)


def _thinned(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    if rows.size <= SHOWN:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, SHOWN, replace=False))


def _great_circles(lat1: Floats, lon1: Floats, lat2: Floats, lon2: Floats, steps: int = 48) -> list[Floats]:
    """Lines `(steps, 2)` of longitude and latitude between pairs of points, cut in two where they leave the map's rim."""
    start, end = unit_vectors(lat1, lon1), unit_vectors(lat2, lon2)
    cosine = np.sum(start * end, axis=-1, keepdims=True)
    across = end - cosine * start
    sine = np.linalg.norm(across, axis=-1, keepdims=True)
    # At the antipode any great circle is right; this picks one.
    axis = np.eye(3)[np.argmin(np.abs(start), axis=-1)]
    across = np.where(sine < 1e-9, np.cross(start, axis), across)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    turn = (np.linspace(0, 1, steps) * np.arctan2(sine, cosine))[..., None]
    along = np.cos(turn) * start[:, None] + np.sin(turn) * across[:, None]
    latitude, longitude = lat_lon(along)
    lines = []
    for one in np.stack([longitude, latitude], axis=-1):
        cuts = np.flatnonzero(np.abs(np.diff(one[:, 0])) > 180) + 1
        lines += [piece for piece in np.split(one, cuts) if len(piece) > 1]
    return lines
