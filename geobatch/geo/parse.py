"""Coordinates as people and models write them, as degrees: pairs of angles with the words and brackets around them.

`places` finds every place a text states, `parse_place` the one place it states or the reason why not. Which angle is the
latitude is said by hemispheres, then by labels ("lon: 2.3, lat: 48.9", "(lon, lat) = 2.3, 48.9", "48.9 latitude"), and only for
a bare pair by the order, latitude first. A bare pair in the other order is refused as "swapped", never turned round: (120, 45)
may as well be a slip of the pen. (0, 0) is a place like any other where it is written.

Prose is full of numbers, so a bare pair counts only if something says that it is a place: two decimals or more in both, a
decimal in both and a bracket around just the two, degree signs, a word such as "coordinates" before it, or nothing else on its
line. Longer rows of bare numbers are pairs only if their separators alternate ("1.20, 3.40; 5.60, 7.80"), else ambiguous.

Work is linear in the text: about 6 MB/s of prose, and 0.15 MB/s where every second character is a number. Not covered:
what `geobatch.geo.angle` does not, and the place of a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from geobatch.geo.angle import Angle, Axis, Reason, angles, joined, plain


@dataclass(frozen=True)
class Found:
    """A place: degrees, and the characters `start` to `end` that state it, signs and hemispheres included."""

    latitude: float
    longitude: float
    start: int
    end: int


@dataclass(frozen=True)
class Fault:
    """Why a text states no place."""

    reason: Reason
    detail: str


#: Words between the two numbers of a place that are at most this many characters apart, if both say which they are.
_FAR = 120
#: Characters before a number in which a label or a word such as "coordinates" is looked for.
_REACH = 80

_LABEL = re.compile(
    r"(?<![^\W_])(?:(?P<both>lat(?:itude)?(?:[\s/,&|*-]|and)*l(?:on|ng|ong)(?:itude)?|l(?:on|ng|ong)(?:itude)?(?:[\s/,&|*-]|and)*lat(?:itude)?)"
    r"|(?P<one>lat(?:itude)?|lng|long?(?:itude)?))(?![^\W\d_])",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"[ ]?(?P<label>lat(?:itude)?|lng|long?(?:itude)?)\b[ ]*(?=[,;.)\n]|and\b|$)", re.IGNORECASE)
_FILLER = re.compile(
    r"(?<![^\W_])(?:and|is|are|of|the|at|a|as|about|around|approx(?:imately)?|roughly|circa|ca|deg(?:rees?)?|decimal|value"
    r"|text|north|south|east|west|[nsew])(?![^\W_])",
    re.IGNORECASE,
)
_POINT = re.compile(
    r"(?<![^\W_])(?:coordinates?|coords?|gps|location|position|place|point|answer|centred|centered)(?![^\W_])[^\w.!?]*"
    r"(?:(?:(?:is|are|at|of|the|about|around|approximately|roughly|would|be|estimate)\b[^\w.!?]*)*|[^.!?]*[:=][^\w.!?]*)$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]")
#: A sentence ends between two numbers.
_ENDS = re.compile(r"[.!?]\s")
_BRACKET = re.compile(r"[(){}\[\]]")
#: The number of a list's item.
_ITEM = re.compile(r"\A[ #*>-]*[0-9]{1,3}[.)] ")
_DASHED = re.compile(r"(?<![^\W_])(?:lat(?:itude)?|lng|long?(?:itude)?)(?P<dash>-| ?- )$", re.IGNORECASE)
_NOT_A_NUMBER = re.compile(
    r"(?<![^\W_])(?:lat(?:itude)?|lng|long?(?:itude)?)[\"' ]*+[:=]?+[\"' ]*+[+-]?+(?:nan|inf(?:inity)?)\b", re.IGNORECASE
)
_ORDER = ("out_of_range", "swapped", "ambiguous", "incomplete")


def places(text: str) -> list[Found]:
    """Every place the text states, in order of appearance."""
    return [item for item in _read(text) if isinstance(item, Found)]


def parse_place(text: str) -> Found | Fault:
    """The one place the text states.

    Returns:
        The place; a place stated several times is the first. Or a fault: "out_of_range"; "swapped", a bare pair that is a place
        only the other way round; "ambiguous", several places or numbers with two readings; "incomplete", one coordinate without
        the other; "none".
    """
    items = list(_read(text))
    found = [item for item in items if isinstance(item, Found)]
    if len({(place.latitude, place.longitude) for place in found}) > 1:
        return Fault("ambiguous", f"{len(found)} places")
    if found:
        return found[0]
    faults = sorted((item for item in items if isinstance(item, Fault)), key=lambda fault: _ORDER.index(fault.reason))
    return faults[0] if faults else Fault("none", "no coordinates")


def _read(text: str) -> Iterator[Found | Fault]:
    text = plain(text)
    if _NOT_A_NUMBER.search(text):
        yield Fault("out_of_range", "a coordinate that is no number")
    row = _labelled(text)
    at = 0
    while at < len(row):
        first, second = row[at], row[at + 1] if at + 1 < len(row) else None
        if (
            first.axis is None
            and second is not None
            and second.axis
            and (_partner(text, row, at + 1) or not _near(text, first, second))
        ):
            yield from _bare(text, [first])
            at += 1
        elif first.axis is None and (second is None or second.axis is None):
            run = _run(text, row, at)
            for line in _lines(text, run):
                yield from _bare(text, line)
            at += len(run)
        elif partner := _partner(text, row, at):
            yield _checked(*_ordered(first, partner[0]))
            at = partner[1] + 1
        else:
            if first.axis:
                yield Fault(*first.fault) if first.fault else Fault("incomplete", f"a {first.axis} alone")
            at += 1


def _labelled(text: str) -> list[Angle]:
    """The angles with the axes that labels give them, decimal commas joined."""
    out: list[Angle] = []
    queue: list[Axis] = []
    end = 0
    row = list(angles(text))
    at = 0
    while at < len(row):
        angle = row[at]
        gap = text[max(end, angle.start - _REACH) : angle.start]
        labels = _labels(gap)
        queue = labels or (queue if end and not _WORD.search(_FILLER.sub("", gap)) else [])
        if angle.comma and (len(queue) == 1 or _beside(row, at, text)):
            angle, at = joined(angle, row[at + 1], text), at + 1
        angle = _dashed(angle, gap)
        suffix = _SUFFIX.match(text, angle.end)
        if angle.axis is None and queue:
            angle = replace(angle, axis=queue[0])
        elif angle.axis is None and suffix:
            angle = replace(angle, axis=_axis(suffix["label"]))
        elif queue and len(queue) == 1 and queue[0] != angle.axis:
            angle = replace(angle, fault=("ambiguous", "a label and a hemisphere that contradict each other"))
        queue = queue[1:]
        out.append(angle)
        end = suffix.end() if suffix and angle.axis == _axis(suffix["label"]) and not labels else angle.end
        at += 1
    return out


def _labels(gap: str) -> list[Axis]:
    """The axes that the end of a gap names: the last label, or the last two where they are a heading of both."""
    found = list(_LABEL.finditer(gap))
    if not found or _WORD.search(_FILLER.sub("", gap[found[-1].end() :])):
        return []
    last = found[-1]
    if last["both"]:
        return ["latitude", "longitude"] if last["both"][:2].lower() == "la" else ["longitude", "latitude"]
    return [_axis(last[0])]


def _axis(label: str) -> Axis:
    return "latitude" if label[:2].lower() == "la" else "longitude"


def _dashed(angle: Angle, gap: str) -> Angle:
    """The minus that stands apart from its number, where it can be nothing else."""
    if angle.signed or angle.hemisphere:
        return angle
    if re.search(r"[:=(\[,][ ]*- $", gap) or (gap == "- " and angle.start == 2):
        return replace(angle, degrees=-angle.degrees + 0.0, signed=True, start=angle.start - 2)
    if _DASHED.search(gap):
        return replace(angle, fault=("ambiguous", "a dash that may be a minus"))
    return angle


def _beside(row: Sequence[Angle], at: int, text: str) -> bool:
    """Whether an integer, comma, integer stands beside another such that they are two numbers with decimal commas."""
    for first in (at, at - 2):
        four = row[first : first + 4] if first >= 0 else []
        if len(four) < 4 or not (four[0].comma and four[2].comma):
            continue
        between = text[four[1].end : four[2].start]
        apart = re.fullmatch(r"[,;/| ]?\s+(?:and )?|[;/|]", between)
        # A longitude has no leading zero: 48,05 is one number.
        pairs = all(abs(number.degrees) <= 180 and not re.match("0[0-9]", text[number.start :][:2]) for number in four[1::2])
        if apart and not pairs:
            return True
    return False


def _near(text: str, first: Angle, second: Angle) -> bool:
    gap = text[first.end : second.start]
    return len(gap) <= _REACH and not _ENDS.search(gap) and not _WORD.search(_FILLER.sub("", _LABEL.sub("", gap)))


def _partner(text: str, row: Sequence[Angle], at: int) -> tuple[Angle, int] | None:
    """What makes a place with an angle, and where it stands in the row.

    That is the next that says that it is the other coordinate, though a number or two stand between ("lat 48.9 (error 0.1),
    lon 2.3"), else the neighbour.
    """
    first = row[at]
    for other in range(at + 1, min(at + 4, len(row))) if first.axis else ():
        second = row[other]
        if second.axis:
            if second.axis != first.axis and (second.start - first.end <= _FAR or _near(text, first, second)):
                return second, other
            break
    if at + 1 == len(row) or not _near(text, first, row[at + 1]) or (first.axis and row[at + 1].axis):
        return None
    second = row[at + 1]
    if (first.hemisphere and not second.signed) or (second.hemisphere and not first.signed):
        second = replace(second, fault=("incomplete", "a hemisphere for one coordinate only"))
    return second, at + 1


def _ordered(first: Angle, second: Angle) -> tuple[Angle, Angle]:
    """Latitude and longitude."""
    turned = first.axis == "longitude" or second.axis == "latitude"
    return (second, first) if turned else (first, second)


def _run(text: str, row: Sequence[Angle], at: int) -> list[Angle]:
    run = [row[at]]
    for angle in row[at + 1 :]:
        gap = text[run[-1].end : angle.start]
        if angle.axis is not None or not _near(text, run[-1], angle) or _BRACKET.search(gap) or angle.marked != run[-1].marked:
            break
        run.append(angle)
    return run


def _lines(text: str, run: Sequence[Angle]) -> Iterator[Sequence[Angle]]:
    """A row of bare numbers line by line; two numbers alone may stand on two lines."""
    cuts = [at for at in range(1, len(run)) if "\n" in text[run[at - 1].end : run[at].start]] if len(run) > 2 else []
    for start, end in pairwise([0, *cuts, len(run)]):
        yield run[start:end]


def _bare(text: str, run: Sequence[Angle]) -> Iterator[Found | Fault]:
    """What a row of numbers that only their order tells apart says."""
    gaps = [text[one.end : other.start] for one, other in pairwise(run)]
    said = _said(text, run)
    if not said:
        return
    if len(run) == 1:
        yield Fault("incomplete", "one number alone")
    elif len(run) == 2 and run[0].comma and not _enclosed(text, run):
        yield Fault("ambiguous", f"{text[run[0].start : run[1].end]}: two integers, or one number with a decimal comma")
    elif len(run) == 2 and re.fullmatch("[ ]*[-–][ ]*", gaps[0]):
        yield Fault("ambiguous", "a dash that may be a minus")
    elif len(run) == 2:
        yield _checked(run[0], run[1])
    elif len(run) % 2 == 0 and not any(angle.comma for angle in run) and len(set(gaps[::2])) == 1 and gaps[0] not in gaps[1::2]:
        for one, other in zip(run[::2], run[1::2], strict=True):
            yield _checked(one, other)
    else:
        yield Fault("ambiguous", f"{len(run)} numbers in a row")


def _said(text: str, run: Sequence[Angle]) -> bool:
    """Whether bare numbers are said to be a place."""
    if len(run) > 1 and (all(angle.decimals >= 2 for angle in run) or all(angle.marked for angle in run)):
        return True
    if _enclosed(text, run) and len(run) == 2 and all(angle.decimals for angle in run):
        return True
    first, last = run[0].start, run[-1].end
    start = text.rfind("\n", max(0, first - _REACH), first) + 1
    if _POINT.search(text, max(start, first - _REACH), first):
        return True
    head, tail = _ITEM.sub("", text[max(start, first - _REACH) : first]), text[last : last + _REACH].partition("\n")[0]
    return not _WORD.search(head + tail) and (len(run) > 1 or len(text) <= _REACH)


def _enclosed(text: str, run: Sequence[Angle]) -> bool:
    before, after = text[max(0, run[0].start - 4) : run[0].start].rstrip(), text[run[-1].end : run[-1].end + 4].lstrip()
    return (before[-1:] + after[:1]) in ("()", "[]", "{}", "<>")


def _checked(latitude: Angle, longitude: Angle) -> Found | Fault:
    fault = latitude.fault or longitude.fault
    if fault:
        return Fault(*fault)
    lat, lon = latitude.degrees, longitude.degrees
    if abs(lat) <= 90 and abs(lon) <= 180:
        return Found(lat, lon, min(latitude.start, longitude.start), max(latitude.end, longitude.end))
    bare = latitude.axis is None and longitude.axis is None
    if bare and abs(lat) <= 180 and abs(lon) <= 90:
        return Fault("swapped", f"({lat:g}, {lon:g}) is a place only with the longitude first, and nothing says so")
    return Fault("out_of_range", f"latitude {lat:g}, longitude {lon:g}")
