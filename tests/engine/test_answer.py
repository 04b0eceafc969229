"""Replies: every form read back at its place, which of several answers counts, and why a reply gives none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geobatch.engine.answer import Answer, Unparsed, parse
from geobatch.methods.geolocsft.forms import caption_text, tag
from tests.geo.places import POINTS
from tests.geo.written import PROSE, WRITTEN, Write, growth
from tests.methods.geolocsft.captions import CAPTIONS, caption


def _json(shape: str) -> Write:
    """`shape` with LAT and LON in it, and the numbers in their stead."""
    return lambda lat, lon: shape.replace("LAT", f"{lat:.5f}").replace("LON", f"{lon:.5f}")


FORMS: dict[str, tuple[Write, str]] = {
    "tag": (tag, "tag"),
    "tag, one line": (_json("<answer>lat: LAT, lon: LON</answer>"), "tag"),
    "tag, long names": (_json("<ANSWER>\nLatitude: LAT\nLongitude: LON\n</ANSWER>"), "tag"),
    "tag, longitude first": (_json("<answer>\nlon: LON\nlat: LAT\n</answer>"), "tag"),
    "tag, not closed": (_json("<answer>\nlat: LAT\nlon: LON\n"), "tag"),
    "tag around a pair": (_json("<answer>LAT, LON</answer>"), "tag"),
    "tag around hemispheres": (lambda lat, lon: f"<answer>{WRITTEN['primes'](lat, lon)}</answer>", "tag"),
    "tag around JSON": (_json('<answer>{"lat": LAT, "lng": LON}</answer>'), "tag"),
    "geo-caption": (lambda lat, lon: caption_text(caption(lat, lon), "json"), "json"),
    "outline": (lambda lat, lon: caption_text(caption(lat, lon), "tag"), "tag"),
    "flat": (_json('{"latitude": LAT, "longitude": LON}'), "json"),
    "flat, fenced": (_json('```json\n{\n  "lat": LAT,\n  "lng": LON\n}\n```'), "json"),
    "nested": (_json('{"answer": {"coordinates": {"latitude": LAT, "longitude": LON, "region": "x"}}}'), "json"),
    "array": (_json('{"coordinates": [LAT, LON]}'), "json"),
    "GeoJSON": (_json('{"type": "Point", "coordinates": [LON, LAT]}'), "json"),
    "GeoJSON feature": (_json('{"type": "Feature", "geometry": {"type": "Point", "coordinates": [LON, LAT]}}'), "json"),
    "strings": (_json('{"latitude": "LAT", "longitude": "LON"}'), "json"),
    "strings, degree signs": (_json('{"latitude": "LAT°", "longitude": "LON°"}'), "json"),
    "one string": (_json('{"location": "LAT, LON"}'), "json"),
    "hemispheres in strings": (
        lambda lat, lon: '{{"lat": "{}", "lon": "{}"}}'.format(*WRITTEN["hemispheres"](lat, lon).split(", ")),
        "json",
    ),
    "escaped quotes": (lambda lat, lon: json.dumps({"place": WRITTEN["quotes"](lat, lon)}), "json"),
    "single quotes, trailing comma": (_json("{'latitude': LAT, 'longitude': LON,}"), "json"),
    "comments": (_json('{"latitude": LAT, // north\n "longitude": LON /* east */}'), "json"),
    "capitals": (_json('{"Latitude": LAT, "Longitude": LON}'), "json"),
    "more after it": (_json('{"latitude": LAT, "longitude": LON, "confidence": 0.8, "note": "within 25 km"}'), "json"),
    "thought first": (_json("<think>Rome, 41.9028, 12.4964?</think>\nlat: LAT, lon: LON"), "prose"),
    "final answer": (_json("Rome is 41.9028, 12.4964. My final answer: LAT, LON."), "prose"),
    **{f"prose: {name}": (write, "prose") for name, write in WRITTEN.items() if name != "bracket"},
}


def place(text: str, **settings_: bool) -> tuple[float, float]:
    """Of a reply that must have one."""
    answer = parse(text, **settings_)
    assert isinstance(answer, Answer), answer
    return answer.latitude, answer.longitude


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None)
@given(
    point=POINTS, head=st.sampled_from(PROSE), tail=st.sampled_from(["\nI hope that this helps.", "\n\nIt is within 25 km. "])
)
@example(point=(0.0, 0.0), head="", tail="")
@example(point=(-0.00001, 0.00002), head=PROSE[1], tail="")
def test_every_form_is_read_at_its_place(form: str, point: tuple[float, float], head: str, tail: str) -> None:
    latitude, longitude = (round(degrees, 5) + 0.0 for degrees in point)
    write, kind = FORMS[form]
    written = write(latitude, longitude)
    answer = parse(head + written + tail)
    assert isinstance(answer, Answer), answer
    assert abs(answer.latitude - latitude) < 2e-5 and abs(answer.longitude - longitude) < 2e-5
    assert answer.form == kind
    assert len(head) <= answer.start < answer.end <= len(head) + len(written)
    held = (head + written + tail)[answer.start : answer.end]
    assert held[-1].isalnum() or held[-1] in "°'\"″})"
    # A caption comes back as it was, numbers as numbers.
    if form == "geo-caption":
        assert answer.caption == json.loads(written)
    else:
        assert answer.caption is None


@settings(max_examples=40, deadline=None)
@given(CAPTIONS)
def test_captions_come_back_whatever_their_words(given_caption: dict[str, Any]) -> None:
    """Also a teacher's own JSON, with escapes, and words that look like answers."""
    where = given_caption["answer"]["coordinates"]
    for written in (json.dumps(given_caption), json.dumps(given_caption, ensure_ascii=False, indent=1)):
        answer = parse(f"```json\n{written}\n```")
        assert isinstance(answer, Answer)
        assert answer.caption == given_caption
        assert (answer.latitude, answer.longitude) == (where["latitude"] + 0.0, where["longitude"] + 0.0)


