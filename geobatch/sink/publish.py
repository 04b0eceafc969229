"""What a run makes of the table: its own rows, and the old ones that they do not supersede, in one new `table/N.json`.

A run that finished supersedes every old row of the objects it planned. A run that ended before its time supersedes only what
it really did:

- an object or container all of whose shards are committed: every old row of it, as ever;
- one of which nothing is committed: none, its old rows stay;
- one that was read in part (a tar, a Parquet file, a zip over several shards): the old rows of those images that came out,
  by image_id. Its others stay as they were, so that a table never knows less than before, and its name goes into
  `partial_sources`: the next listing takes it for new, and then all its old rows are superseded.

`globs` says by which globs the members of an archive's containers were chosen last, `mixed` below which archives the table
holds members that others chose. Where a container is read again, the members that tonight's leave out keep their rows of the
same bytes; its name waits in `partial_sources` if the run ends before.

What could not be read takes no place of the same bytes away (`geobatch.sink.unread`). A source that an earlier run had read in
part stays in `partial_sources` where it was the store that failed; any other is known, and tried again when it is asked for.

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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.sink.keys import Keys, Some
from geobatch.sink.table import Snapshot, latest, live_rows, superseded, with_removed
from geobatch.sink.unread import places, unread, without
from geobatch.store import Store, join

#: Kinds of containers whose members the globs choose.
CHOSEN = ("tar", "zip")


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
    made: list[dict[str, Any]] = [each["part"] for each in commits]
    partial = _partial(store, end)
    empty: list[list[str | None]] = []
    before: list[str] = []
    kept: list[dict[str, Any]] = []
    if old is not None:
        touched = _touched(old, end.plan)
        empty, before = list(old.record["empty_sources"]), list(old.record.get("partial_sources", ()))
        found = unread(store, old.output, end.plan, commits)
        without_end = {*partial, *found.waiting.intersection(before)}
        read = Keys()
        if touched is None or touched or empty or before:
            done = chain((uri for uri, _ in end.plan.get("empty", ())), _uris(store, end, finished=True))
            read = Keys((uri,) for uri in done if uri not in without_end)
        cut = {**_chosen(store, end), **found.cut}
        over = Over(
            uris=read,
            images=_images(store, old.output, end, sorted({*partial, *cut})),
            same=Keys((uri, etag) for uri, etag in cut.items() if uri not in without_end),
            unread=found.images,
        )
        kept, stay = superseding(store, old, over, touched)
        made = without(store, old.output, made, found, stay)
        empty = [each for each, again in zip(empty, read.holds((each[0],) for each in empty), strict=True) if not again]
        before = [uri for uri, again in zip(before, read.holds((uri,) for uri in before), strict=True) if not again]
    parts = [*kept, *made]
    return {
        "run": end.run,
        "fingerprint": end.record["fingerprint"],
        "method": end.record["method"],
        "parts": parts,
        "rows": sum(map(live_rows, parts)),
        "empty_sources": empty + [list(each) for each in end.plan.get("empty", ())] + _empty(store, end, partial),
        "partial_sources": sorted({*before, *partial}),
        "globs": _globs({} if old is None else old.record.get("globs", {}), end.plan.get("globs")),
        "mixed": _mixed([] if old is None else old.record.get("mixed", []), end.plan.get("globs")),
        "deleted": end.plan.get("deleted", [] if old is None else old.record.get("deleted", [])),
        "ended": end.ended,
        "written": now(),
    }


class Over(NamedTuple):
    """What a run takes the place of.

    Attributes:
        uris: objects, all of whose rows go.
        images: image_ids whose rows go, whatever their object.
        same: (uri, etag) of containers whose reading broke off, or left members out: of their rows, those of members of these
            bytes stay.
        unread: (image_id, etag) of images that came out unread: a place of theirs stays.
    """

    uris: Keys
    images: Keys
    same: Keys
    unread: Keys


def superseding(store: Store, old: Snapshot, over: Over, touched: set[int] | None) -> tuple[list[dict[str, Any]], Keys]:
    """The old table's parts without the rows that go; parts without a row left are gone. And (image_id, etag) of the places
    that stay for want of bytes.

    Args:
        store: reaches the output.
        old: the table.
        over: what goes.
        touched: the parts that can hold such rows; None: any may.
    """
    if not len(over.uris) and not len(over.images):
        touched = set()
    columns = ["uri", "image_id", "etag", "status"] if any(map(len, over[1:])) else ["uri"]
    gone: dict[int, list[npt.NDArray[np.int64]]] = {}
    stay = Some()
    for piece in old.pieces(store, columns, touched):
        uris = piece.rows["uri"].to_pylist()
        dead = over.uris.holds((uri,) for uri in uris)
        if len(over.same):
            members = np.asarray(pc.match_substring(piece.rows["image_id"], "#"))
            dead &= ~(members & over.same.holds(zip(uris, piece.rows["etag"].to_pylist(), strict=True)))
        if len(over.images):
            dead |= over.images.holds((image,) for image in piece.rows["image_id"].to_pylist())
        if len(over.unread):
            placed = places(piece.rows, over.unread)
            stay.add((row["image_id"], row["etag"]) for row in piece.rows.filter(pa.array(placed & dead)).to_pylist())
            dead &= ~placed
        if dead.any():
            gone.setdefault(piece.part, []).append(piece.positions[dead])
    parts = [
        with_removed(part, np.sort(np.concatenate([superseded(part), *gone[index]]))) if index in gone else part
        for index, part in enumerate(old.parts)
    ]
    return [part for part in parts if live_rows(part)], Keys.of(stay)


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
    """Sources of which some of what was planned is committed, and some is not; and those that would not be read again."""
    if not end.unfinished:
        return []
    begun = {commit["shard"] for commit in end.commits} & end.unfinished
    waiting = Keys((uri,) for uri in _uris(store, end, finished=False))
    found: set[str] = set()
    for file in end.plan["files"]:
        rows = pq.read_table(pa.BufferReader(store.get(join(end.folder, file["path"]))), columns=["shard", "uri", "kind"])
        shards = np.asarray(rows["shard"])
        touched = ~np.isin(shards, list(end.unfinished)) | np.isin(shards, list(begun))
        if (end.plan.get("globs") or {}).get("wider"):  # the next listing would take these for known
            touched |= np.asarray(pc.is_in(rows["kind"], pa.array(CHOSEN)))
        uris = pc.unique(rows.filter(pa.array(touched))["uri"]).to_pylist()
        found |= {uri for uri, waits in zip(uris, waiting.holds((uri,) for uri in uris), strict=True) if waits}
    return sorted(found)


def _chosen(store: Store, end: Ending) -> dict[str, str | None]:
    """Etags of the planned containers of which the table may hold members that other globs chose."""
    found: dict[str, str | None] = {}
    if (end.plan.get("globs") or {}).get("differ"):
        found |= dict(end.plan.get("empty", ()))
        for file in end.plan["files"]:
            if any(kind in CHOSEN for kind in file["kinds"]):
                rows = pq.read_table(
                    pa.BufferReader(store.get(join(end.folder, file["path"]))), columns=["kind", "uri", "etag"]
                )
                rows = rows.filter(pc.is_in(rows["kind"], pa.array(CHOSEN)))
                found |= zip(rows["uri"].to_pylist(), rows["etag"].to_pylist(), strict=True)
    return found


def _globs(old: dict[str, Any], said: dict[str, Any] | None) -> dict[str, Any]:
    """By which globs the members of containers below each archive were chosen last."""
    if said is None:
        return old
    return {**{where: globs for where, globs in old.items() if not where.startswith(said["below"])}, said["below"]: said["now"]}


def _mixed(old: list[str], said: dict[str, Any] | None) -> list[str]:
    """Archives below which the table holds members by more than one choice of globs."""
    return sorted({*old, said["below"]}) if said is not None and said["differ"] else old


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
