"""The main job, as its users run it, against a real S3 server."""

from __future__ import annotations

import json

import pyarrow as pa

from geobatch.sink import read
from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.conftest import Tiny
from tests.river.job import run_job


def arguments(bucket: str, output: str, tiny: Tiny, s3: S3Server) -> list[str]:
    return [
        *("--archive", f"s3://{bucket}/archive", "--output", f"s3://{bucket}/{output}", "--model", str(tiny.model)),
        *("--store.endpoint", s3.endpoint, "--store.region", "us-east-1", "--shard-rows", "64"),
    ]


def places(bucket: str, output: str, s3: S3Server) -> pa.Table:
    return read(f"s3://{bucket}/{output}", store=s3.config())


def test_every_image_once_and_nothing_to_do_the_second_time(bucket: str, tiny: Tiny, s3: S3Server) -> None:
    first = run_job(*arguments(bucket, "first", tiny, s3))
    assert first.status == 0, first.output
    table = places(bucket, "first", s3)
    assert sorted(table["image_id"].to_pylist()) == sorted(f"s3://{bucket}/archive/{name}" for name in tiny.names)
    done = json.loads(Store(s3.config()).get(f"s3://{bucket}/first/runs/000001/done.json"))
    assert done["read"] == len(tiny.names) == done["placed"] + done["rejected"]
    assert done["rejected"] == 14 and done["skipped"] == 1
    assert f"read {done['read']} = placed {done['placed']} + rejected 14" in first.output
    assert "Traceback" not in first.output
    again = run_job(*arguments(bucket, "first", tiny, s3))
    assert again.status == 0 and "nothing new" in again.output, again.output
    assert not Store(s3.config()).exists(f"s3://{bucket}/first/runs/000002/run.json")