def test_the_span_holds_both_numbers_and_nothing_around_them() -> None:
    for text, held in [
        (tag(48.8584, 2.2945), "48.85840\nlon: 2.29450"),
        ('{"lat": "48.5° N", "lon": "2.5° E"}', '48.5° N", "lon": "2.5° E'),
        ('{"type": "Point", "coordinates": [2.5, 48.5]}', "2.5, 48.5"),
        ("It is at 48°30'N, 2°30'W, I think", "48°30'N, 2°30'W"),
    ]:
        answer = parse(text)
        assert isinstance(answer, Answer) and text[answer.start : answer.end] == held


@pytest.mark.parametrize(
    "text",
    [
        "<answer>lat: 1.5, lon: 2.5</answer> No: <answer>lat: 48.5, lon: 2.25</answer>",
        "<answer>lat: 48.5, lon: 2.25</answer> or else <answer>lat: 4",
        '<answer>{"lat": 48.5, "lon": 2.25}</answer> or else <answer>{"lat": 4, "lon": 1',
        'I end with <answer>. {"lat": 1.5, "lon": 2.5}\n<answer>48.5, 2.25</answer>',
        '{"lat": 1.5, "lon": 2.5} and then {"lat": 48.5, "lon": 2.25}',
        '{"lat": 48.5, "lon": 2.25} and then {"lat": 4',
        '{"lat": 48.5, "lon": 2.25} and in prose 1.55, 2.55',
        '{"thinking": {"lat": 1, "lon": 2}, "answer": {"coordinates": {"latitude": 48.5, "longitude": 2.25}}}',
        '{"coordinates": [1, 2], "answer": {"coordinates": [48.5, 2.25]}}',
        '{"candidates": [{"lat": 48.5, "lon": 2.25}, {"lat": 1.5, "lon": 2.5}]}',
        '{"candidates": [{"lat": 1, "lon": 2, "score": 0.2}, {"lat": 48.5, "lon": 2.25, "score": 0.7}]}',
        '[{"lat": 48.5, "lon": 2.25, "score": 0.2}, {"lat": 1.5, "lon": 2.5}]',
        "1. Paris: 48.5, 2.25\n2. Rome: 1.55, 2.55".replace("48.5,", "48.50,"),
        "Not Rome (1.55, 2.55). Best guess: 48.50, 2.25. Bonn is 50.74, 7.10",
        "Either 1.55, 2.55 or rather 48.50, 2.25",
        "<think>1.55, 2.55</think>48.50, 2.25",
        "1.55, 2.55 perhaps</think>48.50, 2.25",
        "<think>a<think>1.55, 2.55</think>48.50, 2.25<think>3.55, 4.55",
        "[1] says so; see [2, 3].\n<answer>48.5, 2.25</answer>",
        "<answer>Paris</answer> 48.50, 2.25",
        "<think>1.55, 2.55 <answer>48.5, 2.25</answer>",
        "<answer>[48.5, 2.25]</answer>",
        '{"latitude_deg": 48.5, "longitude (deg)": 2.25, "lat_error": 0.1}',
        '{"long_name": "Paris", "lat": 48.5, "lon": 2.25}',
        '{"Lat": {"a": 1}, "place": {"lat": 48.5, "lng": 2.25}}',
        "**Paris**\n\n| lat | lon |\n|---|---|\n| 48.5 | 2.25 |",
        '{"latitude": 48,5, "longitude": 2,25}',
        '{"latitude": "48,5", "longitude": "2,25"}',
        "I'm sorry, but I cannot determine the exact spot. My best guess is 48.50, 2.25.",
    ],
)
def test_which_answer_counts(text: str) -> None:
    assert place(text) == (48.5, 2.25)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unparsed"),
        ("It is in Paris.", "unparsed"),
        ("<answer>Paris</answer>", "unparsed"),
        ("<answer>lat: 48.85</answer>", "unparsed"),
        ("48.85, 2.29, 35.25", "unparsed"),
        ("see [1, 2]", "unparsed"),
        ("lat: 1, lon: 2</think>In Paris", "unparsed"),
        ('{"region": "Paris"}', "unparsed"),
        ('{"latitude": true, "longitude": false}', "unparsed"),
        ('{"latitude": "north", "longitude": "west"}', "unparsed"),
        ('{"latitude": "2.5 E", "longitude": "48 N"}', "unparsed"),
        ("I cannot determine the location from this image.", "refused"),
        ("I’m sorry, but I can’t help with that.", "refused"),
        ("As an AI, I don't know.", "refused"),
        ("I'm unable to accurately pinpoint where this is", "refused"),
        ('{"latitude": null, "longitude": null}', "refused"),
        ('{"answer": {"coordinates": null}}', "refused"),
        ("Location: unknown", "refused"),
        ("Unknown.", "refused"),
        ("<answer>\nN/A\n</answer>", "refused"),
        ("The place cannot be determined.", "refused"),
        ("There is not enough visual information here.", "refused"),
        ('I cannot determine it. {"latitude": 0, "longitude": 0}', "refused"),
        ("<answer>\nlat: 0.00000\nlon: 0.00000\n</answer> since I am unable to locate it", "refused"),
        ("<answer>\nlat: 95.00000\nlon: 0.00000\n</answer>", "out_of_range"),
        ("<answer>lat: 1, lon: 2</answer><answer>lat: 1, lon: 200</answer>", "out_of_range"),
        ("<answer>151.20, -33.85</answer>", "out_of_range"),
        ("<answer>lat: nan, lon: 2</answer>", "out_of_range"),
        ('{"latitude": NaN, "longitude": 2}', "out_of_range"),
        ('{"latitude": "NaN", "longitude": 2}', "out_of_range"),
        ('{"latitude": 1, "longitude": -Infinity}', "out_of_range"),
        ('{"latitude": 1e999, "longitude": 2}', "out_of_range"),
        ('{"latitude": "48°75\'", "longitude": "2"}', "out_of_range"),
        ('{"latitude": 151.2, "longitude": -33.9}', "out_of_range"),
        ("My answer: 151.2093, -33.8688", "out_of_range"),
        ("<think>lat: 1, lon: 2 or", "cut_off"),
        ("<think>I shall write <answer>lat: 1, lon: 2", "cut_off"),
        ('{"thinking": {"25km_analysis": "like 1.55, 2.55', "cut_off"),
        ('{"thinking": {"a": "x"}, "answer": {"coordinates": {"latitude": 48.85, "longitude": 2.2', "cut_off"),
        ('{"answer": {"coordinates": {"latitude": 48.85, "longitude":', "cut_off"),
        ('{"latitude": 48.85, "lon', "cut_off"),
        ("Trees.\n<answer>\nlat: 48.85", "cut_off"),
        ("Trees.\n<answer>", "cut_off"),
    ],
)
def test_why_a_reply_gives_no_place(text: str, reason: str) -> None:
    got = parse(text)
    assert isinstance(got, Unparsed) and got.reason == reason and got.detail


