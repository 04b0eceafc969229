"""Every benchmark's truth is read in its true layout, its traps are named, and its archive's images find their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.benchmark.truth import load_truth, parse_truth
from geobatch.errors import UserError
from geobatch.store import Store
from tests.benchmark.layouts import LAYOUTS, geotext


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_in_its_true_layout(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = LAYOUTS[name]()
    (tmp_path / layout.file).write_bytes(layout.data)
    found = load_truth(Store(), str(tmp_path / layout.file))
    rows = found.match(list(layout.images))
    assert sorted(rows.tolist()) == list(range(len(layout.images))) == list(range(len(found.image_id)))
    assert list(zip(found.latitude[rows], found.longitude[rows], strict=True)) == list(layout.images.values())
    said = capsys.readouterr().out
    assert layout.note in said and len(found.notes) == bool(layout.note)
    assert said.count("\n") == len(found.notes)


def test_a_few_wild_latitudes_are_no_exchange() -> None:
    fine = "".join(f"{n},{n % 80},{n % 90}\n" for n in range(100))
    for lines in ("a,95,10\n", "a,95,10\nb,100,10\n", fine + "a,95,10\nb,95,20\nc,95,30\n"):
        with pytest.raises(UserError, match="which is nowhere; correct"):
            parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")
    both = "id,lat,lon\na,95,10\nb,95,20\nc,95,100\nd,95,30\n"  # a longitude beyond 90 as well: no exchange mends it
    with pytest.raises(UserError, match=r"row 1 of t.csv has latitude 95"):
        parse_truth(both.encode(), "t.csv")


def test_words_in_the_middle_are_no_second_table() -> None:
    for lines in ("a,1,2\nb,x1,y1\nc,3,4\n", "a,1,2\n\nb,x1,3\n", "a,1,2\n\nsome,other,words\n" + "c,1,2\n" * 6):
        with pytest.raises(UserError, match="is no latitude"):
            parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")


SUMMARIES = {
    "a,1,2\nb,3,4\n\nmean,41.2,8.1\n": "ends in 1 lines behind a blank one, from 'mean' on, that are no image's; left out",
    "a,1,2\r\nb,3,4\r\n\r\n0.5,0.6,0.7\r\n\r\n": "ends in 1 lines behind a blank one, from '0.5' on",
    "a,1,2\nb,3,4\n \t\nOverall:,n/a,8.1\n": "ends in 1 lines behind a blank one, from 'Overall:' on",
    "a,1,2\nb,3,4\n\nmean,1,2\nstd,3,4": "ends in 2 lines behind a blank one, from 'mean' on",
    "a,1,2\nb,3,4\nAverage,41.2,8.1\n": "the last row of t.csv is called 'Average', which no image is; it is left out",
}


@pytest.mark.parametrize("lines", SUMMARIES)
def test_a_summary_without_a_header_is_no_image(lines: str) -> None:
    found = parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")
    assert found.image_id == ("a", "b") and found.latitude.tolist() == [1, 3]
    assert len(found.notes) == 1 and SUMMARIES[lines] in found.notes[0]


@pytest.mark.parametrize(
    "lines",
    ["7,1,2\n\n8,3,4\n", "a,1,2\n\nb,3,4\n", "\n7,1,2\n", "mean,1,2\na,3,4\n", "all,1,2\na,3,4\nsum,5,6\n", "mean,1,2\n"],
)
def test_a_row_behind_a_blank_line_that_is_called_as_others_are_is_an_image(lines: str) -> None:
    found = parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")
    assert len(found.image_id) == sum(map(bool, lines.split("\n"))) and not found.notes


def test_annotations_of_other_forms() -> None:
    listed = b'[{"image_id": "a.png", "Latitude": 1.5, "lng": "2"}, {"image_id": "7,8_x.png", "Latitude": null, "lng": null}]'
    lines = b'{"image_id": "a.png", "Latitude": 1.5, "lng": 2}\n\n{"image_id": "7,8_x.png"}\n'
    mapped = b'{"a.png": {"latitude": 1.5, "longitude": 2}, "7,8_x.png": {"latitude": 7, "longitude": 8}}'
    for data, name in ((listed, "t.json"), (lines, "t.json"), (lines, "t.jsonl"), (mapped, "t.json")):
        found = parse_truth(data, name)
        assert (found.image_id, found.latitude.tolist()) == (("a.png", "7,8_x.png"), [1.5, 7])
        assert found.longitude.tolist() == [2, 8]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (geotext(), "GeoText-1652's buildings have none: judge those with evaluate_retrieval.py --benchmark geotext"),
        (b"[]", "no entry of t.json has a place"),
        (b'[{"caption": "x"}]', "name no image; give each a key 'image_id'"),
        (b'[{"id": "a", "lat": 1}]', "has no column for a longitude"),
        (b'[{"id": "a", "lat": "north", "lon": 2}]', "'north' is no latitude"),
        (b'["a text"]', "is no list of images and no mapping of them"),
        (b"{broken", "is no JSON"),
        (b"\xff", "is no JSON"),
    ],
)
def test_annotations_that_say_no_place_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_truth(data, "t.json")
