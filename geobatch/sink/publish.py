"""What a run makes of the table: its own rows, and the old ones that they do not supersede, in one new `table/N.json`.

A run that finished supersedes every old row of the objects it planned. A run that ended before its time supersedes only what
it really did:

- an object or container all of whose shards are committed: every old row of it, as ever;
- one of which nothing is committed: none, its old rows stay;
- one that was read in part (a tar, a Parquet file, a zip over several shards): the old rows of those images that came out,
  by image_id. Its others stay as they were, so that a table never knows less than before, and its name goes into
  `partial_sources`: the next listing takes it for new, and then all its old rows are superseded.

The old table is read only where a row may be superseded. Whoever froze the plan knows which parts hold an object that is
planned again (`touches`); without that knowledge, or when the table has changed since, all of them are looked at. In memory
are 16 bytes a planned name and the commits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.sink.keys import Keys
from geobatch.sink.table import Snapshot, latest, live_rows, superseded, with_removed
from geobatch.store import Store, join


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A run when it ends.

    Fields:
        run: its id.
        folder: its folder's URI.
        record: what `run.json` says.
        plan: what `plan.json` says.
        commits: all of them.
        unfinished: shards that are not wholly committed; none unless it ended before its time.
        ended: why it did.
    """

    run: str
    folder: str
    record: dict[str, Any]
    plan: dict[str, Any]
    commits: list[dict[str, Any]]
    unfinished: frozenset[int]
    ended: str | None


def publish(store: Store, output: str, end: Ending) -> Snapshot:
    """Writes the table that the run leads to; the one that stands, if the run has published already."""
    while True:
        old = latest(store, output)
        if old is not None and old.record["run"] == end.run:
            return old
        record = _record(store, None if end.record["relocate"] else old, end)
        number = 1 if old is None else old.version + 1
        if store.put_if_absent(join(output, "table", f"{number}.json"), json.dumps(record).encode()):
            return Snapshot(output=output, version=number, record=record)


def _record(store: Store, old: Snapshot | None, end: Ending) -> dict[str, Any]:
    commits = sorted((each for each in end.commits if each["part"]), key=lambda each: (each["shard"], each["number"]))
    partial = _partial(store, end)
    empty: list[list[str | None]] = []
    before: list[str] = []
    kept: list[dict[str, Any]] = []
    if old is not None:
        touched = _touched(old, end.plan)
        empty, before = list(old.record["empty_sources"]), list(old.record.get("partial_sources", ()))
        whole = Keys()
        if touched is None or touched or empty or before:
            without = {*partial}
            done = chain((uri for uri, _ in end.plan.get("empty", ())), _uris(store, end, finished=True))
            whole = Keys((uri,) for uri in done if uri not in without)
        kept = superseding(store, old, whole, _images(store, old.output, end, partial), touched)
        empty = [each for each, again in zip(empty, whole.holds((each[0],) for each in empty), strict=True) if not again]
        before = [uri for uri, again in zip(before, whole.holds((uri,) for uri in before), strict=True) if not again]
    parts = [*kept, *(each["part"] for each in commits)]
    return {
        "run": end.run,
        "fingerprint": end.record["fingerprint"],
        "method": end.record["method"],
        "parts": parts,
        "rows": sum(map(live_rows, parts)),
        "empty_sources": empty + [list(each) for each in end.plan.get("empty", ())] + _empty(store, end, partial),
        "partial_sources": sorted({*before, *partial}),
        "deleted": end.plan.get("deleted", [] if old is None else old.record.get("deleted", [])),
        "ended": end.ended,
        "written": now(),
    }


def superseding(store: Store, old: Snapshot, uris: Keys, images: Keys, touched: set[int] | None) -> list[dict[str, Any]]:
    """The old table's parts with the rows of these objects and of these images removed; parts without a row left are gone.

    Args:
        store: reaches the output.
        old: the table.
        uris: objects, all of whose rows go.
        images: image_ids whose rows go, whatever their object.
        touched: the parts that can hold such rows; None: any may.
    """
    if not len(uris) and not len(images):
        touched = set()
    columns = ["uri", "image_id"] if len(images) else ["uri"]
    gone: dict[int, list[npt.NDArray[np.int64]]] = {}
    for piece in old.pieces(store, columns, touched):
        dead = uris.holds((uri,) for uri in piece.rows["uri"].to_pylist())
        if len(images):
            dead |= images.holds((image,) for image in piece.rows["image_id"].to_pylist())
        if dead.any():
            gone.setdefault(piece.part, []).append(piece.positions[dead])
    parts = [
        with_removed(part, np.sort(np.concatenate([superseded(part), *gone[index]]))) if index in gone else part
        for index, part in enumerate(old.parts)
    ]
    return [part for part in parts if live_rows(part)]


