"""Places out of the annotations that texts and tiles are published with, JSON and JSON Lines, in the layouts as shipped.

    CVG-Text         {"40.7,-74.0_2019-05_p_d193_z3.png": "a text", …}: the place stands in the name
    lists, lines     [{"image_id": "a.png", "latitude": 1.5, "longitude": 2, …}, …]: by titles as in a CSV, else by the name
    GeoText-1652     [{"image_id": "0839/image-43.jpeg", "caption": …}, …]: a building has no published place; it is refused

An image that several entries are of stands once in each; equal ones are merged as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from geobatch.benchmark.columns import Columns, of_cells
from geobatch.benchmark.named import place_of
from geobatch.benchmark.titles import AXES, IMAGE_NAMES, TRUTH, chosen, plain
from geobatch.errors import UserError

_LINES = (".jsonl", ".ndjson")


def is_annotations(name: str) -> bool:
    """Whether a file is read by `from_json`, by its ending."""
    return name.lower().endswith((".json", *_LINES))


def from_json(data: bytes, name: str) -> Columns:
    """The names and places of annotations.

    Raises:
        UserError: it is no such file, an entry names no image, or none has a place.
    """
    found = [{plain(key): value for key, value in each.items()} for each in _entries(data, name)]
    titles = [*dict.fromkeys(key for each in found for key in each)]
    if found and not any(title in IMAGE_NAMES for title in titles):
        raise UserError(f"the entries of {name} name no image; give each a key {IMAGE_NAMES[0]!r}")
    image, north, east = (next((one for one in IMAGE_NAMES if one in titles), ""), "", "")
    if any(title in AXES for title in titles):
        image, north, east = (titles[at] for at in chosen(titles, name, TRUTH))
    ids, latitude, longitude = [], [], []
    for each in found:
        ids.append("" if each.get(image) is None else str(each[image]))
        place = (each.get(north), each.get(east))
        if None in place:
            place = place_of(ids[-1]) or (None, None)
        latitude.append(place[0])
        longitude.append(place[1])
    if all(one is None for one in latitude):
        raise UserError(
            f"no entry of {name} has a place, in a key latitude or in its name (the first is {ids[:1]}); GeoText-1652's "
            "buildings have none: judge those with evaluate_retrieval.py --benchmark geotext, others by a file with coordinates"
        )
    return of_cells(ids, latitude, longitude, name)


def _entries(data: bytes, name: str) -> list[Mapping[str, Any]]:
    """Each image with what is said of it."""
    try:
        text = data.decode("utf-8-sig")
        lines = name.lower().endswith(_LINES) or _begins_with_an_object_a_line(text)
        found: Any = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except ValueError as error:  # no UTF-8 either
        raise UserError(f"{name} is no JSON ({error}); save it as it was published, or as a UTF-8 CSV") from error
    if isinstance(found, Mapping):
        found = [{**(each if isinstance(each, Mapping) else {}), IMAGE_NAMES[0]: image} for image, each in found.items()]
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise UserError(f"{name} is no list of images and no mapping of them; save it as it was published, or as a CSV")
    return found


def _begins_with_an_object_a_line(text: str) -> bool:
    """Whether a file that is called JSON is one of lines."""
    first, _, rest = text.partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), Mapping)
    except ValueError:
        return False
