"""The last stage over a store whose requests take as long as a real one's: slices a second through one `Write` actor.

    Deal ──▶ Write ──▶ S3 (moto, behind the tests' proxy, each answer `LATE` seconds late)

The rival is the same actor as Ray has actors by default: one slice at a time, two there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest import mock

import pyarrow as pa
import ray

from geobatch.actors import AHEAD, Hands, Slice, run_river, start
from geobatch.pipeline.flow import WRITES
from geobatch.sink import Stamp, Write
from geobatch.store import StoreConfig
from tests.bench.bench_faults import KEYS, _served
from tests.sink.rows import located
from tests.store import proxy as behind

#: Seconds of a request: a PUT of some 10 to 100 KB to S3 takes 30 to 100 ms.
LATE = 0.05

#: Images of a slice, and slices of a round.
ROWS, SLICES, ROUNDS = 256, 160, 3


class Deal:
    """Hands out located slices, as a river's last but one stage does."""

    takes_tasks = True

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        for shard in tasks["shard"].to_pylist():
            rows = located([f"{shard}/{number}.jpg" for number in range(ROWS)])
            yield Slice(shard=shard, number=0, last=True, end=ROWS, skipped=0, rows=rows)


def run() -> list[dict[str, object]]:
    """Medians of alternating rounds."""
    with mock.patch.dict("os.environ", KEYS), mock.patch.object(behind, "LATE", LATE), _served() as (proxy, direct):
        direct._s3._client().create_bucket(Bucket="bench")
        proxy.rates = {"late": 1.0}
        store = StoreConfig(endpoint=proxy.endpoint, region="us-east-1")
        start([Hands(stage=Write)], None)
        try:
            pairs = [(_pace(store, f"one{n}", 1, 2), _pace(store, f"many{n}", WRITES, AHEAD)) for n in range(ROUNDS)]
        finally:
            ray.shutdown()
    one, many = sorted(pairs, key=lambda pair: pair[1] / pair[0])[ROUNDS // 2]
    return [
        {
            "name": f"Write, {WRITES} slices at a time",
            "rival": "one at a time",
            "ratio": many / one,
            "measured": f"{many:.1f} slices of {ROWS} images a second against {one:.1f}, requests of {1000 * LATE:.0f} ms; "
            f"rounds {', '.join(f'{b / a:.2f}' for a, b in pairs)}",
        }
    ]


def _pace(store: StoreConfig, name: str, at_once: int, ahead: int) -> float:
    """Slices a second, from the tenth that is through on: the pools are warm by then."""
    make = {"output": f"s3://bench/{name}", "stamp": Stamp(run="000000", method="geotoken", model="f"), "store": store}
    river = [
        Hands(stage=Deal, cpus=0.5, ahead=AHEAD),
        Hands(stage=Write, make=make, cpus=0.5, at_once=at_once, ahead=ahead),
    ]
    times = [time.perf_counter() for _ in run_river([pa.table({"shard": [shard]}) for shard in range(SLICES)], river)]
    assert len(times) == SLICES
    return (SLICES - 10) / (times[-1] - times[9])
