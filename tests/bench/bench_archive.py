"""Reading an archive, against the plain way of each format.

- Loose objects: `read_shard` against GETs one after another by boto3, from a server on loopback that waits 20 ms before
  it answers, about what S3 takes for a small object.
- A tar on the local disk, against the standard library reading the same members into memory.
- The same tar in 19 byte parts on the local disk, its readers one after another, against the whole one read by one.
- Shards out of a zip of 30,000 members, against opening the zip for each of them, which reads its whole directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.archive.shard import read_shard
from geobatch.schema import PLAN
from geobatch.store import Store, StoreConfig
from geobatch.store.s3 import S3
from tests.archives import make

ROUNDS = 5

_SLOW_SERVER = """
import http.server, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 1 << 20
    def do_GET(self):
        time.sleep(0.02)
        self.send_response_only(200)
        for name, value in (("ETag", '"e"'), ("Content-Length", "50000"), ("Content-Type", "image/jpeg")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(bytes(50000))
        self.wfile.flush()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def run() -> list[dict[str, object]]:
    """Medians of five alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        return [_loose(), _tar(Path(folder)), _parts(Path(folder)), _zip(Path(folder))]


def _loose() -> dict[str, object]:
    server = subprocess.Popen([sys.executable, "-c", _SLOW_SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        with patch.dict(os.environ, {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}):
            return _in_flight(StoreConfig(endpoint=endpoint, region="us-east-1"))
    finally:
        server.terminate()
        server.wait()


def _in_flight(config: StoreConfig) -> dict[str, object]:
    store, client, count = Store(config), S3(config)._client(), 256
    rows = [(0, "object", f"s3://b/{n}.jpg", f"s3://b/{n}.jpg", "e", 50_000, None) for n in range(count)]
    shard = pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=PLAN.names).cast(PLAN)

    def one_by_one() -> None:
        for number in range(count):
            client.get_object(Bucket="b", Key=f"{number}.jpg")["Body"].read()

    ours, theirs = _alternate(lambda: list(read_shard(store, shard, ArchiveConfig(uri="s3://b"))), one_by_one, rounds=3)
    measured = f"{count / ours:.0f} objects of 50 kB a second against {count / theirs:.0f}, 20 ms of latency, 32 in flight"
    return _row("read loose objects", "boto3, one GET after another", ours, theirs, measured)


def _tar(folder: Path) -> dict[str, object]:
    data = make.tar([(f"{n:05}.jpg", os.urandom(60_000 + n % 999)) for n in range(2000)])
    path = folder / "x.tar"
    path.write_bytes(data)
    store, config = Store(), ArchiveConfig(uri=str(path))
    shard = next(iter(plan(store, config))).table

    def ours() -> None:
        assert sum(len(piece.table) for piece in read_shard(store, shard, config)) == 2000

    def theirs() -> None:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isreg():
                    archive.extractfile(member).read()  # type: ignore[union-attr]

    spent, rival = _alternate(ours, theirs)
    rate = len(data) / 1e6
    measured = f"{rate / spent:.0f} MB/s to Arrow against {rate / rival:.0f} MB/s to bytes, 2000 members of 60 kB"
    return _row("read a tar", "tarfile", spent, rival, measured)


def _parts(folder: Path) -> dict[str, object]:
    data = make.tar([(f"{n:05}.jpg", os.urandom(60_000 + n % 999)) for n in range(2000)])
    (folder / "whole.tar").write_bytes(data)
    step = -(-len(data) // 19)
    (folder / "parts").mkdir()
    for number in range(19):
        (folder / f"parts/mp-16-images{number:02}").write_bytes(data[number * step : (number + 1) * step])
    store, planning = Store(), []

    def read(uri: Path) -> None:
        config, count = ArchiveConfig(uri=str(uri)), 0
        started = time.perf_counter()
        table = pa.concat_tables([piece.table for piece in plan(store, config)])
        planning.append(time.perf_counter() - started)
        for number in pc.unique(table["shard"]).to_pylist():
            count += sum(len(each.table) for each in read_shard(store, table.filter(pc.equal(table["shard"], number)), config))
        assert count == 2000

    spent, rival = _alternate(lambda: read(folder / "parts"), lambda: read(folder / "whole.tar"))
    rate = len(data) / 1e6
    measured = f"{rate / spent:.0f} MB/s in 19 parts against {rate / rival:.0f} MB/s whole, 2000 members of 60 kB, planning "
    return _row("read a tar in byte parts", "the whole tar", spent, rival, f"{measured}{1e3 * median(planning[::2]):.0f} ms")


def _zip(folder: Path) -> dict[str, object]:
    path = folder / "x.zip"
    path.write_bytes(make.zipped([(f"{n:06}.jpg", b"%08d" % n * 400) for n in range(30_000)], zipfile.ZIP_STORED))
    store, config = Store(), ArchiveConfig(uri=str(path))
    table = pa.concat_tables([piece.table for piece in plan(store, config)])
    shards = [table.filter(pc.equal(table["shard"], number)) for number in (3, 40, 80, 110)]

    def ours() -> None:
        for shard in shards:
            assert sum(len(piece.table) for piece in read_shard(store, shard, config)) == 256

    def theirs() -> None:
        for shard in shards:
            with zipfile.ZipFile(path) as archive:
                for image_id in shard["image_id"].to_pylist():
                    archive.read(image_id.rpartition("#")[2])

    spent, rival = _alternate(ours, theirs)
    measured = f"{1e3 * spent / 4:.0f} ms a shard of 256 members out of 30,000 against {1e3 * rival / 4:.0f} ms"
    return _row("read shards of a zip", "zipfile, opened for each", spent, rival, measured)


def _row(name: str, rival: str, ours: float, theirs: float, measured: str) -> dict[str, object]:
    return {"name": name, "rival": rival, "ratio": theirs / ours, "measured": f"{measured}, median of alternating rounds"}


def _alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for times, work in zip(spent, (ours, theirs), strict=True):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    return median(spent[0]), median(spent[1])