def _touched(old: Snapshot, plan: dict[str, Any]) -> set[int] | None:
    """Parts of the old table that hold rows of what was planned; None: not known."""
    said = plan.get("touches")
    return set(said["parts"]) if said is not None and said["table"] == old.version else None


def _uris(store: Store, end: Ending, *, finished: bool) -> Iterator[str]:
    """Objects of the shards that are wholly committed, or of those that are not."""
    for file in end.plan["files"]:
        if not finished and not any(file["first"] <= shard < file["first"] + len(file["rows"]) for shard in end.unfinished):
            continue
        rows = pq.read_table(pa.BufferReader(store.get(join(end.folder, file["path"]))), columns=["shard", "uri"])
        if end.unfinished:
            open_ = pc.is_in(rows["shard"], pa.array(list(end.unfinished), pa.int32()))
            rows = rows.filter(pc.invert(open_) if finished else open_)
        yield from pc.unique(rows["uri"]).to_pylist()


def _partial(store: Store, end: Ending) -> list[str]:
    """Sources of which some of what was planned is committed, and some is not."""
    if not end.unfinished:
        return []
    begun = {commit["shard"] for commit in end.commits} & end.unfinished
    waiting = Keys((uri,) for uri in _uris(store, end, finished=False))
    found: set[str] = set()
    for file in end.plan["files"]:
        rows = pq.read_table(pa.BufferReader(store.get(join(end.folder, file["path"]))), columns=["shard", "uri"])
        shards = np.asarray(rows["shard"])
        touched = ~np.isin(shards, list(end.unfinished)) | np.isin(shards, list(begun))
        uris = pc.unique(rows.filter(pa.array(touched))["uri"]).to_pylist()
        found |= {uri for uri, waits in zip(uris, waiting.holds((uri,) for uri in uris), strict=True) if waits}
    return sorted(found)


def _images(store: Store, output: str, end: Ending, partial: list[str]) -> Keys:
    """The images that came out of sources read in part; only what their shards committed is read."""
    if not partial:
        return Keys()
    wanted = pa.array(partial, pa.string())

    def images() -> Iterator[tuple[str]]:
        shards: set[int] = set()
        for file in end.plan["files"]:
            rows = pq.read_table(pa.BufferReader(store.get(join(end.folder, file["path"]))), columns=["shard", "uri"])
            shards.update(pc.unique(rows.filter(pc.is_in(rows["uri"], wanted))["shard"]).to_pylist())
        parts = [commit["part"] for commit in end.commits if commit["part"] and commit["shard"] in shards]
        for piece in Snapshot(output=output, version=0, record={"parts": parts}).pieces(store, ["uri", "image_id"]):
            rows = piece.rows.filter(pc.is_in(piece.rows["uri"], wanted))
            yield from ((image,) for image in rows["image_id"].to_pylist())

    return Keys(images())


def _empty(store: Store, end: Ending, partial: list[str]) -> list[list[str | None]]:
    """(uri, etag) of containers that were read to their end and held no image, so that the next run knows them."""
    read: Counter[int] = Counter()
    for commit in end.commits:
        read[commit["shard"]] += commit["read"]
    empty = []
    for file in end.plan["files"]:
        shards = range(file["first"], file["first"] + len(file["kinds"]))
        hollow = [shard for shard in shards if not read[shard] and shard not in end.unfinished]
        if hollow:
            manifest = pq.ParquetFile(pa.BufferReader(store.get(join(end.folder, file["path"]))))
            for shard in hollow:
                row = manifest.read_row_group(shard - file["first"], columns=["uri", "etag"]).to_pylist()[0]
                if row["uri"] not in partial:
                    empty.append([row["uri"], row["etag"]])
    return empty


def now() -> str:
    """This moment, as every record writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
