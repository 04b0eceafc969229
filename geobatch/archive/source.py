"""Shards become slices: the first stage of every river.

A task says where its shard stands in the frozen manifest and which of its slices are committed; the manifest itself is read
here, by the actor that needs it, so the driver never holds an image's name. Before each slice the reader asks the run's
gate (`gate`), which says no once the run is to end.

A shard of loose objects of which the store gives not one, though it answers, is left out: the pass goes on, and the next one,
told that it is the last, asks again and makes rows of them. So a few neighbours that can never be read cost a pass and hold
nobody up. `IN_A_ROW` such shards one behind the other are the fault of the store, or of this node's rights, and are raised. Of
rights only where this reader has read nothing yet: what has been read proves them, and the rest may be a folder with a policy
of its own, however large.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.actors import Slice
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.shard import read_shard
from geobatch.service import Service
from geobatch.store import Denied, Store, StoreConfig, Withheld

#: Shards without a single object that can be read, one behind the other, before a reader takes it for no chance.
IN_A_ROW = 3


class Read:
    """Tasks in, slices of IMAGE rows out, in order, never more than one slice in memory beside what is in flight.

    Args:
        archive: what is read, and the sizes of a slice.
        store: reaches the archive.
        output: reaches the manifest and the committed parts.
        gate: asked before each slice; None: there is none, all is read.
        last: whether what cannot be read is asked for no more, and becomes rows.
    """

    takes_tasks = True

    def __init__(
        self, archive: ArchiveConfig, store: StoreConfig, output: StoreConfig, gate: Service | None = None, last: bool = True
    ) -> None:
        self.archive, self.store, self.output, self.gate = archive, Store(store), Store(output), gate
        self.last, self._left_out, self._admitted = last, 0, False

    @staticmethod
    def services(gate: Service | None = None, **_: Any) -> list[Service]:
        """The gate."""
        return [gate] if gate is not None else []

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        """Every slice of the tasks' shards that is not committed yet, as long as the gate is open."""
        for task in tasks.to_pylist():
            yield from self._shard(task)

    def _shard(self, task: dict[str, Any]) -> Iterator[Slice]:
        pieces: Iterator[Any] | None = None
        for ordinal in count():
            if self.gate is not None and not self.gate.ask("may", task["shard"], ordinal)[0]:
                return
            started = time.perf_counter()
            if pieces is None:
                manifest = pq.ParquetFile(pa.BufferReader(self.output.get(task["plan"]))).read_row_group(task["group"])
                done = {each["number"]: each["end"] for each in task["done"]}
                seen = partial(self._seen, task["parts"])
                pieces = read_shard(self.store, manifest, self.archive, done, seen, self.last)
            piece = self._next(pieces)
            if piece is None:
                return
            yield Slice(
                shard=task["shard"],
                number=piece.number,
                last=piece.last,
                end=piece.end,
                skipped=piece.skipped,
                rows=piece.table,
                seconds=(("Read", time.perf_counter() - started),),
            )
            if piece.last:
                return

    def _next(self, pieces: Iterator[Any]) -> Any:
        """The next slice; None after the last, and where the shard is left out."""
        try:
            piece = next(pieces, None)
        except (Denied, Withheld) as error:
            if self._admitted and not self.last and isinstance(error, Denied):
                return None
            self._left_out += 1
            if self.last or self._left_out >= IN_A_ROW:
                raise
            return None
        self._left_out = 0
        self._admitted = self._admitted or (piece is not None and piece.table["bytes"].null_count < len(piece.table))
        return piece

    def _seen(self, parts: list[str]) -> set[str]:
        """image_ids that this shard's committed slices hold."""
        ids: set[str] = set()
        for part in parts:
            table = pq.read_table(pa.BufferReader(self.output.get(part)), columns=["image_id"])
            ids.update(table["image_id"].to_pylist())
        return ids
