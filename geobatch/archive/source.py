"""Shards become slices: the first stage of every river.

A task says where its shard stands in the frozen manifest and which of its slices are committed; the manifest itself is read
here, by the actor that needs it, so the driver never holds an image's name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.actors import Slice
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.shard import read_shard
from geobatch.store import Store, StoreConfig


class Read:
    """Tasks in, slices of IMAGE rows out, in order, never more than one slice in memory beside what is in flight.

    Args:
        archive: what is read, and the sizes of a slice.
        store: reaches the archive.
        output: reaches the manifest and the committed parts.
    """

    takes_tasks = True

    def __init__(self, archive: ArchiveConfig, store: StoreConfig, output: StoreConfig) -> None:
        self.archive, self.store, self.output = archive, Store(store), Store(output)

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        """Every slice of the tasks' shards that is not committed yet."""
        for task in tasks.to_pylist():
            manifest = pq.ParquetFile(pa.BufferReader(self.output.get(task["plan"]))).read_row_group(task["group"])
            done = {each["number"]: each["end"] for each in task["done"]}
            started = time.perf_counter()
            for piece in read_shard(self.store, manifest, self.archive, done, seen=partial(self._seen, task["parts"])):
                spent = time.perf_counter() - started
                yield Slice(
                    shard=task["shard"],
                    number=piece.number,
                    last=piece.last,
                    end=piece.end,
                    skipped=piece.skipped,
                    rows=piece.table,
                    seconds=(("Read", spent),),
                )
                started = time.perf_counter()

    def _seen(self, parts: list[str]) -> set[str]:
        """image_ids that this shard's committed slices hold."""
        ids: set[str] = set()
        for part in parts:
            table = pq.read_table(pa.BufferReader(self.output.get(part)), columns=["image_id"])
            ids.update(table["image_id"].to_pylist())
        return ids
