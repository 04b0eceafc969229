"""Rows as they come from `Select`, pictures included, for tests of the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from geobatch.schema import CANDIDATES, CONFIDENCE, LOCATED, NEIGHBOURS, PICTURE, probability_column

#: Paris, Lyon, Rome, Cairo, Sydney, and a town 30 m from Paris' point.
PARIS, LYON, ROME, CAIRO, SYDNEY = (
    (48.8584, 2.2945),
    (45.764, 4.8357),
    (41.8902, 12.4922),
    (30.0444, 31.2357),
    (-33.8568, 151.2153),
)
BESIDE_PARIS = (48.85865, 2.2945)


@dataclass(frozen=True)
class Row:
    """A located image: its place, its candidates (latitude, longitude, count), its neighbours (latitude, longitude, cosine)."""

    name: str = "a"
    place: tuple[float, float] = PARIS
    candidates: Sequence[tuple[float, float, int]] = ((*PARIS, 12), (*LYON, 8), (*ROME, 10))
    neighbours: Sequence[tuple[float, float, float]] = ((*CAIRO, 0.8),)
    sure: float | None = 0.4
    chosen_by: str = "expected_distance"
    fallback: str | None = None


def table_of(*rows: Row) -> pa.Table:
    """The rows with a random picture each, a function of its name."""
    seeds = [int.from_bytes(row.name.encode()[:4], "big") for row in rows]
    values: dict[str, list[Any]] = {
        "image_id": [row.name for row in rows],
        "uri": [row.name for row in rows],
        "picture": [np.random.default_rng(seed).integers(0, 256, 60 * 60 * 3, np.uint8).tobytes() for seed in seeds],
        "picture_height": [60] * len(rows),
        "picture_width": [60] * len(rows),
        "latitude": [row.place[0] for row in rows],
        "longitude": [row.place[1] for row in rows],
        "score": [-1.5] * len(rows),
        probability_column(200): [row.sure for row in rows],
        "candidates": [[candidate(*each) for each in row.candidates] for row in rows],
        "neighbours": [[neighbour(*each) for each in row.neighbours] for row in rows],
        "radius_90_km": [7.0] * len(rows),
        "area": ["47e67"] * len(rows),
        "area_probability": [0.95] * len(rows),
        "chosen_by": [row.chosen_by for row in rows],
        "fallback": [row.fallback for row in rows],
    }
    fields = [*PICTURE, *LOCATED, *CONFIDENCE]
    return pa.table({field.name: pa.array(values.get(field.name, [None] * len(rows)), field.type) for field in fields})


def candidate(latitude: float, longitude: float, count: int, score: float = -2.0) -> dict[str, Any]:
    """A struct of CANDIDATES."""
    given = {"latitude": latitude, "longitude": longitude, "score": score, "count": count, "origin": "sample"}
    return {field.name: given.get(field.name) for field in CANDIDATES.value_type}


def neighbour(latitude: float, longitude: float, similarity: float, name: str | None = "n") -> dict[str, Any]:
    """A struct of NEIGHBOURS."""
    given = {"image_id": name, "latitude": latitude, "longitude": longitude, "similarity": similarity}
    return {field.name: given[field.name] for field in NEIGHBOURS.value_type}
