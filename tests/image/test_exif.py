"""Coordinates and times out of EXIF values as Pillow hands them over."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL.TiffImagePlugin import IFDRational

from geobatch.image.exif import capture_time, position

NORTH = {1: "N", 2: (10.0, 30.0, 0.0), 3: "E", 4: (20.0, 0.0, 36.0)}


def absent(place: tuple[float, float]) -> bool:
    """Whether both are NaN; never one alone."""
    assert math.isnan(place[0]) == math.isnan(place[1])
    return math.isnan(place[0])


def sexagesimal(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """|degrees| as cameras write it, to a millionth of a second."""
    millionths = round(abs(degrees) * 3600e6)
    whole, rest = divmod(millionths, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    return IFDRational(whole), IFDRational(minutes), IFDRational(rest, 1_000_000)


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_coordinates_survive_the_way_cameras_write_them(latitude: float, longitude: float) -> None:
    parts = sexagesimal(latitude), sexagesimal(longitude)
    found = position({1: "S" if latitude < 0 else "N", 2: parts[0], 3: "W" if longitude < 0 else "E", 4: parts[1]})
    if not any(map(float, parts[0])) and not any(map(float, parts[1])):
        assert absent(found)
    else:
        assert found == pytest.approx((latitude, longitude), abs=2e-10)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (10.5, 20.01)),
        ({1: "S"}, (-10.5, 20.01)),
        ({3: "W"}, (10.5, -20.01)),
        ({1: b"s\0", 3: "west"}, (-10.5, -20.01)),
        ({2: (10.5,)}, (10.5, 20.01)),
        ({2: (10.0, 30.0)}, (10.5, 20.01)),
        ({2: 10.5}, (10.5, 20.01)),
        ({2: "10.5"}, (10.5, 20.01)),
        ({2: "10 30 0"}, (10.5, 20.01)),
        ({2: "10° 30' 0.0\""}, (10.5, 20.01)),
        ({2: "10,00000,30,00000,00,00000", 4: "20,00000,00,00000,36,00000"}, (10.5, 20.01)),
        ({2: ((21, 2), (0, 1), (0, 1))}, (10.5, 20.01)),
        ({1: "S", 2: (-10.5,)}, (-10.5, 20.01)),
        ({2: (0.0, 0.0, 0.0)}, (0.0, 20.01)),  # the equator is a place
        ({2: (90.0, 0.0, 0.0), 4: (180.0, 0.0, 0.0)}, (90.0, 180.0)),
    ],
)
def test_what_is_read(changes: dict[int, Any], expected: tuple[float, float]) -> None:
    assert position(NORTH | changes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
        {2: (10.0, 30.0, math.nan)},
        {2: (IFDRational(0, 0),) * 3},
        {2: (IFDRational(1, 0), 0.0, 0.0)},
        {2: ((1, 0), (0, 0), (0, 1))},
        {2: (90.0, 0.0, 0.1)},
        {4: (180.0, 0.1, 0.0)},
        {4: (4294967295.0, 0.0, 0.0)},
        {2: (-10.0, 0.0, 0.0)},
        {2: None},
        {4: ()},
        {2: (1.0, 2.0, 3.0, 4.0)},
        {2: "north"},
        {2: b"\xff\xfe"},
        {2: {1: 2}},
        {1: None},
        {1: ""},
        {1: "\0"},
        {1: "E"},
        {3: 7},
    ],
)
def test_what_is_absent(changes: dict[int, Any]) -> None:
    assert absent(position(NORTH | changes))


VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
    | st.builds(IFDRational, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=6,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from([1, 2, 3, 4, 7, 29]), VALUES),
    st.dictionaries(st.sampled_from([0x9003, 0x9011, 0x9291]), VALUES),
)
def test_nothing_raises_and_nothing_leaves_the_earth(gps: dict[int, Any], camera: dict[int, Any]) -> None:
    place = position(gps)
    assert absent(place) or (abs(place[0]) <= 90 and abs(place[1]) <= 180)
    assert capture_time(camera, gps).isascii()


@pytest.mark.parametrize(
    ("taken", "fraction", "offset", "expected"),
    [
        ("2024:05:07 09:33:04", None, None, "2024-05-07T09:33:04"),
        ("2024:05:07 09:33:04\0", "046", "+08:00", "2024-05-07T09:33:04.046+08:00"),
        (b"2024:05:07 09:33:04", b"5 ", "Z", "2024-05-07T09:33:04.5Z"),
        ("2024-05-07T09:33:04.25", "99", "-03:30", "2024-05-07T09:33:04.25-03:30"),
        ("2024:05:07 09:33:04", "x", "+25:00", "2024-05-07T09:33:04"),
        ("2024:05:07 09:33:04", "²", "+٠٨:٠٠", "2024-05-07T09:33:04"),
        ("0000:00:00 00:00:00", None, None, ""),
        ("2023:02:29 00:00:00", None, None, ""),
        ("2024:05:07 24:00:00", None, None, ""),
        ("    :  :     :  :  ", None, None, ""),
        ("٢٠٢٤:05:07 09:33:04", None, None, ""),
        (None, None, "+01:00", ""),
        (20240507, None, None, ""),
    ],
)
def test_capture_time(taken: Any, fraction: Any, offset: Any, expected: str) -> None:
    assert capture_time({0x9003: taken, 0x9291: fraction, 0x9011: offset}, {}) == expected


@pytest.mark.parametrize(
    ("date", "clock", "expected"),
    [
        ("2017:09:03", (5.0, 53.0, 57.9), "2017-09-03T05:53:57+00:00"),
        ("2017:09:03", (5.0, 53.0, 60.0), ""),
        ("0000:00:00", (0.0, 0.0, 0.0), ""),
        ("2017:09:03", (5.0, 53.0), ""),
        ("2017:09:03", (math.nan, 0.0, 0.0), ""),
        ("2017:09:03", (-1.0, 0.0, 0.0), ""),
        (None, (5.0, 53.0, 57.0), ""),
    ],
)
def test_the_gps_clock_is_the_fallback(date: Any, clock: Any, expected: str) -> None:
    gps = {29: date, 7: clock}
    assert capture_time({}, gps) == expected
    assert capture_time({0x9003: "2001:01:01 01:01:01"}, gps) == "2001-01-01T01:01:01"
