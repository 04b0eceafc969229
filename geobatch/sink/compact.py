"""Many small parts become few, without a moment in which a reader sees a row twice or not at all.

Every slice of every night is a part, so a table of ten million rows is 40,000 objects of 40 to 100 KB. Compaction reads runs of
neighbouring small parts, leaves out superseded rows, and writes them as parts of about the target size; then one new
`table/N.json` names the new parts in the place of the old ones. That PUT is the only step that a reader can see. Whoever has
read an older table goes on with the old parts: they are deleted a day later, by the next call of `clear`.

Large parts are left alone until a third of their rows are superseded. A part is written row group by row group into a buffer:
in memory are one part of the target size, one row group before it is encoded, and the parts in flight.

`clear` deletes what no table of the last day names: parts, lists of deleted objects, and the records of the tables themselves.
What a run in progress, or one that died and may be taken up, has written is not in any table yet and is kept. Both work under
the output's lease.

What it does not cover: sorting rows by place or time (their order is the order in which they were located), and the folders
of old runs, which hold their accounts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.errors import MachineError, UserError
from geobatch.schema import LAYOUTS, PLACE
from geobatch.sink.opening import unfinished_run
from geobatch.sink.publish import now
from geobatch.sink.rows import geo
from geobatch.sink.table import Snapshot, latest, live_rows, version, versions
from geobatch.store import Store, join

#: Rows and uncompressed bytes of one row group, at most.
GROUP_ROWS, GROUP_BYTES = 50_000, 64 << 20
#: Share of a large part's rows that are superseded before it is written anew.
_STALE = 1 / 3
#: Names of parts, by who wrote them: a run's slice, or the compaction that made table N.
_NAMED = re.compile(r"(?:(?P<run>\d{6,})-\d{8}-\d{6}|compact-(?P<table>\d{6,})-\d{6})-[0-9a-f]{16}\.parquet")


def compact(store: Store, output: str, target: int, check: Callable[[], None] = lambda: None) -> dict[str, int] | None:
    """Writes small parts together; None if there is nothing to gain.

    Args:
        store: reaches the output.
        output: folder or `s3://bucket/prefix`.
        target: bytes of a new part, about.
        check: raises once another process works at the output.

    Returns:
        `{"table", "before", "after", "dropped"}`: the new table, its parts before and after, superseded rows left out.

    Raises:
        UserError: there is no table.
        MachineError: another process has published meanwhile; nothing is lost.
    """
    old = latest(store, output)
    if old is None:
        raise UserError(f"{output} holds no finished table; run geolocate_bucket.py with this --output until it says so")
    parts: list[dict[str, Any]] = []
    for group in _groups(old, target):
        if isinstance(group, dict):
            parts.append(group)
            continue
        made = []
        for part in _Joined(store, old, target, len(parts)).parts(group):
            check()
            made.append(part)
        before = [old.parts[index] for index in sorted(group)]
        same = len(made) >= len(before) and all(live_rows(part) == part["rows"] for part in before)
        parts += before if same else made  # what was written in vain, `clear` removes
    if parts == old.parts:
        return None
    rows = sum(map(live_rows, parts))
    if rows != old.record["rows"]:
        raise MachineError(f"{old.record['rows']} rows became {rows} while they were compacted: a bug, report it")
    record = {**old.record, "parts": parts, "compacted": now(), "written": now()}
    check()
    if not store.put_if_absent(join(output, "table", f"{old.version + 1}.json"), json.dumps(record).encode()):
        raise MachineError(f"another process has published a table at {output} meanwhile; run the same command again")
    dropped = sum(part["rows"] - live_rows(part) for part in old.parts) - sum(part["rows"] - live_rows(part) for part in parts)
    return {"table": old.version + 1, "before": len(old.parts), "after": len(parts), "dropped": dropped}


def _groups(old: Snapshot, target: int) -> Iterator[dict[str, Any] | set[int]]:
    """The table's parts in order: one that stays as it is, or a set of neighbours (by index) that become new ones."""
    run: list[int] = []
    for index, part in enumerate(old.parts):
        stale = live_rows(part) < (1 - _STALE) * part["rows"]
        if stale or part.get("bytes", 0) < target / 2:
            run.append(index)
            continue
        yield from _run(old, run)
        run = []
        yield part
    yield from _run(old, run)


def _run(old: Snapshot, run: list[int]) -> Iterator[dict[str, Any] | set[int]]:
    """A run of small parts; one alone of which nothing is superseded would only be copied."""
    if len(run) > 1 or any(live_rows(old.parts[index]) < old.parts[index]["rows"] for index in run):
        yield set(run)
    else:
        yield from (old.parts[index] for index in run)


