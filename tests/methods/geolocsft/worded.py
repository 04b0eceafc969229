"""Geo-captions of places, each in words of its own."""

from __future__ import annotations

import random
from typing import Any

from geobatch.methods.geolocsft.prompts import GEO_CAPTION

_BEGIN = ("asph", "grav", "popl", "cyp", "gutt", "tram", "hedg", "ridg", "clay", "och", "harb", "vall", "shutt", "stucc", "can")
_END = ("alt", "el", "ar", "ress", "er", "way", "erow", "top", "pan", "re", "our", "ey", "ered", "oed", "al", "ine", "oid")


def geo_caption(image_id: str, latitude: float, longitude: float) -> dict[str, Any]:
    """A whole geo-caption in the published schema whose sentences are a function of the name."""
    draw = random.Random(image_id)

    def made(schema: dict[str, Any]) -> Any:
        if schema["type"] == "object":
            return {name: made(inner) for name, inner in schema["properties"].items()}
        if schema["type"] == "array":
            return [made(schema["items"]) for _ in range(schema["minItems"])]
        return " ".join(draw.choice(_BEGIN) + draw.choice(_END) for _ in range(5))

    caption: dict[str, Any] = made(GEO_CAPTION)
    caption["image_id"] = image_id
    caption["answer"]["coordinates"].update(latitude=round(latitude, 5), longitude=round(longitude, 5))
    return caption
