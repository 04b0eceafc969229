"""Recipe: tables of PLACE written by hand, one dict a row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from geobatch.schema import PLACE, RADII_KM, probability_column

KM_PER_DEGREE = 111.19492664455873


def row(image_id: str, km_off: float | None, **more: Any) -> dict[str, Any]:
    """An image whose true place is (0, 0), placed `km_off` to the east on the equator; rejected where that is None."""
    east = None if km_off is None else km_off / KM_PER_DEGREE
    alive = east is not None
    return {
        **dict.fromkeys(PLACE.names),
        "image_id": image_id,
        "uri": image_id,
        "status": "placed" if alive else "rejected",
        **({} if alive else {"stage": "decode", "reason": "broken", "detail": ""}),
        "latitude": 0.0 if alive else None,
        "longitude": east,
        "method": "recipe",
        "model": "m",
        "run": "r",
        "schema_version": 1,
        **more,
    }


def candidates(*entries: tuple[float, float | None, str | None]) -> list[dict[str, Any]]:
    """Candidates from (km to the east, score, origin)."""
    return [
        {"latitude": 0.0, "longitude": km / KM_PER_DEGREE, "score": score, "origin": origin} for km, score, origin in entries
    ]


def neighbours(*km_off: float) -> list[dict[str, Any]]:
    """Neighbours from kilometres to the east, the most similar first."""
    return [
        {"image_id": f"g{km}", "latitude": 0.0, "longitude": km / KM_PER_DEGREE, "similarity": 1 - at / 10}
        for at, km in enumerate(km_off)
    ]


def probabilities(*values: float) -> dict[str, float]:
    """The five probability columns."""
    return {probability_column(km): value for km, value in zip(RADII_KM, values, strict=True)}


def table(*rows: dict[str, Any]) -> pa.Table:
    """A table of PLACE."""
    return pa.Table.from_pylist(list(rows), schema=PLACE)