def test_nought_nought_is_a_place_where_it_is_written() -> None:
    for text in (
        "<answer>\nlat: 0.00000\nlon: 0.00000\n</answer>",
        '{"latitude": 0, "longitude": 0}',
        "0.00, 0.00",
        "0° N, 0° E",
    ):
        assert place(text) == (0, 0)


@settings(deadline=None)
@given(POINTS, st.integers(0, 10_000), st.sampled_from(["json", "tag"]))
def test_a_cut_reply_gives_its_whole_place_or_none(point: tuple[float, float], at: int, form: Any) -> None:
    """However the token limit falls, the place is the one that was meant."""
    latitude, longitude = (round(degrees, 5) + 0.0 for degrees in point)
    text = caption_text(caption(latitude, longitude), form)
    start = text.index('"coordinates"') if form == "json" else text.index("<answer>")
    cut = text[: start + at % (len(text) - start)]
    got = parse(cut, finished=False)
    if isinstance(got, Answer):
        assert (got.latitude, got.longitude) == (latitude, longitude)
        assert cut[got.start : got.end] == text[got.start : got.end]
    else:
        assert got.reason == "cut_off"
        assert len(cut) <= text.index('"region"') if form == "json" else len(cut) < text.index("\n</answer>")


def test_a_number_at_the_limit_may_be_half_a_number() -> None:
    for text in ("lat: 48.8, lon: 2.29", "<answer>48.85, 2", "lat: 48.85° lon: 2.29°", "48.85, 2."):
        got = parse(text, finished=False)
        assert isinstance(got, Unparsed) and got.reason == "cut_off"
    assert place("lat: 48.8, lon: 2.29") == (48.8, 2.29)
    assert place("lat: 48.8, lon: 2.29448", finished=False) == (48.8, 2.29448)
    assert place("lat: 48.8, lon: 2.29\n", finished=False) == (48.8, 2.29)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet='{}[]":,<>/answerlto 0123456789.-°NSEW\n')))
@example('{"lat": "\\ud83d", "lon": 1}')
@example("<answer></answer></think><think>")
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    for finished in (True, False):
        got = parse(text, finished)
        if isinstance(got, Unparsed):
            assert got.reason in ("unparsed", "refused", "out_of_range", "cut_off")
            continue
        assert abs(got.latitude) <= 90 and abs(got.longitude) <= 180
        held = text[got.start : got.end]
        assert any(letter.isdigit() for letter in held)
        if got.latitude == 0 == got.longitude:
            assert held.count("0") >= 2 or "e-" in held or held.count(".") >= 1


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "<answer>",
            "<think>",
            "</think>",
            "<think></think>",
            "can't ",
            "I am sorry ",
            "answer 1.11, 2.22 ",
            '{"lat":1.5,"lon":2} ',
        ),
        *("7", "{a:", "[1,2] ", '{"a":"1.55, 2.55"} ', "<answer>{", "location: "),
    ],
)
def test_cost_is_linear(piece: str) -> None:
    assert growth(parse, piece) < 24
