"""The S2 tokenizer against s2sphere, one core: level-20 ids and tokens of points uniform on the sphere."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import s2sphere
from numpy.typing import NDArray

from geobatch.geo import s2

ROUNDS = 9
OURS, THEIRS = 1 << 16, 1 << 11


def run() -> list[dict[str, object]]:
    """Medians of nine alternating rounds, so that a slow minute of the machine slows both."""
    rng = np.random.default_rng(0)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, OURS)))
    longitude = rng.uniform(-180, 180, OURS)
    pairs = list(zip(latitude[:THEIRS].tolist(), longitude[:THEIRS].tolist(), strict=True))
    ids = [_slow_id(*pair) for pair in pairs]
    if s2.cell_ids(latitude[:THEIRS], longitude[:THEIRS], 20).tolist() != ids:
        raise AssertionError("the two disagree, so their speeds mean nothing")
    rows = []
    for name, ours, theirs in (
        ("S2 cell ids", lambda: s2.cell_ids(latitude, longitude, 20), lambda: [_slow_id(*pair) for pair in pairs]),
        ("S2 tokens", lambda: s2.tokens(latitude, longitude), lambda: [_slow_tokens(*pair) for pair in pairs]),
        ("S2 centres", lambda: _ours_centres(ids), lambda: [s2sphere.CellId(one).to_lat_lng() for one in ids]),
    ):
        fast, slow = _alternate(ours, theirs)
        fast, slow = 1e6 * fast / OURS, 1e6 * slow / THEIRS
        rows.append(
            {
                "name": f"{name}, level 20",
                "rival": "s2sphere",
                "ratio": slow / fast,
                "measured": f"{fast:.3f} µs a point against {slow:.2f} µs, median of {ROUNDS} alternating rounds",
            }
        )
    return rows


def _alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    ours(), theirs()
    for _ in range(ROUNDS):
        for work, spent in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def _ours_centres(ids: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return s2.centres(np.resize(np.array(ids, np.uint64), OURS))


def _slow_id(latitude: float, longitude: float) -> int:
    leaf = s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude))
    return int(leaf.parent(20).id())


def _slow_tokens(latitude: float, longitude: float) -> list[int]:
    leaf = s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(latitude, longitude))
    return [leaf.face(), *((leaf.id() >> (61 - 2 * at)) & 3 for at in range(1, 21))]


if __name__ == "__main__":
    for row in run():
        print(row)
