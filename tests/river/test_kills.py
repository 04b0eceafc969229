"""A run can die at any moment: SIGKILL to the driver and every worker, then the same command again.

The quiet run tells how long one takes and what must come out; a killed one is started again until it ends by itself, and its
table must equal the quiet one's, row for row, but for the run's own name.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable

import pyarrow as pa
import pytest

from geobatch.sink import latest
from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.conftest import Tiny, arguments
from tests.river.job import Ended, run_job
from tests.river.test_geolocate import places

KILLS_IN_TORTURE = 24


@pytest.fixture(scope="module")
def quiet(bucket: str, s3: S3Server, first: Ended) -> tuple[float, dict[str, dict[str, object]]]:
    """Seconds of an undisturbed run, and its rows by image."""
    assert first.status == 0, first.output
    return first.seconds, rows(places(bucket, "first", s3))


def rows(table: pa.Table) -> dict[str, dict[str, object]]:
    found = {row["image_id"]: row for row in table.to_pylist()}
    assert len(found) == len(table)  # nothing twice
    return found


def at_commits(store: Store, output: str, draw: random.Random) -> Callable[[float], bool]:
    """The moment when some slices are committed and most are not, wherever the others then are."""
    wanted, pause = draw.randint(1, 5), draw.uniform(0, 0.3)

    def now(_: float) -> bool:
        if sum("/commits/" in each.uri for page in store.objects(f"{output}/runs") for each in page) < wanted:
            return False
        time.sleep(pause)
        return True

    return now


def anywhere(draw: random.Random, seconds: float) -> Callable[[float], bool]:
    """Any moment of a run of that length: imports, planning, the making of actors, work, the end."""
    moment = draw.uniform(0.02, 1.0) * seconds
    return lambda spent: spent >= moment


def trial(seed: int, bucket: str, tiny: Tiny, s3: S3Server, quiet: tuple[float, dict[str, dict[str, object]]]) -> int:
    """Kills one run up to twice at moments drawn from the seed; returns how often it was really killed."""
    seconds, expected = quiet
    draw, kills = random.Random(seed), 0
    output = f"kill-{seed}"
    store = Store(s3.config())
    moments = [at_commits(store, f"s3://{bucket}/{output}", draw), anywhere(draw, seconds)]
    for moment in draw.sample(moments, 2):
        ended = run_job(*arguments(bucket, output, tiny, s3, workers=2), kill_when=moment)
        if ended.status == 0:
            break
        assert ended.status is None or ended.status < 0, ended.output
        kills += 1
        assert latest(store, f"s3://{bucket}/{output}") is None or _all_there(bucket, output, tiny, s3)
    ended = run_job(*arguments(bucket, output, tiny, s3, workers=2))
    assert ended.status == 0, ended.output
    assert rows(places(bucket, output, s3)) == expected
    snapshot = latest(store, f"s3://{bucket}/{output}")
    assert snapshot is not None  # of the first run, or of one after it where the driver died while it listed
    done = json.loads(store.get(f"s3://{bucket}/{output}/runs/{snapshot.record['run']}/done.json"))
    assert done["read"] == done["placed"] + done["rejected"] == len(tiny.names)
    parts = [item.uri for page in store.objects(f"s3://{bucket}/{output}/places") for item in page]
    assert sorted(parts) == sorted(snapshot.uris())  # no orphan is left for a glob to read
    return kills


def _all_there(bucket: str, output: str, tiny: Tiny, s3: S3Server) -> bool:
    """A table that stands before the proof does (death between the two) must be whole already."""
    return len(places(bucket, output, s3)) == len(tiny.names)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.torture)])
def test_killed_and_taken_up_every_image_stands_once(
    seed: int, bucket: str, tiny: Tiny, s3: S3Server, quiet: tuple[float, dict[str, dict[str, object]]]
) -> None:
    assert trial(seed, bucket, tiny, s3, quiet) >= 1


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_killed_many_times(bucket: str, tiny: Tiny, s3: S3Server, quiet: tuple[float, dict[str, dict[str, object]]]) -> None:
    first = seed = int(os.environ.get("GEOBATCH_SEED", "100"))
    kills = 0
    while kills < KILLS_IN_TORTURE:
        kills += trial(seed, bucket, tiny, s3, quiet)
        seed += 1
        print(f"{kills} kills in {seed - first} runs, every image once", flush=True)