class _Joined:
    """New parts out of some of a table's parts."""

    def __init__(self, store: Store, old: Snapshot, target: int, first: int) -> None:
        self._store, self._old, self._target, self._count = store, old, target, first
        self._schema = LAYOUTS.get(old.record["method"], PLACE)

    def parts(self, indices: set[int]) -> Iterator[dict[str, Any]]:
        """Writes them, each as soon as it is large enough."""
        file = _File(self._schema)
        for piece in self._old.pieces(self._store, None, indices):
            file.add(self._fitted(piece.rows), self._old.parts[piece.part].get("run"))
            if file.size() >= self._target:
                yield self._put(file)
                file = _File(self._schema)
        if file.rows:
            yield self._put(file)

    def _fitted(self, rows: pa.Table) -> pa.Table:
        """The rows in today's schema; columns that their version had not are null."""
        if unknown := set(rows.column_names) - set(self._schema.names):
            raise UserError(f"{self._old.output} has columns of a newer geobatch, as {min(unknown)}; update this one")
        columns = [
            rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
            for field in self._schema
        ]
        return pa.table(columns, schema=self._schema)

    def _put(self, file: _File) -> dict[str, Any]:
        data = file.close()
        digest = hashlib.sha256(data).hexdigest()[:16]
        path = f"places/compact-{self._old.version + 1:06d}-{self._count:06d}-{digest}.parquet"
        self._count += 1
        self._store.put(join(self._old.output, path), data)
        part = {"path": path, "rows": file.rows, "bytes": len(data)}
        return {**part, "run": min(file.runs)} if len(file.runs) == 1 and None not in file.runs else part


class _File:
    """A part while it is written."""

    def __init__(self, schema: pa.Schema) -> None:
        self._data = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._data, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._bounds: list[float] | None = None
        self._geo = "geometry" in schema.names
        self.rows, self.runs = 0, set[Any]()

    def add(self, rows: pa.Table, run: str | None) -> None:
        """More rows, of a part of one run or of several (None)."""
        if not len(rows):
            return
        self.runs.add(run)
        self.rows += len(rows)
        self._waiting.append(rows)
        if self._geo:
            self._widen(rows)
        if sum(map(len, self._waiting)) >= GROUP_ROWS or sum(each.nbytes for each in self._waiting) >= GROUP_BYTES:
            self._flush()

    def size(self) -> int:
        """Bytes so far; what waits counts as if it shrank to a third."""
        return int(self._data.tell()) + sum(each.nbytes for each in self._waiting) // 3

    def _widen(self, rows: pa.Table) -> None:
        box = [np.asarray(rows[name].drop_null()) for name in ("longitude", "latitude")]
        if len(box[0]):
            low, high = [float(each.min()) for each in box], [float(each.max()) for each in box]
            old = self._bounds or [*low, *high]
            self._bounds = [min(old[0], low[0]), min(old[1], low[1]), max(old[2], high[0]), max(old[3], high[1])]

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write_table(table, row_group_size=len(table))
            self._waiting = []

    def close(self) -> bytes:
        """The bytes of the file."""
        self._flush()
        if self._geo:
            self._writer.add_key_value_metadata({"geo": json.dumps(geo(self._bounds))})
        self._writer.close()
        content: bytes = self._data.getvalue().to_pybytes()
        return content


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What `clear` deleted.

    Fields:
        parts, lists, tables: how many objects of each kind.
    """

    parts: int
    lists: int
    tables: int


def clear(store: Store, output: str, keep: timedelta, check: Callable[[], None] = lambda: None) -> Cleared:
    """Deletes what no table names that was the newest one at any time within `keep`.

    Args:
        store: reaches the output.
        output: folder or `s3://bucket/prefix`.
        keep: how long a reader may hold on to a table that it has opened.
        check: raises once another process works at the output.
    """
    numbers = versions(store, output)
    if not numbers:
        return Cleared(parts=0, lists=0, tables=0)
    until = datetime.now(UTC) - keep
    kept = [numbers[-1]]
    for older, newer in zip(reversed(numbers[:-1]), reversed(numbers[1:]), strict=True):
        if datetime.fromisoformat(version(store, output, newer).record["written"]) <= until:
            break  # replaced so long ago, and with it all before
        kept.append(older)
    named: set[str] = set()
    for number in kept:
        record = version(store, output, number).record
        named |= {each["path"].rsplit("/", 1)[-1] for each in (*record["parts"], *record.get("deleted", ()))}
    open_, last = unfinished_run(store, output)

    def dead(name: str) -> bool:
        found = _NAMED.fullmatch(name)
        if found is None or name in named:
            return False
        run = found["run"]
        return (int(run) <= last and run != open_) if run else int(found["table"]) <= numbers[-1] + 1

    parts = _delete(store, join(output, "places"), dead, check)
    lists = _delete(store, join(output, "deleted"), lambda name: name not in named and name[:6] != open_, check)
    tables = [number for number in numbers if number not in kept]
    check()
    store.delete(join(output, "table", f"{number}.json") for number in tables)
    return Cleared(parts=parts, lists=lists, tables=len(tables))


def _delete(store: Store, folder: str, dead: Callable[[str], bool], check: Callable[[], None]) -> int:
    count = 0
    for page in store.objects(folder):
        wanted = [item.uri for item in page if dead(item.uri.rsplit("/", 1)[-1])]
        check()
        store.delete(wanted)
        count += len(wanted)
    return count
