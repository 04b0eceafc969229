"""Angles as people write them (`48.8584`, `-33,8688°`, `48°51'30.2"N`, `N 48 51.5`, `2 degrees 17 minutes East`) in degrees.

One regular expression finds them. Its quantifiers are possessive or bounded, so that 100,000 digits cost what they weigh. Spans
refer to the text as it was given: what is normalised (typographic minus, primes, no-break blanks) is replaced character for
character.

A number is no angle if a unit follows ("25 km", "21 °C", "40 %"), if it is a tolerance ("±0.01") or if letters touch it ("M25",
"v1.2", "3rd"), hemispheres included where they lead an integer: "E40" is a road. Minutes and seconds need their marks or a
hemisphere. A comma between two integers is a decimal comma before a degree sign or a hemisphere and after a hemisphere;
elsewhere the two integers come out as two angles that know it (`comma`), for the reader of pairs to decide.

Not covered: words of other languages than English (the O of oeste and the O of Ost are opposites), grid references.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Axis = Literal["latitude", "longitude"]
Reason = Literal["none", "out_of_range", "swapped", "ambiguous", "incomplete"]

_SAME = str.maketrans(
    {
        **dict.fromkeys("−‒﹣－‐‑", "-"),
        **dict.fromkeys("–—―", "–"),
        **dict.fromkeys("′’‘´ʹ", "'"),
        **dict.fromkeys("″”“„ʺ", '"'),
        **dict.fromkeys("º˚", "°"),
        **dict.fromkeys("\t\u00a0\u2007\u2009\u200a\u202f\u200b\u200e\u200f\u2060\ufeff", " "),
        **dict(zip("，；：（）［］", ",;:()[]", strict=True)),
    }
)

_HEMISPHERE = r"(?:north|south|east|west|[nsew])"
_NUMBER = r"[0-9]++(?:[.,][0-9]++)?+"
_DEGREE = r"(?:°|\^?\{?\\circ\}?|&deg;|deg(?:ree)?s?\b)(?:\ ?\\text)?+"
_MINUTE = r"(?:'(?!')|min(?:ute)?s?\b)"
_SECOND = r"""(?:"|''|sec(?:ond)?s?\b)"""
_GAP = r"[\ ]{0,3}+(?:(?:,|and\b)[\ ]{1,3}+)?+"
_AFTER = rf"[\ ]{{0,3}}+[({{]?+{_HEMISPHERE}(?![^\W_])[)}}]?+"

_ANGLE = re.compile(
    rf"""(?:(?:(?<![\w'/-])|(?<=[0-9])(?=[nsew][0-9]))(?P<before>{_HEMISPHERE})\.?+[:\ ]{{0,3}}+)?+
    (?P<sign>[+\-–])?+
    (?(before)|(?:(?<![\w.])|(?<=[a-z]\.)|(?-i:(?<=[0-9][NSEW]))))
    (?P<d>[0-9]++\.[0-9]++|\.[0-9]++|[0-9]++(?:,(?P<fraction>[0-9]++)(?![.,]?[0-9]))?+)
    (?P<power>(?:(?-i:e)[+\-]?+|E[+\-])[0-9]{{1,4}}+(?![0-9.]))?+
    (?!\.?[0-9])
    (?:
        [\ ]{{0,3}}+(?P<degree>{_DEGREE})(?!\ ?[CF]\b)
        (?:{_GAP}(?P<m>{_NUMBER})[\ ]{{0,3}}+(?:{_MINUTE}|(?={_AFTER}))
            (?:{_GAP}(?P<s>{_NUMBER})[\ ]{{0,3}}+(?:{_SECOND}|(?={_AFTER})))?+
        )?+
      | (?P<parts>[\ :][0-9]++(?:\.[0-9]++)?+(?:[\ :][0-9]++(?:\.[0-9]++)?+)?+)(?(before)(?![\ ]?[°'"]|[0-9])|(?={_AFTER}))
    )?+
    (?(before)|(?:
        [\ ]{{0,3}}+[({{]?+(?P<after>{_HEMISPHERE})(?![^\W_])[)}}]?+
      | (?P<tight>[NSEW])(?=[+\-]?[0-9])
    )?+)""",
    re.VERBOSE | re.IGNORECASE,
)

#: What makes a number something else than degrees.
_UNIT = re.compile(
    r"\ ?(?:(?:[kcm]?m|k?m/h|ft|feet|foot|mi|miles?|mph|kph|px|percent|years?|stor(?:e?y|e?ies)|floors?|lanes?|kg"
    r"|(?:kilo)?met(?:er|re)s?|min(?:ute)?s?|sec(?:ond)?s?|hours?)\b|[%€$£]|°\ ?[CF]\b)"
    r"|(?!(?-i:[NSEW])[+-]?[0-9])[^\W\d]",
    re.IGNORECASE,
)

_SIDES: dict[str, tuple[Axis, int]] = {
    "n": ("latitude", 1),
    "s": ("latitude", -1),
    "e": ("longitude", 1),
    "w": ("longitude", -1),
}


@dataclass(frozen=True, slots=True)
class Angle:
    """A number of the text as degrees, the characters `start` to `end` of it."""

    degrees: float
    start: int
    end: int
    axis: Axis | None = None
    hemisphere: bool = False
    marked: bool = False  # with a degree sign, or in parts
    signed: bool = False
    decimals: int = 0
    comma: int = 0  # digits after a comma that joins this integer to the next angle; 0 for none
    fault: tuple[Reason, str] | None = None


def plain(text: str) -> str:
    """The text with typographic signs replaced by plain ones, character for character."""
    return text.translate(_SAME)


def angles(text: str) -> Iterator[Angle]:
    """The angles of a `plain` text, in order."""
    end, signed = -1, False
    for found in _ANGLE.finditer(text):
        if _UNIT.match(text, found.end()) and not (found["after"] or found["tight"]):
            continue
        angle = _angle(found)
        touches = found.start() == end or text[max(0, found.start() - 1) : found.start()].isalnum()
        # "48.85-49.10" is a range, "a-48" a name; "+48.8584+002.2945" (ISO 6709) is a place.
        if found["sign"] and not found["before"] and touches and not (signed and found.start() == end):
            continue
        tolerance = text[max(0, found.start() - 3) : found.start()].rstrip().endswith(("±", "+/")) and not found["before"]
        if (found["before"] and found[0][1:].isdigit()) or tolerance or _is_item(text, found) or _is_time(text, found):
            continue
        end, signed = found.end(), angle.signed
        yield from _split(angle, found)


def _is_time(text: str, found: re.Match[str]) -> bool:
    """Whether a colon and a digit touch this number on either side, and no hemisphere says that they are parts of an angle."""
    colons = text[max(0, found.start() - 2) : found.start()], text[found.end() : found.end() + 2][::-1]
    whole = not (found["parts"] or found["degree"] or found["after"] or found["before"])
    return whole and any(len(pair) == 2 and pair[0].isdigit() and pair[1] == ":" for pair in colons)


def _is_item(text: str, found: re.Match[str]) -> bool:
    """Whether this is the number of a list's item: "2. " or "2) " where a line begins."""
    if not found[0].isdigit() or text[found.end() : found.end() + 2] not in (". ", ") "):
        return False
    line = text.rfind("\n", max(0, found.start() - 8), found.start()) + 1
    return (line > 0 or found.start() <= 8) and not text[line : found.start()].strip(" #*>-")


def _angle(found: re.Match[str]) -> Angle:
    side = _SIDES.get((found["before"] or found["after"] or found["tight"] or " ")[0].lower())
    sign = 0 if not found["sign"] else 1 if found["sign"] == "+" else -1
    parts = re.split("[ :]", found["parts"])[1:] if found["parts"] else [part for part in (found["m"], found["s"]) if part]
    degrees, fault = _degrees([found["d"] + (found["power"] or ""), *parts])
    if side and sign and sign != side[1]:
        fault = fault or ("ambiguous", "a sign and a hemisphere that contradict each other")
    fraction = found["d"].replace(",", ".").partition(".")[2]
    return Angle(
        # Adding 0 makes the -0.0 of "-0" or "0 S" a plain 0.0.
        degrees * (sign or (side[1] if side else 1)) + 0.0,
        found.start(),
        found.end(),
        side[0] if side else None,
        side is not None,
        bool(found["degree"] or parts),
        bool(sign),
        len(fraction),
        0,
        fault,
    )


def _split(angle: Angle, found: re.Match[str]) -> Iterator[Angle]:
    """The angle, or the two integers around its comma where nothing says that it is a decimal comma."""
    if not found["fraction"] or angle.hemisphere or angle.marked:
        yield angle
        return
    middle, digits = found.start("fraction"), found["fraction"]
    whole, sign = float(found["d"].partition(",")[0][:12]), -1 if found["sign"] in ("-", "–") else 1
    yield replace(angle, degrees=sign * whole + 0.0, end=middle - 1, decimals=0, comma=len(digits))
    yield Angle(_float(digits + (found["power"] or "")), middle, angle.end)


def joined(first: Angle, second: Angle, text: str) -> Angle:
    """The two integers around a comma as one number with a decimal comma."""
    degrees = _float(text[first.start : second.end].lstrip("+-–").replace(",", "."))
    minus = text[first.start] in "-–"
    return replace(first, degrees=(-degrees if minus else degrees) + 0.0, end=second.end, decimals=first.comma, comma=0)


def _degrees(parts: list[str]) -> tuple[float, tuple[Reason, str] | None]:
    values = [_float(part.replace(",", ".")) for part in parts]
    if any(re.search("[.,]", part) for part in parts[:-1]):
        return math.nan, ("ambiguous", "a fraction before the last of degrees, minutes and seconds")
    if any(value >= 60 for value in values[1:]):
        return math.nan, ("out_of_range", "60 or more minutes or seconds")
    return sum(value / 60**place for place, value in enumerate(values)), None


def _float(digits: str) -> float:
    # No place has more digits, and the exact reading of 100,000 of them costs more than it is worth.
    head, _, power = digits.lower().partition("e")
    whole, _, fraction = head.partition(".")
    if len(whole.lstrip("0")) > 12:
        return math.inf
    return float(f"{whole[-12:] or 0}.{fraction[:30] or 0}" + (f"e{power}" if power else ""))
