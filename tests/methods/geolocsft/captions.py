"""Geo-captions for tests: one that a person might write, and any that the schema allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from geobatch.methods.geolocsft.forms import GEO_CAPTION
from tests.geo.places import LATITUDES, LONGITUDES


def caption(latitude: float, longitude: float) -> dict[str, Any]:
    """A geo-caption, every field filled from what the schema says belongs there."""

    def fill(schema: dict[str, Any], name: str) -> Any:
        if schema["type"] == "object":
            return {inner: fill(one, inner) for inner, one in schema["properties"].items()}
        if schema["type"] == "array":
            return [fill(schema["items"], f"{name} {at + 1}") for at in range(schema["minItems"])]
        return f"{name.replace('_', ' ')}: {schema['description']}"

    told: dict[str, Any] = fill(GEO_CAPTION, "")
    told["answer"]["coordinates"].update(latitude=latitude, longitude=longitude)
    return told


def _any(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: _any(inner) for name, inner in schema["properties"].items()})
    if schema["type"] == "array":
        return st.lists(_any(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"])
    if schema["type"] == "number":
        return LATITUDES if schema["maximum"] == 90 else LONGITUDES
    return _WORDS


#: What breaks writers: quotes, escapes, line breaks, brackets, other scripts, and what looks like an answer.
_WORDS = st.sampled_from(
    [
        *(
            "red clay",
            'a sign "STOP"',
            "back\\slash",
            "two\nlines",
            "{[()]}",
            "дорога, 道路",
            "tab\there",
            "1.5 < 2.5",
            "lat: 1, lon: 2",
        ),
        *("'", '"', "a\u2028b", "😀"),
    ]
)

CAPTIONS: st.SearchStrategy[dict[str, Any]] = _any(GEO_CAPTION)
