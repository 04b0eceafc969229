"""A reply -> the answer it gives, or the reason why it gives none; never a default place.

Looked for in this order, the first that holds coordinates decides:

1. an `<answer>` tag: the last one that is complete; within it labelled numbers, a pair, degrees-minutes-seconds or JSON;
2. JSON, fenced or in the middle of prose, whole or cut off: the last document that answers; in it `answer.coordinates` before
   `answer`, `coordinates`, a list of candidates (the most probable where each has a probability, else the first) and the rest.
   What stands under `thinking` is no answer. GeoJSON points are longitude first;
3. prose: the place after the last "final answer", "best guess" and the like, else the first of a numbered list, else the last.

Thinking blocks never answer. A coordinate counts only if it was complete: cut off at the token limit, 2.29 may have been on its
way to 2.29448, so a caller that knows that the limit ended the reply says `finished=False`. (0, 0) is a place where it is
written, unless the reply refuses in the same breath.

Stated out of range (NaN and 1e999 included) is final: a reply whose last answer is latitude 123 is rejected, not searched for
older thoughts. A geo-caption of 2.7 kB takes 0.2 ms, a tag 0.04 ms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from geobatch.engine.lenient import Node, documents, plain
from geobatch.geo.angle import angles, joined
from geobatch.geo.angle import plain as same_signs
from geobatch.geo.parse import Fault, Found, parse_place, places

Form = Literal["tag", "json", "prose"]
Reason = Literal["unparsed", "refused", "out_of_range", "cut_off"]


@dataclass(frozen=True)
class Answer:
    """A place in degrees, and the characters `start` to `end` of the reply that hold it.

    `caption` is the geo-caption of a reply that is one, whole; its fields as the model wrote them, unchecked.
    """

    latitude: float
    longitude: float
    start: int
    end: int
    form: Form
    caption: dict[str, Any] | None = None


@dataclass(frozen=True)
class Unparsed:
    """Why a reply gives no place: it states none, it refuses, the place it states is none, or it ends before the place does."""

    reason: Reason
    detail: str


_THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_TAG = re.compile(r"<answer>", re.IGNORECASE)
_END = re.compile(r"</answer>|<answer>", re.IGNORECASE)
_ANSWERED = re.compile(r"<answer>[^<]*+</answer>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:can(?:not|'t| ?not)|could(?: not|n't)|unable to|not able to|not possible to|impossible to|won't)\s+(?:\w+\s+){0,3}?"
    r"(?:determine|identify|locate|tell|pinpoint|provide|say|assist|help|geolocate|give|estimate|answer|infer|know)"
    r"|\bi(?:'m| am)(?: \w+)? sorry\b|\bsorry, (?:but )?i\b|\bi (?:must )?(?:decline|refuse)\b|\bi don't know\b|\bas an ai\b"
    r"|\b(?:not enough|insufficient|no)\s+(?:\w+\s+)?(?:information|evidence|clues|context)\b|\A\W*(?:unknown|n/a)\W*\Z"
    r"|\b(?:location|coordinates|place|answer)\W+(?:is|are|:)?\W*(?:unknown|null|n/a|undetermined)\b",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"\b(?:final|best|most likely|conclu\w+|therefore|my (?:answer|estimate|guess)|answer|overall|in summary)\b", re.IGNORECASE
)
_LISTED = re.compile(r"^[ \t>*_#]*(?:1[.)]|(?:candidate|option|location)\s*(?:1|a)\b)", re.IGNORECASE | re.MULTILINE)
_LATITUDE, _LONGITUDE = ("latitude", "lat"), ("longitude", "lon", "lng", "long")
_FIRST = ("answer", "final_answer", "coordinates", "coordinate", "coords", "location", "gps", "latlon", "latlng", "geometry")
_CANDIDATES = ("candidates", "locations", "predictions", "answers", "guesses", "places")
_WEIGHTS = ("probability", "confidence", "score", "likelihood")
_THOUGHT = ("thinking", "thought", "thoughts", "reasoning", "analysis", "elimination_similar_regions", "image_id")


def parse(text: str, finished: bool = True) -> Answer | Unparsed:
    """The answer a reply gives.

    Args:
        text: the reply; anything at all.
        finished: whether the model ended it; False if the token limit did, so that a number at the very end may be half a
            number.
    """
    said, thinking = without_thinking(text)
    if not finished:
        # A number that the limit may have cut is as good as none; the blanks keep every position.
        said = re.sub(r"(?<![0-9.])(?![0-9]*\.[0-9]{5})[0-9][0-9.]*+[°'\"′″]*+\Z", lambda cut: " " * len(cut[0]), said)
    read = list(documents(said))
    stated = _tagged(said) or _written(said, read) or _told(_unthought(said, read))
    if isinstance(stated, Answer) and stated.latitude == 0 == stated.longitude and _REFUSAL.search(same_signs(said)):
        return Unparsed("refused", "a refusal at 0, 0")
    if stated is not None:
        return stated
    return _why(said, read, thinking, finished)


def without_thinking(text: str) -> tuple[str, bool]:
    """The reply with its thinking blanked out, character for character, and whether it ends while thinking."""
    spans: list[tuple[int, int]] = []
    opened = -1
    for mark in _THINKING.finditer(text):
        if not mark[1]:
            opened = mark.start() if opened < 0 else opened
        elif opened >= 0:
            spans.append((opened, mark.end()))
            opened = -1
        else:  # the template opened the block, so that all before its end was thought
            spans = [(0, mark.end())]
    answered = _ANSWERED.search(text, opened) if opened >= 0 else None
    if opened >= 0:  # a model that forgets to end its thinking has answered all the same
        spans.append((opened, answered.start() if answered else len(text)))
    return _blanked(text, spans), opened >= 0 and not answered


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    out, at = [], 0
    for start, end in spans:
        out += [text[at:start], " " * (end - start)]
        at = end
    return "".join([*out, text[at:]])


def _unthought(text: str, read: list[Node]) -> str:
    """The reply without the reasoning in its JSON, for prose to be looked for in the rest."""
    spans: list[tuple[int, int]] = []
    for document in read:
        members = document.value if isinstance(document.value, dict) else {}
        spans += sorted((inner.start, inner.end) for name, inner in members.items() if name.lower() in _THOUGHT)
    return _blanked(text, spans)


def _tagged(text: str) -> Answer | Unparsed | None:
    """What the last complete answer tag says."""
    for tag in reversed(list(_TAG.finditer(text))):
        close = _END.search(text, tag.end())
        start, end = tag.end(), close.start() if close else len(text)
        inside = text[start:end]
        stated = _written(inside, list(documents(inside))) or _first(inside)
        if isinstance(stated, Answer):
            return Answer(stated.latitude, stated.longitude, start + stated.start, start + stated.end, "tag", stated.caption)
        if stated is not None and stated.reason != "cut_off":
            return stated
    return None


def _first(text: str) -> Answer | Unparsed | None:
    found = parse_place(text)
    if isinstance(found, Fault) and found.reason == "ambiguous" and (several := places(text)):
        found = several[0]
    return _stated(found, 0)


def _stated(found: Found | Fault, shift: int, form: Form = "prose") -> Answer | Unparsed | None:
    if isinstance(found, Found):
        return Answer(found.latitude, found.longitude, shift + found.start, shift + found.end, form)
    return Unparsed("out_of_range", found.detail) if found.reason in ("out_of_range", "swapped") else None


def _told(text: str) -> Answer | Unparsed | None:
    """What prose says."""
    found = places(text)
    if not found:
        return _stated(parse_place(text), 0)
    cues = list(_FINAL.finditer(text))
    if cues and (after := [place for place in found if place.start >= cues[-1].end()]):
        return _stated(after[0], 0)
    listed = _LISTED.search(text)
    after = [place for place in found if listed and place.start >= listed.end()]
    return _stated(after[0] if after else found[-1], 0)


def _written(text: str, read: list[Node]) -> Answer | Unparsed | None:
    """What JSON says: the last document with coordinates."""
    cut: Unparsed | None = None
    for document in reversed(read):
        inner = document.value
        numbers = isinstance(inner, list) and not any(isinstance(item.value, float | str | dict | list) for item in inner)
        if numbers and text.strip() != text[document.start : document.end]:
            continue  # "[1, 2]" amid prose is more often a footnote than a place
        stated = _in(document, text)
        if isinstance(stated, Answer):
            return Answer(stated.latitude, stated.longitude, stated.start, stated.end, "json", _caption(document))
        if stated is not None and stated.reason != "cut_off":
            return stated
        cut = cut or stated
    return cut


def _caption(document: Node) -> dict[str, Any] | None:
    inner = document.value
    if not document.whole or not isinstance(inner, dict) or not {"thinking", "answer"} <= inner.keys():
        return None
    caption: dict[str, Any] = plain(document)
    return caption


def _in(node: Node, text: str) -> Answer | Unparsed | None:
    """The coordinates in a value."""
    if isinstance(node.value, dict):
        return _in_object(node.value, text)
    if isinstance(node.value, list):
        return _pair(node) or next(_all(_ranked(node.value), text), None)
    stated = _stated(parse_place(node.value), node.start, "json") if isinstance(node.value, str) and node.whole else None
    if isinstance(stated, Answer) and text[node.start : node.end] != node.value:  # escapes shift what follows them
        return Answer(stated.latitude, stated.longitude, node.start, node.end, "json")
    return stated


def _in_object(inner: dict[str, Node], text: str) -> Answer | Unparsed | None:
    members = {name.strip().lower(): node for name, node in inner.items()}
    first_words = {found[0]: members[name] for name in reversed(members) if (found := re.match("[a-z]+", name))}
    latitude, longitude = (
        next((known[name] for known in (members, first_words) for name in names if name in known), None)
        for names in (_LATITUDE, _LONGITUDE)
    )
    if latitude and longitude:
        return _both(latitude, longitude)
    if "coordinates" in members and str(members["type"].value if "type" in members else "").lower() == "point":
        return _pair(members["coordinates"], turned=True)
    order = [*_FIRST, *_CANDIDATES, *(name for name in members if name not in (*_FIRST, *_CANDIDATES, *_THOUGHT))]
    return next(_all([members[name] for name in order if name in members], text), None)


def _all(nodes: list[Node], text: str) -> Iterator[Answer | Unparsed]:
    for node in nodes:
        stated = _in(node, text)
        if stated is not None:
            yield stated


def _ranked(nodes: list[Node]) -> list[Node]:
    """Candidates by probability, where each has one; else as they stand."""

    def weight(node: Node) -> float:
        inner = node.value if isinstance(node.value, dict) else {}
        named = next((inner[name].value for name in _WEIGHTS if name in inner), None)
        return float(named) if isinstance(named, int | float) and not isinstance(named, bool) else math.nan

    weights = [weight(node) for node in nodes]
    if any(math.isnan(value) for value in weights):
        return nodes
    return [node for _, node in sorted(zip(weights, nodes, strict=True), key=lambda pair: -pair[0])]


def _pair(node: Node, turned: bool = False) -> Answer | Unparsed | None:
    """[latitude, longitude], or longitude first."""
    inner = node.value
    if not isinstance(inner, list) or len(inner) != 2 or any(isinstance(one.value, dict | list) for one in inner):
        return None
    return _both(inner[1], inner[0]) if turned else _both(inner[0], inner[1])


def _both(latitude: Node, longitude: Node) -> Answer | Unparsed | None:
    if not (latitude.whole and longitude.whole):
        return Unparsed("cut_off", "the reply ends within its coordinates")
    lat, lon = _degrees(latitude, "latitude"), _degrees(longitude, "longitude")
    if lat is None or lon is None:
        empty = latitude.value is None or longitude.value is None
        return Unparsed("refused", "a coordinate is null") if empty else None
    if abs(lat) <= 90 and abs(lon) <= 180:
        return Answer(lat, lon, min(latitude.start, longitude.start), max(latitude.end, longitude.end), "json")
    return Unparsed("out_of_range", f"latitude {lat:g}, longitude {lon:g}")


def _degrees(node: Node, axis: str) -> float | None:
    """A coordinate as a number or as a string with a number, a hemisphere, degrees-minutes-seconds or a decimal comma."""
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return math.inf if abs(node.value) > 1e300 else float(node.value)
    if not isinstance(node.value, str):
        return None
    inside = same_signs(node.value)
    if re.fullmatch(r"\s*[+-]?(?:nan|inf(?:inity)?)\s*", inside, re.IGNORECASE):
        return math.nan
    found = list(angles(inside))
    if len(found) == 2 and found[0].comma:
        found = [joined(found[0], found[1], inside)]
    if len(found) != 1 or found[0].axis not in (None, axis):
        return None
    fault = found[0].fault
    return found[0].degrees if fault is None else math.nan if fault[0] == "out_of_range" else None


def _why(said: str, read: list[Node], thinking: bool, finished: bool) -> Unparsed:
    if thinking or not finished:
        return Unparsed("cut_off", "the reply ends " + ("while thinking" if thinking else "before its coordinates do"))
    refusal = _REFUSAL.search(same_signs(said))
    if refusal:
        return Unparsed("refused", said[max(0, refusal.start() - 20) : refusal.end() + 60].strip())
    tags = list(_TAG.finditer(said))
    open_tag = bool(tags) and not _END.search(said, tags[-1].end())
    if open_tag or any(not document.whole and document.end >= len(said.rstrip()) for document in read):
        return Unparsed("cut_off", "the reply ends before its coordinates do")
    fault = parse_place(said)
    return Unparsed("unparsed", fault.detail if isinstance(fault, Fault) else "no coordinates")
