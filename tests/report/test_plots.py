"""Curves and tables: what is drawn equals what was counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from geobatch.report import plots
from geobatch.report.plots import (
    FARTHEST_KM,
    NEAREST_KM,
    cumulative,
    draw_curve,
    draw_reliability,
    draw_table,
    picture_of_comparison,
    picture_of_reliability,
    styles,
)


def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_the_curve_counts_every_image() -> None:
    km, share = cumulative([30.0, np.nan, 1.0, 30.0])
    assert km.tolist() == [1, 30, 30] and share.tolist() == [0.25, 0.5, 0.75]
    assert cumulative([])[0].size == 0


def test_lines_pass_through_the_shares() -> None:
    rng = np.random.default_rng(0)
    km = np.where(rng.random(500) < 0.1, np.nan, rng.lognormal(3, 2, 500))
    here = axes()
    draw_curve(here, {"chosen": km, "oracle": km / 2, "lost": [np.nan], "none": []})
    lines = {line.get_color(): line for line in here.get_lines() if len(line.get_xdata()) > 2}
    line = lines[styles(["chosen"])["chosen"]["color"]]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert (x[0], x[-1]) == (NEAREST_KM, FARTHEST_KM) and np.all(np.diff(x) >= 0) and np.all(np.diff(y) >= 0)
    for radius in (NEAREST_KM, 1, 25, 200, 20_000):
        drawn = y[np.searchsorted(x, radius, side="right") - 1]
        assert drawn == pytest.approx(100 * np.mean(km <= radius))
    here.figure.canvas.draw()


def test_oracles_are_grey_and_broken_and_choices_are_not() -> None:
    found = styles(["a", "oracle of the samples", "b", "oracle of the pool"])
    assert found["a"]["color"] != found["b"]["color"] and found["a"]["linestyle"] == found["b"]["linestyle"] == "-"
    assert found["oracle of the samples"]["color"] == found["oracle of the pool"]["color"]
    assert found["oracle of the samples"]["linestyle"] != found["oracle of the pool"]["linestyle"] != "-"
    assert len(styles([str(at) for at in range(20)])) == 20


def test_the_table_holds_the_shares_and_marks_the_best() -> None:
    here = axes()
    draw_table(here, {"ours": [0.5, 20.0, 900.0], "theirs": [10.0, 100.0, np.nan], "oracle": [0.1, 0.1, 0.1]})
    texts = [(text.get_text(), text.get_weight()) for text in here.texts]
    cells = texts[texts.index(("ours", "normal")) + 1 :][:5]
    assert cells == [("33.3", "bold"), ("66.7", "bold"), ("66.7", "bold"), ("66.7", "bold"), ("100.0", "bold")]
    cells = texts[texts.index(("theirs", "normal")) + 1 :][:5]
    assert cells == [("0.0", "normal"), ("33.3", "normal"), ("66.7", "bold"), ("66.7", "bold"), ("66.7", "normal")]
    cells = texts[texts.index(("oracle", "normal")) + 1 :][:5]
    assert cells == [("100.0", "normal")] * 5
    here.figure.canvas.draw()


def test_reliability_has_its_points_and_the_diagonal(tmp_path: Path) -> None:
    here = axes()
    points = {"within 25 km": ([0.1, 0.9], [0.2, 0.8], [10, 90]), "within 200 km": ([0.95], [0.97], [100])}
    draw_reliability(here, points)
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in here.get_lines()}
    assert drawn["within 25 km"] == ([10, 90], [20, 80]) and drawn["within 200 km"] == ([95], [97])
    assert any(xs == ys == [0, 100] for xs, ys in drawn.values())
    sizes = here.collections[0].get_sizes()
    assert (sizes[1] - 12) / (sizes[0] - 12) == pytest.approx(9)
    picture_of_reliability(tmp_path / "reliability.png", points, "2 images")
    assert imread(tmp_path / "reliability.png").shape[:2] == (825, 800)
    picture_of_reliability(tmp_path / "nothing.png", {})


def test_systems_stand_in_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(plots, "draw_curve", lambda _, distances: seen.extend(distances))
    long = "s3://a-bucket/with/a/long/way/down/to/located"
    picture_of_comparison(
        tmp_path / "two.png", {long: [0.5, 900.0], f"{long}s": [10.0, np.nan], "mine": [1.0, 2.0]}, "2 images"
    )
    assert imread(tmp_path / "two.png").shape[:2] == (450, 1600)
    # Long names keep their ends and are never one.
    assert seen == [f"1: …{long[-29:]}", f"2: …{long[-28:]}s", "mine"] and all(len(name) <= plots.NAME for name in seen)
