"""Where and when the camera says it was.

EXIF is written by thousands of firmwares and edited by as many programs, so everything here is optional, bounded and
silent: what does not parse is absent. Seen in the wild and read: degrees with decimals and no minutes; one string for all
three numbers, also with decimal commas (`52,00000,50,00000,34,01180`); references in lower case, spelled out, as bytes or
padded with NUL. Seen and taken for absent: 0/0 in any of the three numbers, exactly 0,0 ("no fix"), values beyond the
poles, a minus sign in the north or east, a latitude without its hemisphere (half of such guesses would be half a world
away), `0000:00:00 00:00:00`.

What this does not cover: coordinates in XMP, in maker notes or in QuickTime boxes; the GPS clock, which is the time of the
last fix and not of the shutter, is used only where the camera's own clock is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

GPS_IFD, EXIF_IFD = 0x8825, 0x8769
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_GPS_TIME, _GPS_DATE = 7, 29
_TAKEN, _TAKEN_OFFSET, _TAKEN_FRACTION = 0x9003, 0x9011, 0x9291

#: Six comma-separated integers are three numbers with decimal commas: nobody writes six parts of an angle.
_DECIMAL_COMMAS = re.compile(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", re.ASCII)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T]+(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)|Z", re.ASCII)


def position(gps: Mapping[int, Any]) -> tuple[float, float]:
    """Latitude and longitude in degrees of a GPS IFD (EXIF 2.32, 4.6.6); (NaN, NaN) unless both are valid."""
    latitude = _angle(gps.get(_LATITUDE), gps.get(_LATITUDE_REF), "N", "S", 90.0)
    longitude = _angle(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF), "E", "W", 180.0)
    if math.isnan(latitude) or math.isnan(longitude) or latitude == longitude == 0.0:
        return math.nan, math.nan
    return latitude, longitude


def capture_time(exif: Mapping[int, Any], gps: Mapping[int, Any]) -> str:
    """When the shutter opened, ISO 8601: DateTimeOriginal with its fraction and offset where stated, else the GPS clock.

    The offset is the one the file states; a time without one is local to wherever the camera's clock was set. Empty where
    neither clock is valid.
    """
    found = _DATE_TIME.fullmatch(_text(exif.get(_TAKEN)))
    moment = _moment(*found.groups()[:6]) if found else ""
    if not (found and moment):
        return _gps_time(gps)
    fraction = found[7] or _text(exif.get(_TAKEN_FRACTION))
    if fraction.isascii() and fraction.isdigit() and len(fraction) <= 9:
        moment += f".{fraction}"
    offset = _text(exif.get(_TAKEN_OFFSET))
    return moment + offset if _valid_offset(offset) else moment


def _angle(value: Any, reference: Any, positive: str, negative: str, limit: float) -> float:
    hemisphere = _text(reference)[:1].upper()
    parts = _numbers(value)
    if hemisphere not in (positive, negative) or not parts:
        return math.nan
    degrees = sum(abs(part) / 60.0**place for place, part in enumerate(parts))
    contradiction = hemisphere == positive and min(parts) < 0
    if degrees > limit or contradiction:
        return math.nan
    return -degrees if hemisphere == negative else degrees


def _numbers(value: Any) -> list[float]:
    """One to three finite numbers, or none."""
    if isinstance(value, str | bytes):
        text = _text(value)
        if found := _DECIMAL_COMMAS.fullmatch(text):
            parts = [".".join(found.group(place, place + 1)) for place in (1, 3, 5)]
        else:
            parts = _NUMBER.findall(text)
    else:
        parts = list(value) if isinstance(value, tuple | list) else [value]
    numbers = [_number(part) for part in parts]
    if not 1 <= len(numbers) <= 3 or not all(math.isfinite(number) for number in numbers):
        return []
    return numbers


def _number(part: Any) -> float:
    try:
        if isinstance(part, tuple):  # a rational that was left as a pair
            return float(part[0]) / float(part[1])
        return float(part)
    except (TypeError, ValueError, ArithmeticError, IndexError):
        return math.nan


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.replace("\0", " ").strip() if isinstance(value, str) else ""


def _moment(*parts: str) -> str:
    try:
        return datetime(*(int(part) for part in parts)).isoformat()  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return ""


def _valid_offset(text: str) -> bool:
    found = _OFFSET.fullmatch(text)
    return bool(found) and (text == "Z" or (int(text[1:3]) <= 14 and int(text[4:6]) <= 59))


def _gps_time(gps: Mapping[int, Any]) -> str:
    date, clock = _DATE.fullmatch(_text(gps.get(_GPS_DATE))), _numbers(gps.get(_GPS_TIME))
    if not date or len(clock) != 3 or min(clock) < 0:
        return ""
    moment = _moment(*date.groups(), *(str(int(part)) for part in clock))
    return f"{moment}+00:00" if moment else ""
