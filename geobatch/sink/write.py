"""A slice's rows into one part and one commit.

The bytes are built in memory and sent by one PUT: an exception inside an open output stream would publish half a file. The
part is named by its content, so a slice done twice writes the same object twice; the commit is put-if-absent, so it counts
once. Who loses that race removes its own part if its content differed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from typing import Any

import pyarrow as pa

from geobatch import metrics
from geobatch.actors import Slice
from geobatch.errors import MachineError
from geobatch.sink.rows import Stamp, as_written, parquet
from geobatch.store import Store, StoreConfig, join

#: What `Write` tells the driver about a slice. A map read by `to_pylist` is a list of pairs: `dict(row["reasons"])`.
SUMMARY = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("number", pa.int32()),
        pa.field("last", pa.bool_()),
        pa.field("end", pa.int64()),  # how far the reader came in the shard; see `Slice`
        pa.field("read", pa.int64()),
        pa.field("placed", pa.int64()),
        pa.field("rejected", pa.int64()),
        pa.field("bytes", pa.int64()),  # encoded, of the images that were read
        pa.field("reasons", pa.map_(pa.string(), pa.int64())),  # how many were rejected for each
        pa.field("seconds", pa.map_(pa.string(), pa.float64())),  # of each stage, in the order of the river
        pa.field("written", pa.int64()),  # bytes of its part
    ]
)


def aside_name(shard: int, number: int) -> str:
    """Name of the file below `runs/RUN/aside/` with the rows of a slice that is not the table's: its shard is below 0."""
    return f"{-shard:08d}.{number:06d}.parquet"


def commit_name(shard: int, number: int) -> str:
    """Name of a slice's commit below `runs/RUN/commits/`."""
    return f"{shard:08d}.{number:06d}.json"


class Write:
    """The last stage: publishes a slice and says so. Takes slices, not tables, since the commit names the slice.

    Args:
        output: folder or `s3://bucket/prefix` of the table.
        stamp: what the run writes into each row.
        store: how to reach the output.
    """

    takes_slices = True

    def __init__(self, output: str, stamp: Stamp, store: StoreConfig) -> None:
        self.output, self.stamp, self.store = output, stamp, Store(store)

    def __call__(self, piece: Slice) -> pa.Table:
        """Writes part, then commit; returns one row of SUMMARY."""
        started = time.perf_counter()
        rows = as_written(piece.rows, self.stamp)
        ids = rows["image_id"].to_pylist()
        if len(set(ids)) != len(ids):
            raise MachineError(f"shard {piece.shard} slice {piece.number} holds an image twice: a bug, report it")
        part: dict[str, Any] | None = None
        if piece.shard < 0:
            self.store.put(
                join(self.output, "runs", self.stamp.run, "aside", aside_name(piece.shard, piece.number)), parquet(rows)
            )
        elif len(rows):
            data = parquet(rows)
            name = f"{self.stamp.run}-{piece.shard:08d}-{piece.number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
            part = {"path": f"places/{name}", "rows": len(rows), "bytes": len(data), "run": self.stamp.run}
            self.store.put(join(self.output, part["path"]), data)
        reused = len(piece.rows) - piece.rows["reused"].null_count if "reused" in piece.rows.column_names else 0
        commit = self._commit(piece, rows, part, reused, time.perf_counter() - started)
        if piece.shard < 0:
            return self._told(commit)
        uri = join(self.output, "runs", self.stamp.run, "commits", commit_name(piece.shard, piece.number))
        if not self.store.put_if_absent(uri, json.dumps(commit).encode()):
            commit = self._concede(uri, part)
        else:
            metrics.committed(commit["placed"], commit["reasons"])
        return self._told(commit)

    def _told(self, commit: dict[str, Any]) -> pa.Table:
        told = {**commit, "written": commit["part"]["bytes"] if commit["part"] else 0}
        told |= {name: list(commit[name].items()) for name in ("reasons", "seconds")}
        return pa.Table.from_pylist([{name: told[name] for name in SUMMARY.names}], schema=SUMMARY)

    def _commit(self, piece: Slice, rows: pa.Table, part: dict[str, Any] | None, reused: int, spent: float) -> dict[str, Any]:
        reasons = Counter(reason for reason in rows["reason"].to_pylist() if reason)
        return {
            "shard": piece.shard,
            "number": piece.number,
            "last": piece.last,
            "end": piece.end,
            "skipped": piece.skipped,
            "part": part,
            "read": len(rows),
            "placed": len(rows) - reasons.total(),
            "rejected": reasons.total(),
            "reused": reused,
            "reasons": dict(sorted(reasons.items())),
            "bytes": _read(rows),
            "seconds": {stage: round(seconds, 4) for stage, seconds in (*piece.seconds, ("Write", spent))},
        }

    def _concede(self, uri: str, part: dict[str, Any] | None) -> dict[str, Any]:
        """Another hand committed this slice first: its word counts."""
        theirs: dict[str, Any] = json.loads(self.store.get(uri))
        if part and (not isinstance(theirs["part"], dict) or theirs["part"]["path"] != part["path"]):
            self.store.delete([join(self.output, str(part["path"]))])
        return theirs


def _read(rows: pa.Table) -> int:
    """Encoded bytes of the rows that were read: one that the reader rejected has a size, and nobody fetched it."""
    return sum(
        size or 0 for size, stage in zip(rows["size"].to_pylist(), rows["stage"].to_pylist(), strict=True) if stage != "read"
    )
