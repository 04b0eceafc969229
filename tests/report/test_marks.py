"""What the map paints, pixel by pixel: every place has a dot whether its truth is known or not, what is left out is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.geo.distance import haversine_km
from geobatch.geo.s2 import cell_ids, cell_tokens
from geobatch.report.page import Page, document
from tests.report.browser import Browser
from tests.report.hands import change, clean, needs_browser
from tests.report.made import page

COUNT = 60

#: `snap` paints and keeps a copy, `pixel` is the colour at a point of it, `far` how different two are in their worst channel.
SCRIPT = """(() => {
  window.rgb = (name) => [1, 3, 5].map((at) => parseInt(palette[name].slice(at, at + 2), 16));
  window.snap = () => {
    paint();
    const canvas = document.getElementById("map"), copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    window.snapped = copy.getImageData(0, 0, canvas.width, canvas.height);
    return true;
  };
  window.pixel = (x, y) => {
    const at = 4 * (Math.round(y * map.ratio) * snapped.width + Math.round(x * map.ratio));
    return [...snapped.data.slice(at, at + 3)];
  };
  window.far = (one, other) => Math.max(...one.map((value, at) => Math.abs(value - other[at])));
})()"""


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def partly(one: Page, known: np.ndarray) -> Page:
    """A page whose truth is known of some images alone, as EXIF has it."""
    images, places = one.images, one.runs[0].places
    for axis in ("latitude", "longitude"):
        images = with_column(images, axis, pa.array(images[axis].to_pylist(), mask=~known))
    error = np.where(known, places["error_km"].to_numpy(), np.nan)
    return replace(one, images=images, runs=[replace(one.runs[0], places=with_column(places, "error_km", pa.array(error)))])


def at(count: int, latitude: np.ndarray, longitude: np.ndarray, off: np.ndarray, area_level: int = 6) -> Page:
    """A page of places at given points, each `off` degrees east of its truth."""
    one = page(count, rejected=0, pictures=0)
    east = (longitude + off + 180) % 360 - 180
    places = one.runs[0].places
    for name, values in (
        ("latitude", pa.array(latitude)),
        ("longitude", pa.array(east)),
        ("error_km", pa.array(haversine_km(latitude, east, latitude, longitude))),
        ("area", pa.array(cell_tokens(cell_ids(latitude, east, area_level)))),
    ):
        places = with_column(places, name, values)
    images = with_column(with_column(one.images, "latitude", pa.array(latitude)), "longitude", pa.array(longitude))
    return replace(one, images=images, runs=[replace(one.runs[0], places=places)])


def opened(browser: Browser, path: Path, one: Page) -> None:
    path.write_bytes(document(one))
    browser.size(1440, 900)
    browser.open(path)
    browser.run(SCRIPT)


@needs_browser
def test_a_place_without_a_truth_has_its_dot(browser: Browser, tmp_path: Path) -> None:
    known = np.arange(COUNT) % 10 == 5
    opened(browser, tmp_path / "page.html", partly(page(COUNT), known))
    assert browser.run("state.colour") == "error"
    placed = COUNT - 3
    assert browser.run("(snap(), map.rows.length)") == placed
    marks = "[...Object.keys(colourings().error.names).map((at) => rgb(`c${at}`)), rgb('none')]"
    middle = "pixel(nearX(map.points.x[row]), screenY(map.points.y[row]))"
    painted = browser.run(f"map.rows.filter((row) => Math.min(...{marks}.map((one) => far({middle}, one))) < 8).length")
    assert painted >= placed - 4  # another's rim may lie on a dot's middle
    grey = browser.run(f"map.rows.filter((row) => far({middle}, rgb('none')) < 8).length")
    assert grey >= 0.8 * (placed - known.sum())
    # They are in the legend, and may be left out and looked at alone.
    legend = "[...document.querySelectorAll('#legend button')]"
    unknown = COUNT - int(known[: COUNT - 3].sum())
    assert browser.run(f"{legend}.at(-1).textContent") == f"truth not known, or not placed{unknown}"
    browser.run(f"{legend}.at(-1).click()")
    assert browser.run("(snap(), map.rows.length)") == known[: COUNT - 3].sum()
    # And there is a colouring that knows nothing of errors.
    assert "plain" in browser.run("[...document.getElementById('colour').options].map((one) => one.value)")
    change(browser, "colour", "plain")
    assert browser.run(f"(snap(), map.rows.filter((row) => far({middle}, rgb('plain')) < 8).length)") >= placed - 4
    clean(browser)


@needs_browser
def test_truths_of_images_without_a_place_are_drawn(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path / "page.html", page(COUNT))
    browser.run("[...document.querySelectorAll('#draw input')].find((one) => one.value === 'truths').click()")
    x, y = "nearX(images.projected.x[row])", "screenY(images.projected.y[row])"
    rows = [COUNT - 3, COUNT - 2, COUNT - 1]
    assert browser.run(f"(snap(), {rows}.filter((row) => far(pixel({x}, {y}), rgb('none')) < 8).length)") == 3
    browser.run("[...document.querySelectorAll('#draw input')].find((one) => one.value === 'both').click()")
    assert browser.run("(snap(), [map.rows.length, map.rings.length])") == [COUNT - 3, COUNT]
    ring = f"Math.min(...[-3, 0, 3].flatMap((a) => [-3, 0, 3].map((b) => far(pixel({x} + a, {y} + b), rgb('mark')))))"
    assert browser.run(f"{rows}.filter((row) => {ring} < 110).length") == 3
    assert browser.run("document.getElementById('said').textContent") == f"{COUNT - 3} places and {COUNT} truths in view"
    # A click finds them there.
    assert browser.run(f"{rows}.every((row) => under({x}, {y}).row === row)")
    clean(browser)


@needs_browser
def test_a_disc_shows_how_few_of_its_images_are_judged(browser: Browser, tmp_path: Path) -> None:
    count = 3000
    rng = np.random.default_rng(0)
    one = at(count, rng.uniform(10, 10.5, count), rng.uniform(20, 20.5, count), np.full(count, 0.1))
    opened(browser, tmp_path / "page.html", partly(one, np.arange(count) % 20 == 0))
    assert browser.run("(snap(), map.gathered)")
    largest = "[...map.discs].sort((a, b) => b.n - a.n)[0]"
    n, classed, mean = browser.run(f"[{largest}.n, {largest}.classed, {largest}.mean]")
    assert n > 50 and 0 < classed < 0.1 * n and mean == 1
    browser.run(f"(window.one = {largest}, 1)")
    assert browser.run("far(pixel(nearX(one.x), screenY(one.y)), rgb('c1'))") < 30
    assert browser.run("far(pixel(nearX(one.x) + 0.75 * one.radius, screenY(one.y)), rgb('none'))") < 30
    assert "the share that has one" in browser.run("document.getElementById('said').textContent")
    # Truths are said to be missing where places are gathered, and 180° E is 180° W.
    browser.run("[...document.querySelectorAll('#draw input')].find((one) => one.value === 'both').click()")
    said = browser.run("(snap(), document.getElementById('said').textContent)")
    assert said.startswith("3,000 images in view, gathered")
    assert "Zoom in for single ones, their lines and the 150 truths in view, which are not drawn." in said
    bins = browser.run("gather([0, 1], { x: [1, 0.0001], y: [0.4, 0.4] }, () => 0, 11).map((bin) => [bin.n, bin.x])")
    assert bins == [[2, pytest.approx(0.00005)]]
    clean(browser)


@needs_browser
def test_lines_are_as_long_as_the_eye_sees_them(browser: Browser, tmp_path: Path) -> None:
    """A line of 5 km is nothing on the world and all there is in a town."""
    off = np.array([0.05] * 5 + [20.0] * 5)
    opened(browser, tmp_path / "page.html", at(10, np.linspace(10, 30, 10), np.linspace(-60, 60, 10), off))
    assert sorted(browser.run("(snap(), map.lines)")) == [5, 6, 7, 8, 9]
    change(browser, "name", browser.run("images.ids[0]"))
    browser.run("(show(0), snap(), 1)")
    assert browser.run("map.lines") == [0]
    halfway = browser.run(
        "(() => { const [a, b] = [currentRun().projected, images.projected];"
        " const line = [0.3, 0.4, 0.5, 0.6, 0.7].map((t) => [nearX(a.x[0] * t + b.x[0] * (1 - t)), screenY(a.y[0])]);"
        " return Math.min(...line.flatMap(([x, y]) => [-1, 0, 1].map((by) => far(pixel(x, y + by), rgb('c1'))))); })()"
    )
    assert halfway < 110  # a thin line that lets the land shine through
    clean(browser)


@needs_browser
def test_lines_and_areas_that_are_left_out_are_said(browser: Browser, tmp_path: Path) -> None:
    count = 2400
    latitude, longitude = np.tile(np.linspace(-60, 60, 60), 40), np.repeat(np.linspace(-170, 170, 40), 60)
    opened(browser, tmp_path / "page.html", at(count, latitude, longitude, np.linspace(15, 30, count)))
    said = "document.getElementById('said').textContent"
    assert browser.run(f"(snap(), {said})") == "2,400 images in view. 1,500 of 2,400 lines are drawn, the longest."
    drawn = browser.run("map.lines.length")
    assert drawn == 1500
    browser.run("document.getElementById('lines').click()")
    assert browser.run(f"(snap(), {said})") == "2,400 images in view"
    browser.run("document.getElementById('areas').click()")
    areas = len(set(cell_tokens(cell_ids(latitude, (longitude + np.linspace(15, 30, count) + 180) % 360 - 180, 6))))
    assert areas > 800
    assert browser.run(f"(snap(), {said})") == (
        f"2,400 images in view. 800 of {areas:,} S2 areas are drawn; zoom in for the rest."
    )
    assert browser.run("map.cells.length") == 800
    clean(browser)


@needs_browser
def test_areas_have_the_colour_of_their_images(browser: Browser, tmp_path: Path) -> None:
    off = np.array([0.0, 90.0])
    opened(browser, tmp_path / "page.html", at(2, np.array([45.0, 45.0]), np.array([-40.0, -40.0]), off, area_level=3))
    browser.run("(document.getElementById('lines').click(), document.getElementById('areas').click(), snap(), 1)")
    assert browser.run("map.cells.map((one) => one.mean)") == [0, 5]  # the worst on top
    reddest = [
        browser.run(
            f"(() => {{ const line = cellOutline(map.cells[{number}].id), shift = shiftOf(line), seen = [];"
            " for (const [x, y] of line) for (const a of [-1, 0, 1]) for (const b of [-1, 0, 1])"
            "   if (!under(screenX(x + shift), screenY(y))) seen.push(pixel(screenX(x + shift) + a, screenY(y) + b));"
            " return Math.max(...seen.map(([red, , blue]) => red - blue)); })()"
        )
        for number in (0, 1)
    ]
    assert reddest[0] < 20 and reddest[1] > 40  # the land is yellowish
    change(browser, "colour", "sure")
    assert browser.run("(snap(), map.cells.every((one) => one.mean >= 0))")
    clean(browser)
