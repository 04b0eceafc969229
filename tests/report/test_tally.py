"""Exact figures of parts, against the same over the whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from geobatch.geo.distance import within
from geobatch.report.tally import CURVE_KM, EXAMPLES, Tally
from geobatch.schema import RADII_KM


def table(count: int, rejected: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    dead = np.arange(count) < rejected
    return pa.table(
        {
            "image_id": [f"{seed}-{number}" for number in range(count)],
            "status": np.where(dead, "rejected", "placed"),
            "reason": pa.array([("broken", "empty")[number % 2] if lost else None for number, lost in enumerate(dead)]),
            "detail": pa.array(["why" if lost else None for lost in dead]),
            "error_km": np.where(dead, np.nan, 10.0 ** rng.uniform(-2, 4.3, count)),
        }
    )


def test_parts_add_up_to_the_whole() -> None:
    parts = [table(200, 20, seed) for seed in range(5)]
    tally = Tally()
    for part in parts:
        tally.add(part, np.arange(len(part)) % 4 > 0)
    whole = pa.concat_tables(parts)
    judged = np.tile(np.arange(200) % 4 > 0, 5)
    error = whole["error_km"].to_numpy()[judged].astype(np.float32)
    figures = tally.figures()
    assert (figures["images"], figures["placed"], figures["rejected"], figures["judged"]) == (1000, 900, 100, 750)
    assert {one["reason"]: one["images"] for one in figures["reasons"]} == {"broken": 50, "empty": 50}
    assert all(len(one["examples"]) == EXAMPLES for one in figures["reasons"])
    for km in RADII_KM:
        assert figures["shares"][str(km)] == pytest.approx(float(np.mean(within(error, km))))
    assert figures["median_km"] == pytest.approx(float(np.nanmedian(error)))
    assert figures["mean_km"] == pytest.approx(float(np.nanmean(error, dtype=np.float64)), rel=1e-6)
    for km, share in zip(CURVE_KM, figures["curve"], strict=True):
        assert share == pytest.approx(float(np.mean(within(error, km))), abs=1e-5)


def test_nothing_is_said_where_nothing_is_known() -> None:
    tally = Tally()
    tally.add(table(10, 10), np.zeros(10, bool))
    figures = tally.figures()
    assert figures["judged"] == 0 and not {"shares", "curve", "median_km"} & figures.keys()
    tally.add(table(10, 10), np.ones(10, bool))
    assert tally.figures()["shares"]["25"] == 0 and "median_km" not in tally.figures()
