"""What a nightly run costs in memory, an object: in a process of its own, whose peak is read from the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

OBJECTS, TEN_MILLION = 100_000, 10_000_000

#: A table of so many rows in parts of 100,000, asked about a listing in pages of 1000 that lacks one in a thousand.
NIGHT = """
import re, sys, tempfile, time
from pathlib import Path
import numpy as np
import pyarrow as pa
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.sink.held import COLUMNS, Held
from geobatch.sink.reuse import Index
from geobatch.sink.table import Piece, Snapshot
from geobatch.store import Store
from tests.archive.test_plan import Listing

def highest(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

def key(n):
    return f"2019/07/{n:09}-some-camera.jpg"

COUNT, PART = int(sys.argv[1]), 100_000

def piece(part, start, columns=()):
    numbers = range(start, min(start + PART, COUNT))
    rows = {
        "uri": [f"s3://bucket/p/{key(n)}" for n in numbers],
        "etag": [f"{n:032x}" for n in numbers],
        "reason": pa.nulls(len(numbers), pa.string()),
        "sha256": [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4 for n in numbers],
        "status": ["placed"] * len(numbers),
    }
    return Piece(part, np.arange(len(numbers)), pa.table(rows))

class Synthetic(Snapshot):
    def pieces(self, store, columns=None, only=None):
        for part, start in enumerate(range(0, COUNT, PART)):
            if only is None or part in only:
                yield piece(part, start)

parts = [{"path": f"{n}", "rows": PART, "bytes": 1} for n in range(-(-COUNT // PART))]
folder = tempfile.mkdtemp()
table = Synthetic(output=folder, version=1, record={"parts": parts, "empty_sources": [], "method": "geotoken"})
list(plan(Listing([("a.jpg", 1)]), ArchiveConfig(uri="s3://bucket/p")))
piece(0, 0)
before, started = highest("VmRSS"), time.process_time()
held, index = Held(table, "s3://bucket/p/"), Index(table)
for each in table.pieces(None):
    held.add(each)
    index.add(each)
held.close()
read = time.process_time()
keys = ((key(n), n) for n in range(COUNT) if n % 1000)
planned = sum(len(each.table) for each in plan(Listing(keys), ArchiveConfig(uri="s3://bucket/p"), held.known, held.met))
listed = time.process_time()
gone = held.gone(Store(), "deleted/1", "now")
index.write(Store(), folder)
print(planned, gone["vanished"], highest("VmHWM") - before, round(read - started, 1), round(listed - read, 1))
"""


@pytest.mark.parametrize(
    "objects",
    [OBJECTS, pytest.param(TEN_MILLION, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])],
)
def test_a_night_takes_so_much_memory_an_object(objects: int) -> None:
    """Names, etags, parts and flags of what the table holds (30 bytes an object) and the index of its bytes (16), each of
    which is for a moment there twice, in pieces and sorted, and the allocator keeps what lay between."""
    ran = subprocess.run([sys.executable, "-c", NIGHT, str(objects)], capture_output=True, text=True, timeout=7000, check=True)
    planned, vanished, mebibytes, read, listed = ran.stdout.split()
    print(f"a table of {objects:,} rows is held in {read} s, a listing of as many asked of it in {listed} s, {mebibytes} MiB")
    assert (int(planned), int(vanished)) == (0, objects // 1000)
    assert int(mebibytes) < 150 + objects * 100 / 2**20
