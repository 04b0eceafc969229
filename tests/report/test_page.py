"""A page in a real Chromium that reaches nothing but the page itself: what it draws, what a click, a filter and a key do.

One browser for all of them. The pages are made by `made.page`: 60 images to be handled, 100,000 to be held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from geobatch.report.page import Page, Run, document
from tests.report.browser import Browser
from tests.report.hands import change, clean, needs_browser, shown
from tests.report.made import HARM, page

COUNT = 60


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(document(page(COUNT)))
    return path


@pytest.fixture
def opened(browser: Browser, written: Path) -> Iterator[Browser]:
    """The page afresh; afterwards nothing was said on the console, nothing was asked for, no name did harm."""
    browser.size(1440, 900)
    browser.open(written)
    yield browser
    clean(browser)


def colours(path: Path, box: tuple[int, int, int, int] | None = None) -> int:
    with Image.open(path) as image:
        whole = image.convert("RGB")
        return len((whole.crop(box) if box else whole).getcolors(1 << 24))


def test_a_page_is_the_same_twice_and_names_no_address() -> None:
    one = page(12)
    assert document(one) == document(one)
    text = document(one).decode()
    assert "@" + "SCRIPT@" not in text and "connect-src" not in text and "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^\s\"'`<>)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace: nobody asks for it
    assert not any(name in text for name in HARM[:2])


def test_runs_must_fit_the_images() -> None:
    one = page(12)
    with pytest.raises(ValueError, match="as many rows"):
        document(Page(title="", note="", images=one.images.slice(1), runs=one.runs))
    with pytest.raises(ValueError, match="a run at least"):
        document(Page(title="", note="", images=one.images, runs=[]))


@needs_browser
def test_it_draws_itself_without_a_word(opened: Browser, tmp_path: Path) -> None:
    assert opened.run("document.getElementById('title').textContent") == page(1).title
    assert shown(opened) == f"{COUNT} images"
    tiles = opened.run("[...document.querySelectorAll('#tiles dt')].map((each) => each.textContent)")
    assert tiles[:3] == ["images", "placed", "rejected"] and tiles[-1] == "images a second"
    assert opened.run("document.querySelectorAll('#rejections details').length") == 1
    assert "Half leave the truth" in opened.run("document.getElementById('findings').textContent")
    assert "0.12 USD" in opened.run("document.getElementById('account').textContent")
    assert opened.run("document.querySelectorAll('#figures svg').length") == 2
    opened.picture(tmp_path / "light.png")
    # Land, sea, lines and dots in several colours: no blank map.
    assert colours(tmp_path / "light.png", (280, 180, 1080, 860)) > 200
    opened.run("document.getElementById('theme').click()")
    opened.picture(tmp_path / "dark.png")
    with Image.open(tmp_path / "light.png") as light, Image.open(tmp_path / "dark.png") as dark:
        assert np.mean(np.asarray(light.convert("L"))) > 200 and np.mean(np.asarray(dark.convert("L"))) < 80


@needs_browser
def test_a_click_on_a_point_shows_its_image(opened: Browser, tmp_path: Path) -> None:
    # The row whose dot stands farthest from every other, among those with a picture.
    row = opened.run(
        "(() => { const at = (row) => [nearX(map.points.x[row]), screenY(map.points.y[row])];"
        " const apart = (row) => Math.min(...map.rows.filter((other) => other !== row)"
        ".map((other) => Math.hypot(at(other)[0] - at(row)[0], at(other)[1] - at(row)[1])));"
        " return map.rows.filter((row) => pictures[row]).sort((a, b) => apart(b) - apart(a))[0]; })()"
    )
    x, y = opened.run(
        f"(() => {{ const box = document.getElementById('map').getBoundingClientRect();"
        f" return [box.left + nearX(map.points.x[{row}]), box.top + screenY(map.points.y[{row}])]; }})()"
    )
    opened.click(x, y)
    opened.settle(f"state.chosen === {row}")
    assert opened.settle("document.querySelector('#detail img')?.naturalWidth") == 48
    detail = opened.run("document.getElementById('detail').textContent")
    assert page(COUNT).images["image_id"][row].as_py() in detail or page(COUNT).images["uri"][row].as_py() in detail
    assert "S2" in detail and "within 25 km" in detail
    # What else can be drawn for it changes the map: its cells, the gallery's density.
    opened.picture(tmp_path / "plain.png")
    for name in ("areas", "gallery"):
        opened.run(f"document.getElementById('{name}').click()")
        opened.picture(tmp_path / f"{name}.png")
    whole = [(tmp_path / f"{name}.png").read_bytes() for name in ("plain", "areas", "gallery")]
    assert len(set(whole)) == 3
    # And into the sea: nothing is chosen any more.
    opened.run("(map.rows = [], 1)")
    opened.click(x, y)
    opened.settle("state.chosen === -1")
    assert "No image chosen" in opened.run("document.getElementById('detail').textContent")


@needs_browser
def test_filters_change_the_counts(opened: Browser) -> None:
    error = np.array(page(COUNT).runs[0].places["error_km"].to_pylist(), np.float64)
    change(opened, "error-low", 200)
    assert shown(opened) == f"{int(np.sum(error >= 200))} of {COUNT}"
    change(opened, "error-high", 500)
    assert shown(opened) == f"{int(np.sum((error >= 200) & (error <= 500)))} of {COUNT}"
    opened.run("document.getElementById('clear').click()")
    assert shown(opened) == f"{COUNT} images"
    change(opened, "country", opened.run("images.countries.indexOf('Norway')"))
    assert shown(opened) == f"{COUNT // 3} of {COUNT}"
    change(opened, "country", 0)
    change(opened, "status", 2)
    assert shown(opened) == f"3 of {COUNT}"
    change(opened, "status", 0)
    change(opened, "reason", 1)
    assert shown(opened) == f"3 of {COUNT}"
    change(opened, "reason", 0)
    sure = page(COUNT).runs[0].places["probability_200km"].to_pylist()
    change(opened, "sure-low", 40)
    about = sum(one is not None and one >= 0.4 for one in sure)
    assert abs(int(shown(opened).split()[0]) - about) <= 1  # probabilities travel in 254 steps
    change(opened, "sure-low", "")
    change(opened, "name", "</script>")
    assert shown(opened) == f"1 of {COUNT}"
    change(opened, "name", "no such name")
    assert shown(opened) == f"0 of {COUNT}"
    assert "No image passes" in opened.run("document.getElementById('list').textContent")
    change(opened, "name", "")
    legend = "[...document.querySelectorAll('#legend button')]"
    far = int(np.sum(error <= 1))
    assert opened.run(f"{legend}[0].querySelector('span:last-child').textContent") == str(far)
    opened.run(f"{legend}[0].click()")
    assert shown(opened) == f"{COUNT - far} of {COUNT}"
    # Those without a place are a class of their own, left out and shown as the others are.
    assert opened.run(f"{legend}.at(-1).textContent") == "not placed3"
    opened.run(f"{legend}.at(-1).click()")
    assert shown(opened) == f"{COUNT - 3 - far} of {COUNT}"
    opened.run(f"{legend}.at(-1).click()")
    assert shown(opened) == f"{COUNT - far} of {COUNT}"


@needs_browser
def test_a_keyboard_is_enough(opened: Browser) -> None:
    opened.run("document.getElementById('map').focus()")
    before = opened.run("[map.x, map.y, map.k]")
    opened.key("Plus", "+")
    opened.settle(f"map.k > {before[2]} * 1.5")
    opened.key("Right")
    opened.settle(f"map.x > {before[0]}")
    opened.key("Up")
    opened.settle(f"map.y < {before[1]}")
    opened.key("0", "0")
    opened.settle(f"Math.abs(map.k - {before[2]}) < 1")
    opened.key("N", "n")
    worst = int(np.nanargmax(np.array(page(COUNT).runs[0].places["error_km"].to_pylist(), np.float64)))
    opened.settle(f"state.chosen === {worst}")
    opened.key("N", "n")
    opened.settle(f"state.chosen !== {worst}")
    opened.key("P", "p")
    opened.settle(f"state.chosen === {worst}")
    opened.key("Escape")
    opened.settle("state.chosen === -1")
    # The list is reached by tabs and walked by arrows, and each of its images is a button.
    opened.run("document.querySelector('#list button').focus()")
    opened.key("Down")
    opened.settle("document.activeElement === document.querySelectorAll('#list button')[1]")
    opened.key("Return", "\r")
    opened.settle("String(state.chosen) === document.activeElement.dataset.row")
    unnamed = opened.run(
        "[...document.querySelectorAll('button, select, input, canvas, [tabindex]')].filter((one) => !one.closest('[hidden]')"
        " && !(one.getAttribute('aria-label') || one.textContent.trim() || one.closest('label') || one.id === 'detail'))"
        ".map((one) => one.outerHTML)"
    )
    assert unnamed == []


@needs_browser
def test_the_map_stays_on_the_world(opened: Browser) -> None:
    for _ in range(6):
        opened.run("(zoom(0.2), paint(), 1)")
    assert opened.run("map.k >= Math.max(map.width, map.height) - 1")
    opened.run("(map.x = 7.3, map.y = -3, paint(), 1)")
    assert opened.run("map.x >= 0 && map.x < 1 && map.y > 0")
    opened.run("(zoom(1e9), paint(), 1)")
    assert opened.run("map.k") == 2**24
    # One round of the world to the east, every image is still there once.
    opened.run("(home(), paint(), 1)")
    for shift in (0.0, 0.25, 0.5, 0.99):
        opened.run(f"(map.x = {shift}, paint(), 1)")
        assert opened.run("map.shown") == COUNT - 3


@needs_browser
def test_geometry_of_the_script_is_that_of_the_library(opened: Browser) -> None:
    """S2 outlines, great circles and levels, against numpy's."""
    from geobatch.geo import s2
    from geobatch.geo.cell import parents
    from geobatch.geo.point import unit_vectors

    rng = np.random.default_rng(3)
    latitude, longitude = rng.uniform(-70, 70, 12), rng.uniform(-179, 179, 12)
    for level in (1, 5, 12, 20):
        ids = s2.cell_ids(latitude, longitude, level)
        centre_latitude, centre_longitude = s2.centres(ids)
        for cell, north, east in zip(ids.tolist(), centre_latitude, centre_longitude, strict=True):
            outline = opened.run(f"cellOutline({cell}n).map(([x, y]) => [latitudeOf(y), (x - 0.5) * 360])")
            corners = unit_vectors(*np.array(outline[:-1]).T)
            middle = corners.mean(axis=0)
            middle /= np.linalg.norm(middle)
            # The corners surround the centre: of cells this size their mean is near it.
            width = np.linalg.norm(corners[0] - corners[len(corners) // 2])
            assert np.linalg.norm(middle - unit_vectors(north, east)) < 0.2 * width
            back = s2.cell_ids(*np.degrees([np.arcsin(middle[2]), np.arctan2(middle[1], middle[0])]), level)
            assert int(back) == cell
            assert opened.run(f"[levelOf({cell}n), tokenOf({cell}n)]") == [level, s2.cell_tokens([cell])[0]]
            above = int(parents([cell], level // 2)[0])
            assert opened.run(f"String(parentOf({cell}n, {level // 2}))") == str(above)
    line = opened.run("greatCircle(40, 170, 50, -150).map(([x, y]) => [latitudeOf(y), (x - 0.5) * 360])")
    assert line[-1][1] == pytest.approx(210) and all(b[1] > a[1] for a, b in pairwise(line))
    along = unit_vectors(*np.array(line).T)
    normal = np.cross(along[0], along[-1])
    assert np.abs(along @ normal).max() < 1e-6  # all in one plane through the Earth's centre


@needs_browser
def test_runs_are_compared(browser: Browser, tmp_path: Path) -> None:
    both = page(COUNT, runs=2)
    (tmp_path / "both.html").write_bytes(document(both))
    browser.open(tmp_path / "both.html")
    one, two = (np.array(run.places["error_km"].to_pylist(), np.float64) for run in both.runs)
    with np.errstate(invalid="ignore"):
        nearer, farther = int(np.sum(two < one - 1)), int(np.sum(two > one + 1))
    same = COUNT - nearer - farther
    text = browser.run("document.getElementById('figures').textContent")
    assert f"run <2> is nearer than run <1> on {nearer} images, farther on {farther}, the same (1 km) on {same}." in text
    assert "on this page" not in text
    assert browser.run("document.querySelectorAll('#figures tbody tr').length") == 2
    assert browser.run("document.querySelectorAll('#figures td.best').length") >= 5 and "of different numbers" not in text
    assert browser.run("colourings().change.rest") == "placed by neither"
    half = int(np.nansum(two <= one / 2))
    assert browser.run("document.querySelector('#legend button span:last-child').textContent") == str(half)
    change(browser, "run", 1)
    median = browser.run("[...document.querySelectorAll('#tiles dd')].map((each) => each.textContent)")[5]
    assert float(median.split()[0].replace(",", "")) == pytest.approx(float(np.nanmedian(two)), rel=0.01)
    clean(browser)


@needs_browser
def test_what_is_counted_of_a_part_of_the_images_says_so(browser: Browser, tmp_path: Path) -> None:
    both = page(COUNT, runs=2)
    lacks = np.arange(COUNT) == 0
    status = pa.array(both.runs[1].places["status"].to_pylist(), mask=lacks)
    error = np.array(both.runs[1].places["error_km"].to_pylist(), np.float64)
    was = np.array(both.runs[0].places["error_km"].to_pylist(), np.float64)
    was[1] = error[1] = 0
    error[2] = was[2] + 0.9
    runs = [
        replace(run, places=with_column(run.places, "error_km", pa.array(km)), totals={**run.totals, "images": 5000})
        for run, km in zip(both.runs, (was, error), strict=True)
    ]
    runs[1] = replace(runs[1], places=with_column(runs[1].places, "status", status))
    runs[0] = replace(runs[0], choices=[{"name": "chosen", "shares": {}, "images": 4321}, {"name": "judge", "shares": {}}])
    (tmp_path / "part.html").write_bytes(document(replace(both, runs=runs)))
    browser.open(tmp_path / "part.html")
    text = browser.run("document.getElementById('figures').textContent")
    held = ~lacks
    with np.errstate(invalid="ignore"):
        nearer, farther = int(np.sum((error < was - 1)[held])), int(np.sum((error > was + 1)[held]))
    part = f"of the {COUNT} images on this page, ends and a draw of 5,000"
    same = f"the same (1 km) on {COUNT - 1 - nearer - farther}, {part}; 1 that it does not hold are left out."
    assert f"on {nearer} images, farther on {farther}, {same}" in text
    assert f"Counted are the {COUNT} images on this page" in browser.run("document.getElementById('doubt').textContent")
    change(browser, "status", 1)
    assert f"filtered, {part}" in browser.run("document.getElementById('curve').textContent")
    cells = browser.run("[...document.querySelectorAll('#figures tbody tr td:last-child')].map((each) => each.textContent)")
    assert cells == ["4,321", "–", str(COUNT)]
    # Shares of different numbers of images have no best, and an image that a run was never asked about did not lose its place.
    assert browser.run("document.querySelectorAll('#figures td.best').length") == 0
    assert "Rows of different numbers of images are not of the same ones" in text
    change(browser, "run", 1)
    assert browser.run("colourings().change.of()(0)") == -1
    assert browser.run("colourings().change.rest") == "placed by neither, or not in the later run"
    # Both at no distance from the truth are as far as each other.
    assert browser.run("colourings().change.of()(1)") == 1
    clean(browser)


def with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


@needs_browser
def test_an_image_without_a_picture_shows_its_name_and_address(opened: Browser) -> None:
    """Among others that have one: on its card in the list, and beside the map once it is chosen."""
    row = 20
    images = page(COUNT).images
    assert opened.run(f"Object.keys(pictures).length === 8 && !pictures[{row}]")
    name, address = images["image_id"][row].as_py(), images["uri"][row].as_py()
    change(opened, "name", name.rpartition("#")[2])
    card = "document.querySelector('#list button')"
    assert name.rpartition("#")[2] in opened.run(f"{card}.textContent")
    assert opened.run(f"[{card}.querySelector('b').title, {card}.querySelector('img'), !!{card}.querySelector('.none')]") == [
        name,
        None,
        True,
    ]
    opened.run(f"{card}.click()")
    detail = "document.getElementById('detail')"
    assert opened.run(f"[...{detail}.querySelectorAll('.uri')].map((one) => one.textContent)") == [name, address]
    assert opened.run(f"{detail}.querySelector('h2').textContent") == name.rpartition("#")[2]
    assert "it carries those of 8 images" in opened.run(f"{detail}.querySelector('.nopicture').textContent")
    assert opened.run(f"{detail}.querySelector('img')") is None


@needs_browser
def test_warnings_and_missing_images_stand_beside_the_figures(browser: Browser, tmp_path: Path) -> None:
    one = page(COUNT)
    choices = [{"name": "chosen", "shares": {"1": 0.1, "25": 0.2}, "images": 1234}]
    (tmp_path / "page.html").write_bytes(
        document(replace(one, runs=[replace(one.runs[0], choices=choices, lacking=1174)], warnings=["of <b>another</b> table"]))
    )
    browser.open(tmp_path / "page.html")
    assert browser.run("document.querySelector('#warnings .warning').textContent") == "of <b>another</b> table"
    figures = browser.run("document.getElementById('figures').textContent")
    assert "Missing counted: 1,174 images that the table lacks count as wrong in this table, not in the tiles" in figures
    assert "within 25 km, of those in the table" in browser.run("document.getElementById('tiles').textContent")
    clean(browser)
    (tmp_path / "page.html").write_bytes(document(one))
    browser.open(tmp_path / "page.html")
    assert browser.run("document.querySelector('#warnings').children.length") == 0
    assert "issing counted" not in browser.run("document.body.textContent.replace(/use strict[^]*/, '')")
    clean(browser)


@needs_browser
def test_without_truth_it_is_coloured_by_confidence(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(document(page(COUNT, with_truth=False, pictures=0)))
    browser.open(tmp_path / "page.html")
    assert browser.run("state.colour") == "sure"
    assert browser.run("document.getElementById('error-set').hidden && document.getElementById('draw').hidden")
    assert "--truth" in browser.run("document.getElementById('figures').textContent")
    browser.run("(choose(0, true), 1)")
    assert "no pictures" in browser.run("document.getElementById('detail').textContent")
    clean(browser)


@needs_browser
@pytest.mark.parametrize("kind", ["empty", "rejected"])
def test_pages_with_nothing_to_draw(browser: Browser, tmp_path: Path, kind: str) -> None:
    if kind == "empty":
        schema = page(1).runs[0].places.schema
        rows = schema.empty_table()
        images = page(1).images.schema.empty_table()
        made = Page(title="nothing", note="", images=images, runs=[Run(name="a", places=rows, totals=zeros())])
    else:
        made = page(5, rejected=5, pictures=0)
    (tmp_path / "page.html").write_bytes(document(made))
    browser.open(tmp_path / "page.html")
    assert shown(browser) == ("0 images" if kind == "empty" else "5 images")
    browser.run("(step(1), step(1), 1)")
    clean(browser)


@needs_browser
def test_a_damaged_page_says_so(browser: Browser, tmp_path: Path) -> None:
    whole = document(page(3)).decode()
    (tmp_path / "page.html").write_text(whole.replace('id="data">H4sI', 'id="data">AAAA'))
    browser.open(tmp_path / "page.html", ready=False)
    assert browser.settle("!document.getElementById('trouble').hidden")
    assert "could not be drawn" in browser.run("document.getElementById('trouble').textContent")
    assert browser.console() and browser.refused() == []


@needs_browser
def test_a_name_can_start_no_script_and_no_request(browser: Browser, tmp_path: Path) -> None:
    """Even if markup got in, the page's own policy stops it: here it is put in by hand."""
    harm = (
        '<script>window.harm = 4</script><img src="https://example.com/x.png" onerror="window.harm = 5">'
        '<link rel="stylesheet" href="https://example.com/x.css">'
    )
    (tmp_path / "page.html").write_bytes(document(page(3)).replace(b"<noscript>", harm.encode() + b"<noscript>"))
    browser.open(tmp_path / "page.html")
    assert browser.run("window.harm") is None and browser.refused() == []
    assert any("Content Security Policy" in said for said in browser.console())
    # And without it the browser of these tests would have noticed.
    (tmp_path / "page.html").write_text(harm)
    browser.open(tmp_path / "page.html", ready=False)
    browser.settle("window.harm === 5")
    assert set(browser.refused()) == {"https://example.com/x.png", "https://example.com/x.css"}


def zeros() -> dict[str, object]:
    return {"images": 0, "placed": 0, "rejected": 0, "reasons": [], "judged": 0}


@needs_browser
def test_a_hundred_thousand_images(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_bytes(document(page(100_000)))
    assert path.stat().st_size < 10e6
    seconds = browser.open(path)
    assert seconds < 30  # 1.5 s on a quiet machine
    assert shown(browser) == "100,000 images"
    assert browser.run("map.gathered && map.discs.reduce((sum, bin) => sum + bin.n, 0)") == browser.run("map.shown")
    spent = browser.run("(() => { const from = performance.now(); paint(); return performance.now() - from; })()")
    assert spent < 1000  # 25 ms
    browser.run("(zoom(64), paint(), 1)")
    assert not browser.run("map.gathered")
    clean(browser)


def test_columns_may_be_missing() -> None:
    """A table of an older version: no probabilities, no areas."""
    old = page(5)
    rows = old.runs[0].places.select(["status", "stage", "reason", "detail", "latitude", "longitude", "error_km"])
    document(Page(title="", note="", images=old.images, runs=[Run(name="a", places=rows, totals=zeros())]))
    assert isinstance(rows, pa.Table)
