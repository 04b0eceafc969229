"""Angles: signs, hemispheres, parts, decimal commas, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo.angle import angles, joined, plain
from tests.geo.written import growth


def read(text: str) -> list[tuple[float, str | None]]:
    """Degrees to eight decimals, and axes."""
    return [(round(angle.degrees, 8), angle.axis) for angle in angles(plain(text))]


@pytest.mark.parametrize(
    ("text", "degrees", "axis"),
    [
        ("48.8584", 48.8584, None),
        ("+48", 48, None),
        ("−33.5", -33.5, None),
        ("–33.5", -33.5, None),
        (".5", 0.5, None),
        ("48.", 48, None),
        ("4.88584e1", 48.8584, None),
        ("1e-05", 0.00001, None),
        ("33.5 S", -33.5, "latitude"),
        ("-33.5 S", -33.5, "latitude"),
        ("33.5s", -33.5, "latitude"),
        ("33.5 degrees SOUTH", -33.5, "latitude"),
        ("West 2.5", -2.5, "longitude"),
        ("w2.5", -2.5, "longitude"),
        ("2.5° (E)", 2.5, "longitude"),
        ("48° 30'", 48.5, None),
        ("-48° 30'", -48.5, None),
        ("48° 30 N", 48.5, "latitude"),
        ("48°30′36″", 48.51, None),
        ("48 30 36 N", 48.51, "latitude"),
        ("48:30:36N", 48.51, "latitude"),
        ("N 48 30.6", 48.51, "latitude"),
        ("48 deg 30 min 36 sec N", 48.51, "latitude"),
        ("48 degrees, 30 minutes and 36 seconds north", 48.51, "latitude"),
        ("48,8584°", 48.8584, None),
        ("48,8584 N", 48.8584, "latitude"),
        ("48°30'36,0\"N", 48.51, "latitude"),
        (r"48.5^\circ \text{N}", 48.5, "latitude"),
        ("48.5&deg; N", 48.5, "latitude"),
    ],
)
def test_one_angle(text: str, degrees: float, axis: str | None) -> None:
    assert read(text) == [(degrees, axis)]


@pytest.mark.parametrize(
    "text",
    [
        *("25 km", "25km", "3.5 metres", "40 %", "21 °C", "21° F", "10€", "30 min", "5 years"),
        *("M25", "v1.2", "1.2.3", "192.168.0.1", "3rd", "48th", "x_12", "a-48", "E40", "N7", "1. Roads", "  2) Trees"),
    ],
)
def test_what_is_no_angle(text: str) -> None:
    assert read(text) == []


def test_a_range_has_no_negative_end() -> None:
    assert read("48.85-49.10") == [(48.85, None)]


def test_a_possessive_s_is_not_the_south() -> None:
    assert read("it's 48.5") == [(48.5, None)]


def test_a_comma_between_integers_is_left_to_the_reader() -> None:
    text = "-48,85"
    first, second = angles(text)
    assert (first.degrees, first.comma, second.degrees) == (-48, 2, 85)
    both = joined(first, second, text)
    assert (both.degrees, both.start, both.end, both.decimals) == (-48.85, 0, 6, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("48°60'N", "out_of_range"),
        ("48°10'75\"N", "out_of_range"),
        ("48.5°30'N", "ambiguous"),
        ("-48.5 N", "ambiguous"),
        ("+48.5 S", "ambiguous"),
    ],
)
def test_angles_with_a_fault(text: str, reason: str) -> None:
    (angle,) = angles(text)
    assert angle.fault is not None and angle.fault[0] == reason


def test_numbers_beyond_all_measure_are_infinite() -> None:
    assert read("1e999")[0][0] == float("inf")
    assert read("7" * 100_000)[0][0] == float("inf")
    assert read("0" * 1000 + "7." + "3" * 100_000)[0][0] == pytest.approx(22 / 3)


def test_nothing_is_minus_zero() -> None:
    assert [str(angle.degrees) for angle in angles("-0.0, 0 S, -0°0'0\"")] == ["0.0", "0.0", "0.0"]


@settings(deadline=None)
@given(st.text(alphabet="0123456789.,+-–−°'\"′″ nsewNSEWdegmin:e\n(){}\\a"))
def test_spans_are_in_order_and_read_the_same_alone(text: str) -> None:
    normal = plain(text)
    assert len(normal) == len(text)
    end = 0
    for angle in angles(normal):
        assert end <= angle.start < angle.end <= len(text)
        end = angle.end
        if normal[end : end + 1].strip():
            continue  # a unit or hemisphere that follows may have been weighed and refused; alone it is not there
        again = [other.degrees for other in angles(normal[angle.start : angle.end])]
        assert angle.fault or again[:1] == [angle.degrees] or angle.comma


@pytest.mark.parametrize(
    "piece", ["7", "7 ", "7,", "1.1", "N 1 ", "n", " ", "1° 1 ", "1° 1' 1 ", "1 , and ", "-", "1 1 ", "°'", "1:", "north "]
)
def test_cost_is_linear(piece: str) -> None:
    assert growth(lambda text: list(angles(text)), piece) < 24
