"""What judging costs: a million rows with thirty candidates and fifteen neighbours each, and the exact intervals.

`python -m tests.bench.bench_evaluate ROWS` judges a made table of so many rows in this process and prints what it took, so that
its peak memory is its own; `run` starts that. The rival of the memory is the table itself, held whole, as it would be read; of
the intervals the bootstrap by resampling every image.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.intervals import Bootstrap, mean_interval
from geobatch.benchmark.landcover import NAMES, cover_at
from geobatch.benchmark.places import HELD, LISTS, Places
from geobatch.benchmark.regions import Regions
from geobatch.benchmark.truth import truth_of
from geobatch.engine.geocode import Geocoder, country_names
from geobatch.schema import CANDIDATES, NEIGHBOURS, PLACE, RADII_KM, probability_column

ROWS, PART = 1_000_000, 10_000
DRAWS, NEAR = 30, 15

Floats = NDArray[np.float64]


def truth(rows: int) -> tuple[Floats, Floats]:
    """Places uniform on the sphere."""
    rng = np.random.default_rng(0)
    return np.degrees(np.arcsin(rng.uniform(-1, 1, rows))), rng.uniform(-180, 180, rows)


def around(latitude: Floats, longitude: Floats, each: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """`each` places about every place, most near, some anywhere near it in degrees."""
    far = rng.exponential(1.0, (len(latitude), each)) ** 3 * 0.3
    turn = rng.uniform(0, 2 * np.pi, far.shape)
    north = np.clip(latitude[:, None] + far * np.sin(turn), -90, 90)
    east = (longitude[:, None] + far * np.cos(turn) + 180) % 360 - 180
    return north.ravel(), east.ravel()


def lists(latitude: Floats, longitude: Floats) -> Iterator[pa.Table]:
    """The lists of a table of those places, a part at a time, as a store would give them."""
    for number, at in enumerate(range(0, len(latitude), PART)):
        rng = np.random.default_rng([1, number])
        north, east = latitude[at : at + PART], longitude[at : at + PART]
        rows = len(north)
        columns: dict[str, Any] = {"reason": pa.nulls(rows, pa.string()), "latitude": north, "longitude": east}
        for name, kind, each in (("candidates", CANDIDATES, DRAWS), ("neighbours", NEIGHBOURS, NEAR)):
            lat, lon = around(north, east, each, rng)
            count = rows * each
            known = {
                "latitude": lat,
                "longitude": lon,
                "score": rng.normal(-5, 2, count).astype(np.float32),
                "count": np.ones(count, np.int32),
                "similarity": rng.uniform(0.3, 1, count).astype(np.float32),
                "origin": pa.array(["sample"]).take(pa.array(np.zeros(count, np.int64))),
                "image_id": pa.array([f"s3://gallery/images/{n:05d}.jpg" for n in range(1000)]).take(
                    pa.array(rng.integers(0, 1000, count))
                ),
            }
            values = pa.StructArray.from_arrays(
                [pa.array(known[field.name], field.type) for field in kind.value_type], fields=list(kind.value_type)
            )
            columns[name] = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * each, pa.int32()), values, type=kind)
        yield pa.table(columns).select(list(LISTS))


def made(rows: int) -> tuple[Places, Floats, Floats]:
    """A table of `rows` rows whose lists are made as they are asked for, and the truth."""
    latitude, longitude = truth(rows)
    rng = np.random.default_rng(2)
    north, east = around(latitude, longitude, 1, rng)
    known: dict[str, Any] = {
        "image_id": [f"s3://bucket/archive/{row // 1000:05d}.tar#{row:09d}.jpg" for row in range(rows)],
        "status": ["placed"] * rows,
        "latitude": north,
        "longitude": east,
        **{probability_column(km): rng.uniform(0, 1, rows).astype(np.float32) for km in RADII_KM},
    }
    held = pa.table({name: known.get(name, pa.nulls(rows, PLACE.field(name).type)) for name in HELD})
    return Places(held=held, lists=lambda: lists(latitude, longitude)), latitude, longitude


def judge(rows: int) -> dict[str, float]:
    """Seconds, and MiB: at most, before judging began, and of the whole table's lists."""
    places, latitude, longitude = made(rows)
    whole = next(lists(latitude[:PART], longitude[:PART])).nbytes / PART * rows
    known = truth_of([f"{row:09d}.jpg" for row in range(rows)], latitude, longitude, "truth")
    regions = Regions(Geocoder.load(), country_names())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, cpu = time.monotonic(), time.process_time()
    found = evaluate(
        places, known, beside=Beside(regions=regions, cover=(NAMES, cover_at)), bootstrap=Bootstrap(resamples=1000)
    )
    return {
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "lists": whole / 2**20,
        "analyses": len(found.findings),
    }


def run() -> list[dict[str, object]]:
    """Two rows."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_evaluate", str(ROWS)], check=True, capture_output=True, text=True
    )
    cost = json.loads(ended.stdout.splitlines()[-1])
    return [
        {
            "name": f"memory of judging {ROWS:,} rows with {DRAWS} candidates and {NEAR} neighbours",
            "rival": "the table held whole (MiB of its lists alone over MiB that judging adds)",
            "ratio": cost["lists"] / max(cost["peak"] - cost["before"], 1),
            "measured": (
                f"peak {cost['peak']:.0f} MiB, of which {cost['before']:.0f} before it began (names, truth, gazetteer); lists "
                f"{cost['lists']:.0f} MiB; {cost['cpu']:.0f} s of CPU, making the rows included, for every choice and "
                f"{cost['analyses']:.0f} analyses"
            ),
        },
        _intervals(),
    ]


def _intervals() -> dict[str, object]:
    km = np.random.default_rng(5).exponential(500, 3000)
    how = Bootstrap(resamples=2000)

    def resampled() -> Floats:
        rng = np.random.default_rng(0)
        return np.quantile([km[rng.integers(0, len(km), len(km))].mean() for _ in range(how.resamples)], [0.025, 0.975])

    ours, theirs = [], []
    for _ in range(5):
        began = time.perf_counter()
        found = mean_interval(km, how)
        middle = time.perf_counter()
        ends = resampled()
        ours.append(middle - began)
        theirs.append(time.perf_counter() - middle)
    return {
        "name": "interval of a mean over 3,000 images, 2,000 resamples",
        "rival": "resampling every image",
        "ratio": float(np.median(theirs) / np.median(ours)),
        "measured": (
            f"{1000 * np.median(ours):.0f} against {1000 * np.median(theirs):.0f} ms; [{found.low:.1f}, {found.high:.1f}] "
            "against "
            f"[{ends[0]:.1f}, {ends[1]:.1f}]"
        ),
    }


if __name__ == "__main__":
    print(json.dumps(judge(int(sys.argv[1]))))
