"""What travels between actors: a run of images of one shard, as one row that nobody can cut.

A **slice** is what travels between actors: one row of a Ray block that holds, in the column `rows`, the Arrow table of a run
of images from one shard (a list of structs, so that wrapping and unwrapping copy nothing). It exists because Ray cuts and
joins blocks as it likes: with `target_max_block_size=None` all that a read task yields becomes one block (a 24 GB tar would
be one), with any other value blocks are split by bytes, and a part that holds two thirds of a shard cannot be committed. A
row cannot be split, so with `target_max_block_size=1` one slice is one block is one task, from read to commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

SECONDS = pa.list_(pa.struct([pa.field("stage", pa.string()), pa.field("seconds", pa.float64())]))


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A deterministic run of images of one shard: the unit of work and of commit.

    Fields:
        shard: number of the shard in the run's plan.
        number: position in the shard, from 0.
        last: whether the shard ends here.
        end: where the next slice begins, for the reader (bytes of a tar, rows of a Parquet file).
        skipped: members of the archive passed over by name since the slice before.
        rows: the images.
        seconds: (stage, seconds) in the order of the river.
    """

    shard: int
    number: int
    last: bool
    end: int
    skipped: int
    rows: pa.Table
    seconds: tuple[tuple[str, float], ...] = ()

    def to_block(self) -> pa.Table:
        """One row that Ray can neither split nor join with another."""
        structs = self.rows.combine_chunks().to_struct_array()
        if isinstance(structs, pa.ChunkedArray):
            structs = structs.combine_chunks() if structs.num_chunks != 1 else structs.chunk(0)
        seconds = [[{"stage": stage, "seconds": spent} for stage, spent in self.seconds]]
        return pa.table(
            {
                "shard": pa.array([self.shard], pa.int32()),
                "number": pa.array([self.number], pa.int32()),
                "last": pa.array([self.last]),
                "end": pa.array([self.end], pa.int64()),
                "skipped": pa.array([self.skipped], pa.int64()),
                "seconds": pa.array(seconds, SECONDS),
                "rows": pa.LargeListArray.from_arrays(pa.array([0, len(structs)], pa.int64()), structs),
            }
        )

    @staticmethod
    def from_block(block: pa.Table) -> Iterator[Slice]:
        """The slices of a block; usually one."""
        rows = block["rows"]
        for index in range(len(block)):
            head = {name: block[name][index].as_py() for name in ("shard", "number", "last", "end", "skipped", "seconds")}
            head["seconds"] = tuple((each["stage"], each["seconds"]) for each in head["seconds"])
            yield Slice(**head, rows=pa.Table.from_struct_array(rows[index].values))
