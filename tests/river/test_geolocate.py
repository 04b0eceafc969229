"""The main job, as its users run it, against a real S3 server."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import geopandas
import pyarrow as pa
import pytest

from geobatch.sink import latest, read
from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.conftest import Tiny, arguments
from tests.river.job import Ended, said
from tests.sink.rows import spatial


def places(bucket: str, output: str, s3: S3Server) -> pa.Table:
    return read(f"s3://{bucket}/{output}", store=s3.config())


def _opens_elsewhere(bucket: str, s3: S3Server, folder: Path, done: dict[str, int]) -> None:
    """GeoPandas and DuckDB spatial read the parts that the newest table lists, and find the counts of the proof."""
    store = Store(s3.config())
    snapshot = latest(store, f"s3://{bucket}/first")
    assert snapshot is not None
    for uri in snapshot.uris():
        (folder / uri.rsplit("/", 1)[-1]).write_bytes(store.get(uri))
    frame = geopandas.pd.concat([geopandas.read_parquet(path) for path in folder.iterdir()])
    assert len(frame) == done["read"] and frame.geometry.notna().sum() == done["placed"]
    query = f"SELECT count(*), count(geometry), max(abs(ST_X(geometry) - longitude)) FROM '{folder}/*.parquet'"
    assert spatial().execute(query).fetchone() == (done["read"], done["placed"], 0.0)


@pytest.mark.timeout(400)
def test_every_image_once_and_nothing_to_do_the_second_time(
    bucket: str, tiny: Tiny, s3: S3Server, first: Ended, tmp_path: Path
) -> None:
    assert first.status == 0, first.output
    table = places(bucket, "first", s3)
    assert sorted(table["image_id"].to_pylist()) == sorted(f"s3://{bucket}/archive/{name}" for name in tiny.names)
    done = json.loads(Store(s3.config()).get(f"s3://{bucket}/first/runs/000001/done.json"))
    assert done["read"] == len(tiny.names) == done["placed"] + done["rejected"]
    assert done["rejected"] == 14 and done["skipped"] == 1
    assert f"read {done['read']} = placed {done['placed']} + rejected 14" in first.output
    assert "Traceback" not in first.output
    _opens_elsewhere(bucket, s3, tmp_path, done)
    again = said(*arguments(bucket, "first", tiny, s3))
    assert again.status == 0 and "nothing new" in again.output, again.output
    assert not Store(s3.config()).exists(f"s3://{bucket}/first/runs/000002/run.json")


def test_two_at_once_one_works_and_the_other_says_who(
    bucket: str, s3: S3Server, first_and_second: tuple[Ended, list[Ended]]
) -> None:
    ended, (other,) = first_and_second
    assert ended.status == 0, ended.output
    assert other.status == 2 and "Traceback" not in other.output, other.output
    named = re.search(r"being worked on by process (\d+) on \S+, last heard of at ", other.output.splitlines()[-1])
    assert named is not None and int(named[1]) != os.getpid()
    assert not Store(s3.config()).exists(f"s3://{bucket}/first/runs/000002/run.json")
