"""Coordinates: every way of writing them read back, what is refused and why, and the cost of hostile texts."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geobatch.geo.parse import Fault, Found, parse_place, places
from tests.geo.places import POINTS
from tests.geo.written import PROSE, WRITTEN, growth


@pytest.mark.parametrize("form", WRITTEN)
@settings(max_examples=25, deadline=None)
@given(point=POINTS, head=st.sampled_from(PROSE), tail=st.sampled_from([" ", ".", "\nWidth: 3.5 m.", " (within 25 km)"]))
@example(point=(0.0, 0.0), head="", tail="")
@example(point=(-90.0, -180.0), head="", tail="")
@example(point=(0.00001, -0.00001), head="", tail="")
@example(point=(-0.5, 0.5), head="", tail="")
def test_every_way_of_writing_a_place_is_read(form: str, point: tuple[float, float], head: str, tail: str) -> None:
    latitude, longitude = (round(degrees, 5) for degrees in point)
    written = WRITTEN[form](latitude, longitude)
    text = head + written + tail
    (found,) = places(text)
    assert abs(found.latitude - latitude) < 2e-5 and abs(found.longitude - longitude) < 2e-5
    assert len(head) <= found.start < found.end <= len(head) + len(written)
    assert parse_place(text) == found
    # What the span holds is the two numbers: cut out of the text, nothing of the place is left.
    assert not places(text[: found.start] + text[found.end :])


@pytest.mark.parametrize(
    ("text", "latitude", "longitude"),
    [
        ("0, 0", 0, 0),
        ("lat: 0 lon: 0", 0, 0),
        ("48, 2", 48, 2),
        ("(48,2)", 48, 2),
        ("-33 151", -33, 151),
        ("lat/lon: 48,2", 48, 2),
        ("48,8584, 2,2945", 48.8584, 2.2945),
        ("48,05; 2,09", 48.05, 2.09),
        ("lat: -33, lng: +151", -33, 151),
        ("lat: - 33.5, lon: - 151", -33.5, -151),
        ("Latitude – 48.5, Longitude – 2.5", 48.5, 2.5),
        ("lat 48.5, 2.5", 48.5, 2.5),
        ("48.5\n2.5", 48.5, 2.5),
        ("coordinates are 48, 2", 48, 2),
        ("GPS position of the square: 48.5, 2", 48.5, 2),
        ("48.5° N latitude, 2.5° E longitude", 48.5, 2.5),
        ('"latitude": "48.5", "longitude": "-2.5"', 48.5, -2.5),
        ("It lies 48.5 degrees north of the equator, at a longitude of about 2.5", 48.5, 2.5),
        ("48.85, 2.29 and again 48.85, 2.29", 48.85, 2.29),
        ("Lat: 48.5 (±0.01), Lon: 2.5 (+/-0.01)", 48.5, 2.5),
        ("lat 48.5 (error 0.1, say), lon 2.5", 48.5, 2.5),
        ("lat 48.5 (0.1), lon 2.5", 48.5, 2.5),
        ("Sun at 45°; N 48.5 E 2.5", 48.5, 2.5),
        ("p. 3.14, (lat, lng): (48.5, 2.5)", 48.5, 2.5),
        ("p. 3.14, (48.5, 2.5)", 48.5, 2.5),
        ("page 3.14, 48.5°, 2.5°", 48.5, 2.5),
        ("48.5, lon 2.5", 48.5, 2.5),
        ("<lat>48.5</lat><lon>2.5</lon>", 48.5, 2.5),
        ("latitude_deg: 48.5, longitude_deg: 2.5", 48.5, 2.5),
        ("| Latitude | Longitude |\n|---|---|\n| 48.5 | 2.5 |", 48.5, 2.5),
        ("| **Lon** | **Lat** |\n|:-:|:-:|\n| 2.5 | 48.5 |", 48.5, 2.5),
        ("- **Latitude**: 48.5\n- **Longitude**: -2.5", 48.5, -2.5),
        ("lat, lon = 48.5, 2.5", 48.5, 2.5),
        ("https://maps.example/?lat=-33.5&lon=151.5", -33.5, 151.5),
        ("https://maps.example/@48.85,2.29,17z", 48.85, 2.29),
        ("('48.85', '2.29')", 48.85, 2.29),
        (r"\boxed{48.85, 2.29}", 48.85, 2.29),
        ("~48.86, ~2.35", 48.86, 2.35),
        ("Lat/Lng: 48.5/2.5", 48.5, 2.5),
        ("Latitude: −33.5 (South), Longitude: 151.5 (East)", -33.5, 151.5),
        ("Latitude: approximately 48.5° N\nLongitude: approximately 2.5° E", 48.5, 2.5),
        ("Paris (48.85°N, 2.29°E)", 48.85, 2.29),
    ],
)
def test_places(text: str, latitude: float, longitude: float) -> None:
    found = parse_place(text)
    assert isinstance(found, Found) and (found.latitude, found.longitude) == (latitude, longitude)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "none"),
        ("Paris, by the river", "none"),
        ("roads 2.5, 3.5 wide", "none"),
        ("from 1950, 1960 on", "none"),
        ("as said in (1, 2) and [3,4]", "none"),
        ("the E40 and N7", "none"),
        ("48.85-49.10, 2.29-2.31", "none"),
        ("It was 1.55. 2.44 came later", "none"),
        ("lat-33.8, lon-151.2", "none"),
        ("48.85", "incomplete"),
        ("lat: 48.85, lon: unknown", "incomplete"),
        ("48.85 N", "incomplete"),
        ("48.85 N, 2.29", "incomplete"),
        ("between 48.85 N and 49.10 N", "incomplete"),
        ("lat: 91, lon: 2", "out_of_range"),
        ("lat: 2, lon: 181", "out_of_range"),
        ("lat: 151.2, lon: -33.9", "out_of_range"),
        ("95.11, 200.22", "out_of_range"),
        ("91° N, 2° E", "out_of_range"),
        ("48°60'N, 2°E", "out_of_range"),
        ("lat: NaN, lon: 2", "out_of_range"),
        ("lat: 48, lon: -inf", "out_of_range"),
        ("lat: 1e999, lon: 2", "out_of_range"),
        ("120.5, 45.25", "swapped"),
        ("-151.2093, -33.8688", "swapped"),
        ("48,2", "ambiguous"),
        ("48,85; 2,29", "ambiguous"),
        ("48.8584, 2.2945, 35.25", "ambiguous"),
        ("p. 3.14, 48.85, 2.29", "ambiguous"),
        ("48.85, 2.29; 41.90, 12.50", "ambiguous"),
        ("48.8584 - 2.2945", "ambiguous"),
        ("lat - 33.8, lon - 151.2", "ambiguous"),
        ("-33.9 N, 151 E", "ambiguous"),
        ("lat: 2.29 E, lon: 48.85", "ambiguous"),
    ],
)
def test_faults(text: str, reason: str) -> None:
    fault = parse_place(text)
    assert isinstance(fault, Fault) and fault.reason == reason and fault.detail


def test_several_places_come_in_order() -> None:
    text = "Rome (41.9028, 12.4964), not Paris: 48.8584° N, 2.2945° E.\n1. 35.0, 139.5\n2. 36.0, 138.5\n1.20, 3.40; 5.60, 7.80"
    found = [(place.latitude, place.longitude) for place in places(text)]
    assert found == [(41.9028, 12.4964), (48.8584, 2.2945), (35, 139.5), (36, 138.5), (1.2, 3.4), (5.6, 7.8)]


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="0123456789.,;:+-–°'\"NSEWnsew latondeg\n()[]/")))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for place in places(text):
        assert abs(place.latitude) <= 90 and abs(place.longitude) <= 180
        assert 0 <= place.start < place.end <= len(text)
        assert any(digit.isdigit() for digit in text[place.start : place.end])
        if place.latitude == 0 == place.longitude:
            assert "0" in text[place.start : place.end]
    one = parse_place(text)
    assert one in places(text) or isinstance(one, Fault)


@settings(deadline=None)
@given(st.floats(90.001, 180), st.floats(-90, 90), st.sampled_from([1, -1]))
def test_a_pair_is_never_turned_round(longitude: float, latitude: float, sign: int) -> None:
    fault = parse_place(f"{sign * longitude:.5f}, {latitude:.5f}")
    assert isinstance(fault, Fault) and fault.reason == "swapped"
    found = parse_place(f"lon: {sign * longitude:.5f}, lat: {latitude:.5f}")
    assert isinstance(found, Found) and abs(found.longitude - sign * longitude) < 1e-5


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "7",
            "7 ",
            "7,",
            "1;1,",
            "1.11, ",
            "1.11\n",
            "lat ",
            "lat 1 ",
            "lat/",
            "place 1 ",
            "coordinates ",
            "is ",
            "\n",
            "1° 1 ",
        ),
        *("lat: 48.85, lon: 2.29. ", "lat nan ", "- 1 "),
    ],
)
def test_cost_is_linear(piece: str) -> None:
    assert growth(parse_place, piece) < 24


def test_a_hundred_thousand_digits() -> None:
    fault = parse_place("lat: " + "7" * 100_000 + ", lon: " + "3" * 100_000)
    assert isinstance(fault, Fault) and fault.reason == "out_of_range"
