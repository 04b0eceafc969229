"""Every request that a run makes, through a store that fails: listing, plan, all kinds of shards, parts, commits, the table.

The river is a plain loop here, without Ray, so that the trial is short; `tests/river/test_faults.py` has the job itself.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest

from geobatch.actors import Slice
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.source import Read
from geobatch.errors import Rejection
from geobatch.pipeline.frozen import freeze
from geobatch.sink import Stamp, Write, open_run, read
from geobatch.sink.lease import Lease
from geobatch.stage import rejected
from geobatch.store import Store, StoreConfig
from tests.archives import make
from tests.conftest import S3Server
from tests.sink.rows import located
from tests.store.proxy import FaultyProxy, mixture

SLICE = 8


def placed(piece: Slice) -> Slice:
    """Places by name; what was read is told by the digest of its bytes."""
    rows = piece.rows
    table = located(rows["image_id"].to_pylist(), rows["uri"].to_pylist())
    digests = [None if data is None else hashlib.sha256(data).hexdigest() for data in rows["bytes"].to_pylist()]
    for name, column in (("etag", rows["etag"]), ("size", rows["size"]), ("sha256", pa.array(digests, pa.string()))):
        table = table.set_column(table.column_names.index(name), name, column)
    fates = {
        row: Rejection(fate["reason"], fate["detail"])
        for row, fate in enumerate(rows.select(["reason", "detail"]).to_pylist())
        if fate["reason"]
    }
    return Slice(
        shard=piece.shard, number=piece.number, last=piece.last, end=piece.end, skipped=0, rows=rejected(table, "read", fates)
    )


def run(source: StoreConfig, target: StoreConfig, archive: str, output: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole run; its account, and its rows by image."""
    config, store = ArchiveConfig(uri=archive, shard_rows=SLICE), Store(target)
    with Lease(store, output, renewal=0.05):
        begun, table = open_run(store, output, method="geotoken", fingerprint="f", archive={"uri": archive})
        frozen = freeze(begun, config, store, table, source=Store(source))
        assert frozen is not None
        reading, writing = (
            Read(config, source, target),
            Write(output, Stamp(run=begun.id, method="geotoken", model="f"), target),
        )
        for task in begun.remaining(frozen):
            for piece in reading(task):
                writing(placed(piece))
        done = begun.finish(frozen)
    rows = {row["image_id"]: row for row in read(output, store=target).to_pylist()}
    assert len(rows) == done["read"]
    return done, rows


@pytest.fixture(scope="module")
def archive(s3: S3Server) -> str:
    """Loose images, and all kinds of containers."""
    store, base = Store(s3.config()), f"s3://{s3.bucket()}/my photos+"
    members = make.images([f"{number:02}.jpg" for number in range(20)])
    for name, data in members:
        store.put(f"{base}/loose/{name}", data)
    store.put(f"{base}/a.tar", make.tar(members))
    store.put(f"{base}/b.tar", make.tar(members))
    store.put(f"{base}/c.tar.gz", make.gz(make.tar(members)))
    store.put(f"{base}/d.zip", make.zipped(members))
    store.put(f"{base}/e.parquet", make.parquet([data for _, data in members], style="binary"))
    return base


@pytest.fixture(scope="module")
def quiet(s3: S3Server, archive: str) -> dict[str, Any]:
    """The rows of a run that nothing disturbs."""
    done, rows = run(s3.config(), s3.config(), archive, f"s3://{s3.bucket()}/quiet")
    assert done["placed"] == done["read"] == 20 * 6
    return rows


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_share_of_all_requests_fails_and_every_row_is_as_it_would_be(
    s3: S3Server, proxy: FaultyProxy, archive: str, quiet: dict[str, Any], share: float
) -> None:
    """Also where one image and one tar can never be read: they are rows that say so."""
    proxy.rates = mixture(share)
    proxy.spoiled = {r"^GET .*/loose/07\.jpg": "cut", r"^GET .*/b\.tar": "500"}
    config = StoreConfig(
        endpoint=proxy.endpoint, region="us-east-1", backoff=0.005, attempts=8, read_timeout=0.5, request_timeout=5.0
    )
    done, rows = run(config, config, archive, f"s3://{s3.bucket()}/out")
    failed = sum(count for fault, count in proxy.met.items() if fault)
    print(f"{failed} of {len(proxy.requests)} requests failed: {dict(proxy.met)}")
    assert failed > 0.6 * share * len(proxy.requests)
    lost = {f"{archive}/loose/07.jpg", f"{archive}/b.tar"}
    assert {(rows[name]["stage"], rows[name]["reason"]) for name in lost} == {("read", "unreadable")}
    expected = {name: row for name, row in quiet.items() if name not in lost and "/b.tar#" not in name}
    assert {name: row for name, row in rows.items() if name not in lost} == expected
    assert (done["placed"], done["rejected"]) == (20 * 5 - 1, 2)


def test_an_archive_and_an_output_that_different_credentials_reach(
    s3: S3Server, proxy: FaultyProxy, archive: str, quiet: dict[str, Any]
) -> None:
    """The proxy reaches the archive alone, and pays for it; the output lies where it does not look."""
    proxy.check = lambda request: (
        None
        if request.command in ("GET", "HEAD") and request.headers.get("x-amz-request-payer") == "requester"
        else (403, "AccessDenied")
    )
    source = s3.config(endpoint=proxy.endpoint, requester_pays=True)
    _, rows = run(source, s3.config(kms_key="default"), archive, f"s3://{s3.bucket()}/out")
    assert rows == quiet
