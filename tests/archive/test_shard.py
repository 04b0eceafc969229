"""Slices are the same whatever was committed before: resuming at any of them gives exactly the rest."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.archive.config import ArchiveConfig
from geobatch.store import Store
from tests.archive.reading import put, shards, slices
from tests.archives import make

STORE = Store()

#: Members that meet: few names, among them one that looks numbered, sidecars and folders between.
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["a.jpg", "b.jpg", "a~2.jpg", "c.png", "x.json", "e/", "d.jpg"]), st.integers(0, 900)),
    max_size=40,
)
SIZES = st.fixed_dictionaries({"shard_rows": st.integers(1, 6), "shard_bytes": st.integers(1, 3000)})


def filled(members: list[tuple[str, int]]) -> list[make.Member]:
    return [(name, b"%d " % number + b"x" * size if size else b"") for number, (name, size) in enumerate(members)]


def parquet(members: list[make.Member]) -> bytes:
    return make.parquet([data or None for _, data in members], rows=3)


KINDS: dict[str, Callable[[list[make.Member]], bytes]] = {
    "tar": make.tar,
    "tar.gz": lambda members: make.gz(make.tar(members)),
    "parquet": parquet,
    "zip": make.zipped,
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("truncated", [False, True])
@settings(max_examples=30, deadline=None)
@given(members=MEMBERS, sizes=SIZES, data=st.data())
def test_a_resumed_shard_gives_exactly_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    truncated: bool,
    members: list[tuple[str, int]],
    sizes: dict[str, Any],
    data: st.DataObject,
) -> None:
    whole = KINDS[kind](filled(members))
    if truncated:
        if kind == "parquet":
            return  # its footer is at the end: truncated, it is one row
        whole = whole[: data.draw(st.integers(1, len(whole)))]
    uri = put(tmp_path_factory.mktemp("shard"), f"x.{kind}", whole)
    config = ArchiveConfig(uri=uri, max_bytes=800, **sizes)
    try:
        planned = shards(STORE, config)
    except Exception as error:
        assert "is an image by its name" in str(error)  # a zip without images has no rows
        return
    ids: list[str] = []
    for shard in planned:
        pieces = slices(STORE, shard, config)
        ids += [image_id for piece in pieces for image_id in piece.table["image_id"].to_pylist()]
        done = data.draw(st.sets(st.sampled_from(range(len(pieces)))), label="done")
        seen = {image_id for number in done for image_id in pieces[number].table["image_id"].to_pylist()}
        rest = slices(STORE, shard, config, {number: pieces[number].end for number in done}, seen.copy)
        assert rest == [piece for piece in pieces if piece.number not in done]
    assert len(ids) == len(set(ids))


def test_a_shard_of_loose_objects_is_done_or_not(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", b"1")
    config = ArchiveConfig(uri=str(tmp_path))
    [shard] = shards(STORE, config)
    [piece] = slices(STORE, shard, config)
    assert slices(STORE, shard, config, {0: piece.end}) == []
    assert isinstance(piece.table, pa.Table)


READS = """
import re, sys
from pathlib import Path
import pyarrow as pa
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.archive.shard import read_shard
from geobatch.store import Store

def highest(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

store, before, count = Store(), None, 0
for uri in sys.argv[1:]:  # the first, small, warms up what is imported and made on first use
    config = ArchiveConfig(uri=uri, shard_bytes=4 << 20)
    for planned in plan(store, config):
        for shard in set(planned.table["shard"].to_pylist()):
            rows = planned.table.filter(pa.compute.equal(planned.table["shard"], shard))
            for piece in read_shard(store, rows, config):
                count += len(piece.table)
    before = before or highest("VmRSS")
print(count, highest("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parquet"])
def test_no_more_than_a_slice_is_in_memory(tmp_path: Path, kind: str) -> None:
    """Slices of 4 MiB of an archive of 96 MiB, the Parquet one in a single row group of pages of 2 MiB."""
    noise = random.Random(1).randbytes(96 << 20)
    members = [(f"{n}.jpg", noise[n << 19 : n + 1 << 19]) for n in range(192)]
    made: dict[str, Callable[[list[make.Member]], bytes]] = {
        **KINDS, "parquet": lambda members: make.parquet([data for _, data in members], rows=1000, page=4)
    }  # fmt: skip
    small = put(tmp_path, f"small.{kind}", made[kind](members[:2]))
    large = put(tmp_path, f"large.{kind}", made[kind](members))
    command = [sys.executable, "-c", READS, small, large]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    count, mebibytes = map(int, ran.stdout.split())
    print(f"{kind}: {mebibytes} MiB above the rest of the process")
    assert count == 2 + 192
    assert mebibytes < 80  # the slice, its copy on the way to Arrow, blocks fetched ahead, what malloc keeps
