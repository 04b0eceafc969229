"""More pictures under way than Ray's object store holds: nothing crashes and none is lost; the peak of memory is told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from PIL import Image

from geobatch.actors import Hands, start
from geobatch.archive.config import ArchiveConfig
from geobatch.image import DecodeConfig
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.geolocate import decoding
from geobatch.store import StoreConfig
from tests.river.job import memory
from tests.sink.rows import located

#: The smallest object store that Ray takes, and pictures of 3 MB through it: 30 times what fits.
HOLDS, SIDE, PICTURES = 80 << 20, 1024, 800


class Dawdle:
    """Places every picture, more slowly than they are decoded."""

    def __call__(self, table: pa.Table) -> pa.Table:
        assert sum(len(picture.as_py()) for picture in table["picture"]) == len(table) * SIDE * SIDE * 3
        time.sleep(0.3)
        return located(table["image_id"].to_pylist(), table["uri"].to_pylist())


@contextmanager
def weighed() -> Iterator[list[int]]:
    """The memory of this process and all below it, seen every half second."""
    seen, ended = [memory(os.getpid())], threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            seen.append(memory(os.getpid()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def job_of(folder: Path, pictures: int) -> Flow:
    """A job over so many copies of one picture."""
    archive, picture = folder / "archive", folder / "one.jpg"
    archive.mkdir(parents=True)
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(picture)
    for number in range(pictures):
        os.link(picture, archive / f"{number:04}.jpg")
    return Flow(
        archive=ArchiveConfig(uri=str(archive), shard_rows=16),
        output=str(folder / "out"),
        store=StoreConfig(),
        method="geotoken",
        fingerprint="f",
        river=[decoding(DecodeConfig(side=SIDE), 2), Hands(stage=Dawdle)],
    )


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_an_object_store_that_is_full_makes_decoders_wait(tmp_path: Path) -> None:
    """The processes of a run, and the idle ones of the run before, take 2 GB whatever they hold: hence a run of few before."""
    few, many = job_of(tmp_path / "few", 32), job_of(tmp_path / "many", PICTURES)
    start([*many.river, *many.river], None, object_store_memory=HOLDS)
    try:
        with weighed() as little:
            flow(few)
        with weighed() as seen:
            done = flow(many)
    finally:
        ray.shutdown()
    total = PICTURES * SIDE * SIDE * 3
    print(f"{total / 1e9:.1f} GB of pictures through {HOLDS >> 20} MiB of object store")
    print(f"memory at most {max(little) / 1e9:.2f} GB with 0.1 GB of pictures, {max(seen) / 1e9:.2f} GB with all")
    assert done["placed"] == done["read"] == PICTURES
