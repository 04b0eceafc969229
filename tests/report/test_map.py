"""The picture of a run: every place in its class, lines that follow great circles, a PNG that opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from geobatch.geo.distance import haversine_km
from geobatch.report import map as world
from geobatch.schema import RADII_KM


def run(count: int) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    true_latitude, true_longitude = rng.uniform(-55, 75, count), rng.uniform(-180, 180, count)
    spread = 10.0 ** rng.uniform(-3, 1.5, count)
    latitude = np.clip(true_latitude + spread, -90, 90)
    latitude[::10] = np.nan
    return {
        "latitude": latitude,
        "longitude": true_longitude.copy(),
        "true_latitude": true_latitude,
        "true_longitude": true_longitude,
    }


def error(places: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return haversine_km(*(places[name] for name in ("latitude", "longitude", "true_latitude", "true_longitude")))


def test_a_png_that_opens(tmp_path: Path) -> None:
    places = run(300)
    km = error(places)
    background = np.zeros((90, 180, 3), np.uint8)
    for name, earth in (("plain", None), ("earth", background)):
        path = tmp_path / f"{name}.png"
        world.picture_of_run(path, **places, distances={"chosen": km, "oracle": km / 3}, background=earth, title=name)
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (1600, 1112))
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "earth.png").read_bytes()


def test_every_place_stands_in_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    places = run(500)
    km = error(places)
    km[1:4] = (25.0, 25.5, 2500.5)
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    world.draw_map(axes, **places, error_km=km)
    dots = [
        ((round(float(x), 9), round(float(y), 9)), tuple(each.get_facecolor()[0]))
        for each in axes.collections
        if each.get_facecolor().size
        for x, y in np.asarray(each.get_offsets())
    ]
    drawn = dict(dots)
    palette = [colour for _, colour, _ in world.error_classes()]
    for at in np.flatnonzero(~np.isnan(km)):
        colour = drawn[round(places["longitude"][at], 9), round(places["latitude"][at], 9)]
        shade = "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
        assert palette.index(shade) == int(np.searchsorted(RADII_KM, km[at]))
    placed = int(np.sum(~np.isnan(km)))
    assert len(dots) == placed + len(palette)  # and the legend's
    monkeypatch.setattr(world, "SHOWN", 50)
    assert len(world._thinned(np.arange(placed))) == 50


def test_great_circles_start_and_end_and_stay_on_the_sphere() -> None:
    (line,) = world._great_circles(*(np.array([x]) for x in (10.0, 20.0, 50.0, 100.0)))
    assert line[0] == pytest.approx([20, 10]) and line[-1] == pytest.approx([100, 50])
    steps = haversine_km(line[:-1, 1], line[:-1, 0], line[1:, 1], line[1:, 0])
    assert steps.sum() == pytest.approx(float(haversine_km(10, 20, 50, 100)), rel=1e-9)
    assert steps.max() - steps.min() < 1e-6


def test_great_circles_are_cut_at_the_rim() -> None:
    pieces = world._great_circles(*(np.array([x]) for x in (10.0, 170.0, -10.0, -170.0)))
    assert len(pieces) == 2
    assert all(np.abs(np.diff(piece[:, 0])).max() < 2 for piece in pieces)
    for latitude, longitude in ((0.0, 180.0), (0.0, 0.0)):
        lines = world._great_circles(np.array([0.0]), np.array([0.0]), np.array([latitude]), np.array([longitude]))
        assert all(np.isfinite(line).all() for line in lines)


def test_unequal_lengths_and_no_choice_are_refused(tmp_path: Path) -> None:
    places = run(10)
    for distances in ({}, {"chosen": np.zeros(9)}):
        with pytest.raises(ValueError, match="all of one length"):
            world.picture_of_run(tmp_path / "x.png", **places, distances=distances)
    assert not (tmp_path / "x.png").exists()


def test_nothing_placed_is_still_a_picture(tmp_path: Path) -> None:
    places = run(20)
    places["latitude"][:] = np.nan
    world.picture_of_run(tmp_path / "x.png", **places, distances={"chosen": np.full(20, np.nan)})
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_drawing_opens_no_window_and_keeps_no_state() -> None:
    code = "import sys, geobatch.report.map; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
