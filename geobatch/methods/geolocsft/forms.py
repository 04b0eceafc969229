"""The two published answer forms, geo-caption or reasoning and tag, and the grammars that guide them (GeoLocSFT, section 3).

The paper has a model look twice before it answers, at what tells regions apart (25 km) and at what tells roads apart (1 km),
then argue against the regions that look alike, and only then name the place. `GEO_CAPTION` is that order as a JSON schema with
a sentence on every field; the prompts print those sentences, so that schema and prompt cannot drift apart.

"json" is the whole geo-caption, coordinates inside. "tag" is the same words as an outline, then an answer tag, the coordinates
last, after all that speaks for them.

`GEO_CAPTION` and the patterns stay within what xgrammar compiles: no lookaround, no backreference, bounded strings, so that a
guided model comes to its end. Coordinates are written with five decimals (1.1 m) and never as `1e-05`, which the grammar of a
bounded number cannot produce.

An `image_id` may hold a place's name (`s3://city/paris/3.jpg`) and no student could know it, so what a student learns to write
there is the constant word "image". `leaks` finds reasoning that speaks of the truth its author was given.

Not covered: a truth that is betrayed in other languages than English.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from geobatch.geo.angle import angles, plain

Form = Literal["tag", "json"]

#: What a student writes as `image_id`.
IMAGE_ID = "image"


def _text(description: str, longest: int = 400) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": longest, "description": description}


def _object(**properties: Any) -> dict[str, Any]:
    named = {name.lstrip("_"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": named, "required": list(named), "additionalProperties": False}


def _three(description: str) -> dict[str, Any]:
    return {"type": "array", "items": _text(description, 300), "minItems": 3, "maxItems": 3}


def _degrees(name: str, bound: int) -> dict[str, Any]:
    description = f"{name} in degrees, five decimals"
    return {"type": "number", "minimum": -bound, "maximum": bound, "description": description}


#: JSON schema of the geo-caption. All strings at their longest make 14 kB, about 3,500 tokens of English.
GEO_CAPTION: dict[str, Any] = _object(
    image_id=_text("the image's name", 1024),
    thinking=_object(
        _25km_analysis=_object(
            terrain_characteristics=_text("landforms, relief and water that mark the wider area"),
            climate_features=_text("light, sky, season and vegetation zone, and the climate they speak for"),
            regional_development=_text("density, wealth and land use of the wider area"),
        ),
        _1km_analysis=_object(
            road_engineering=_object(
                surface_materials=_text("what road and pavement are made of, and their state"),
                line_markings=_text("colour, pattern and width of the painted lines"),
                guardrails=_text("barriers, bollards and kerbs, and their make"),
                lighting=_text("street lamps, poles and wiring"),
                drainage=_text("gutters, drains, ditches and covers"),
            ),
            vegetation=_object(
                tree_species=_text("trees, to species or genus where they can be told"),
                herbaceous_plants=_text("grasses, crops, flowers and weeds"),
                vegetation_management=_text("how it is planted, cut or left alone"),
            ),
        ),
        buildings_infrastructure=_object(
            architectural_styles=_text("building types, materials, roofs and age"),
            municipal_facilities=_text("signs, scripts, languages, bins, hydrants and other street furniture"),
            transportation_facilities=_text("stops, stations, rails, bridges, ports, parking"),
        ),
        vehicles_traffic=_object(
            vehicle_types=_text("makes, number plates, and what is usual here"),
            traffic_patterns=_text("driving side, volume, and rules one can see"),
        ),
        terrain_soil=_object(
            terrain_details=_text("slope, rock and water close by"),
            soil_characteristics=_text("colour, texture and moisture of the ground"),
        ),
        elimination_similar_regions={
            "type": "array",
            "minItems": 2,
            "maxItems": 4,
            "items": _object(
                eliminated_region=_text("a region that looks alike and is not the place", 120),
                reasons=_three("a visible sign that speaks against it"),
            ),
        },
    ),
    answer=_object(
        coordinates=_object(
            latitude=_degrees("latitude", 90),
            longitude=_degrees("longitude", 180),
            region=_text("country, state, city or nearest town", 200),
        ),
        final_location_confirmation=_object(
            confirmed_location=_text("the place in words, as narrow as the picture allows", 300),
            decisive_features=_three("a sign that decided it"),
            accuracy_assessment=_text("how far off this may be, and why"),
        ),
    ),
)

_LATITUDE = r"-?(90\.00000|[1-8]?[0-9]\.[0-9]{5})"
_LONGITUDE = r"-?(180\.00000|(1[0-7][0-9]|[1-9]?[0-9])\.[0-9]{5})"

#: Exactly one answer tag with numbers in range.
TAG_PATTERN = rf"<answer>\nlat: {_LATITUDE}\nlon: {_LONGITUDE}\n</answer>"

#: Reasoning, then the tag. The bound holds any geo-caption's outline and brings a guided model to its answer within about 4,000
#: tokens of English.
REASONED_TAG_PATTERN = rf"[^<]{{1,6000}}{TAG_PATTERN}"


def tag(latitude: float, longitude: float) -> str:
    """The answer tag, degrees with five decimals (1.1 m).

    Raises:
        ValueError: coordinates out of range.
    """
    lat, lon = degrees(latitude, longitude)
    return f"<answer>\nlat: {lat}\nlon: {lon}\n</answer>"


def caption_text(caption: dict[str, Any], form: Form) -> str:
    """What the student is trained to write for a geo-caption: fields in the schema's order, coordinates with five decimals.

    Double quotes become single ones, backslashes slashes, line breaks blanks: where a schema bounds a string's length, xgrammar
    lets no escape through, and a student should not learn what a guided one cannot write.

    Raises:
        ValueError: a field is missing, or coordinates are out of range.
    """
    whole = _ordered(caption, GEO_CAPTION, "caption")
    where = whole["answer"]["coordinates"]
    lat, lon = degrees(where["latitude"], where["longitude"])
    if form == "tag":
        argued = {
            **whole["thinking"],
            "conclusion": {"region": where["region"], **whole["answer"]["final_location_confirmation"]},
        }
        return "\n".join(_outline(argued)).replace("<", "less than ") + "\n" + tag(float(lat), float(lon))
    head = _one_line({"image_id": IMAGE_ID, "thinking": whole["thinking"]})[:-1]
    # Not through json: it writes 0.00001 as 1e-05, which guided decoding could never repeat.
    numbers = f'"latitude": {lat}, "longitude": {lon}, "region": {_one_line(where["region"])}'
    tail = _one_line(whole["answer"]["final_location_confirmation"])
    return f'{head}, "answer": {{"coordinates": {{{numbers}}}, "final_location_confirmation": {tail}}}}}'


_UNQUOTED = {ord('"'): "'", ord("\\"): "/", **dict.fromkeys(range(32), " ")}
_DECIMAL = re.compile(r"(?<![0-9])[0-9]{1,3}[.,][0-9]{2,}")
_BETRAYING = re.compile(
    r"\b(?:given|provided|supplied|stated|known|true|actual|input|reference|target|exact|specified|gps|exif)"
    r"\s+(?:gps\s+|exif\s+)?(?:coordinate|latitude|longitude|position|metadata|tag)"
    r"|\b(?:given|provided|supplied|told|specified|true|known)\s+location\b"
    r"|\bground[ -]truth\b|\bgeo-?tag|\bgps\b|\bexif\b"
    r"|\b(?:coordinates?|latitude and longitude)\s+(?:\w+\s+){0,3}(?:given|provided|supplied|told|specified|known)\b"
    r"|\b(?:the|these|those|its|with|by|from|to)\s+coordinates\b",
    re.IGNORECASE,
)


def leaks(caption: dict[str, Any], latitude: float, longitude: float) -> bool:
    """Whether a caption's reasoning betrays the truth its author was given.

    Reasoning is every string outside `answer`. It leaks with a decimal of two or more places, or degrees and minutes, within
    0.01° of a coordinate, sign left out; the strings of `answer`, too, leak with words such as "given coordinates".
    """
    reasoning = "\n".join(strings({key: part for key, part in caption.items() if key not in ("answer", "image_id")}))
    if _BETRAYING.search(reasoning) or _BETRAYING.search("\n".join(strings(caption.get("answer")))):
        return True
    numbers = [float(found.replace(",", ".")) for found in _DECIMAL.findall(reasoning)]
    numbers += [abs(angle.degrees) for angle in angles(plain(reasoning)) if angle.marked and angle.degrees % 1]
    return any(abs(number - abs(truth)) <= 0.01 for number in numbers for truth in (latitude, longitude))


def degrees(latitude: float, longitude: float) -> tuple[str, str]:
    """Latitude and longitude as both forms write them.

    Raises:
        ValueError: coordinates out of range.
    """
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(f"({latitude}, {longitude}) is no place; latitude is within 90 and longitude within 180 degrees")
    # Adding 0 turns the "-0.00000" of a tiny negative number into "0.00000".
    return f"{round(float(latitude), 5) + 0.0:.5f}", f"{round(float(longitude), 5) + 0.0:.5f}"


def _ordered(value: Any, schema: dict[str, Any], path: str) -> Any:
    """The value with its fields in the schema's order and its strings in characters that need no escape."""
    if schema["type"] == "object":
        inner = schema["properties"]
        if not isinstance(value, dict) or inner.keys() - value.keys():
            raise ValueError(f"{path} needs {', '.join(inner)}")
        return {name: _ordered(value[name], inner[name], f"{path}.{name}") for name in inner}
    if schema["type"] == "array":
        if not isinstance(value, list):
            raise ValueError(f"{path} needs a list")
        return [_ordered(item, schema["items"], path) for item in value]
    if isinstance(value, bool) or not isinstance(value, str if schema["type"] == "string" else int | float):
        raise ValueError(f"{path} needs a {schema['type']}, not {value!r}")
    # Half a surrogate pair, which a model may write as an escape, is nothing a file could hold.
    return " ".join(value.translate(_UNQUOTED).encode(errors="ignore").decode().split()) if isinstance(value, str) else value


def _outline(value: Any, depth: int = 0) -> Iterator[str]:
    """Lines `- name: text`, indented by depth; what a list holds stands in one line if it is text."""
    for name, inner in value.items():
        label = f"{'  ' * depth}- {name.replace('_', ' ')}:"
        if isinstance(inner, dict):
            yield label
            yield from _outline(inner, depth + 1)
        elif isinstance(inner, str):
            yield f"{label} {inner}"
        elif all(isinstance(item, str) for item in inner):
            yield f"{label} {'; '.join(inner)}"
        else:
            yield label
            for item in inner:
                yield from _outline({item["eliminated_region"]: item["reasons"]}, depth + 1)


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
