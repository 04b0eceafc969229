"""What a standing table holds of an archive: what needs no work tonight, what must be done again, and what is gone.

Three questions are asked of it while the archive is listed. `known`: is this object, with these bytes, in the table? `met`:
these objects were listed, wanted or not. And at the end, `gone`: which objects of the table did the listing not meet?

**Marked, not forgotten.** An object that is gone keeps its rows; its name goes into `deleted/*.parquet`, which the next
table names (`geobatch.sink.table`), with the time of the listing that missed it first. It leaves that list once a listing
meets it again. Gone is only what a complete listing of a prefix did not show below that prefix (objects of other archives
that share the table are not judged), and what a manifest names and the store says is not there; what it denies or withholds
tonight may be there. A manifest that no longer names an object says nothing about it, nor does a glob that no longer fits. A
listing that fails ends the run before anything is marked, and one that meets nothing of all the table holds is refused
(`gone`): an unmounted disk looks like that.

**Done again** are objects with a row rejected for a reason that is asked for, and sources read in part. A container is read
again as a whole: its members that are placed already are recognised by their bytes and keep their prediction
(`geobatch.sink.reuse`), so only what was rejected is computed.

30 bytes an object: digests of its name (16) and etag (8), its part, two flags. A table of 200,000 is held in 1.0 s of a core,
and a listing of as many is planned against it in 2.4 s.

What it does not cover: one listing that misses objects without failing, which no S3 does, would mark them for a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.errors import UserError
from geobatch.schema import HIDDEN
from geobatch.sink.keys import Gathered, digests, matches
from geobatch.sink.table import DELETED, Piece, Snapshot, deleted_objects
from geobatch.store import Store, join

#: Columns that `Held.add` reads.
COLUMNS = ["uri", "etag", "reason"]

#: What the listing said of an entry: below its prefix and not met yet; met; of another archive; written to the list.
_MISSED, _MET, _ELSEWHERE, _WRITTEN = range(4)

#: Names of one file of the list, and objects looked up at once.
_FILE, _ASKED = 500_000, 50_000


class Held:
    """The objects of one table, as a planner and a listing ask for them.

    Args:
        table: whose pieces are then given to `add`.
        below: the prefix that is listed, with its slash at the end.
        everything: nothing counts as known: all is done again.
        retry: reasons of rejections that are done again; None: none are.
    """

    def __init__(self, table: Snapshot, below: str, *, everything: bool = False, retry: frozenset[str] | None = None) -> None:
        self.table, self.below = table, below
        self._everything, self._retry = everything, retry or frozenset()
        self._partial = frozenset(table.record.get("partial_sources", ()))
        self._gathered = Gathered([np.uint64, np.uint64, np.uint64, np.int32, np.bool_, np.uint8])
        self._page: dict[str, tuple[int, int]] = {}
        self._touched: set[int] = set()
        self._add(dict.fromkeys(map(tuple, table.record["empty_sources"]), False), -1)

    def add(self, piece: Piece) -> None:
        """The columns `COLUMNS` of a piece of the table."""
        uris, etags = piece.rows["uri"].to_pylist(), piece.rows["etag"].to_pylist()
        found = dict.fromkeys(zip(uris, etags, strict=True), False)
        if self._retry:
            for uri, etag, reason in zip(uris, etags, piece.rows["reason"].to_pylist(), strict=True):
                if reason in self._retry:
                    found[uri, etag] = True
        self._add(found, piece.part)

    def _add(self, found: dict[tuple[str, str | None], bool], part: int) -> None:
        if found:
            uris = [uri for uri, _ in found]
            again = [each or uri in self._partial for uri, each in zip(uris, found.values(), strict=True)]
            state = [_MISSED if uri.startswith(self.below) else _ELSEWHERE for uri in uris]
            etags = np.array([_etag(etag) for _, etag in found], np.uint64)
            self._gathered.add(*digests(uris), etags, np.full(len(uris), part, np.int32), again, state)

    def close(self) -> Held:
        """All pieces are added; from here on it may be asked."""
        self._first, self._second, self._etag, self._part, self._again, self._state = self._gathered.sorted()
        self._inside = int(np.count_nonzero(self._state == _MISSED))
        return self

    def __len__(self) -> int:
        """Objects below the prefix, counted once for each part they have rows in."""
        return self._inside

    def met(self, uris: list[str]) -> None:
        """These objects are there."""
        wanted = digests(uris)
        self._page = dict(zip(uris, zip(*(half.tolist() for half in wanted), strict=True), strict=True))
        for _, entries in matches(self._first, self._second, wanted):
            self._state[entries] = _MET

    def known(self, objects: list[tuple[str, str | None]]) -> list[bool]:
        """Which of these (uri, etag) need no work; without an etag, an object that a manifest names and the store lacks, or, if
        it is HIDDEN, does not show.

        What cannot be read and has rows needs none: reading it again could only replace what is known of it. What is not there
        is gone.
        """
        wanted = self._digests([uri for uri, _ in objects])
        etags = np.array([_etag(etag) for _, etag in objects], np.uint64)
        lacking = np.array([etag is None for _, etag in objects], np.bool_)
        barred = lacking | np.array([etag == HIDDEN for _, etag in objects], np.bool_)
        held, again = np.zeros(len(objects), np.bool_), np.full(len(objects), self._everything)
        for asked, entries in matches(self._first, self._second, wanted):
            held[asked] |= (self._etag[entries] == etags[asked]) | barred[asked]
            again[asked] |= self._again[entries]
            self._state[entries[lacking[asked]]] = _MISSED
        return cast(list[bool], (held & (barred | ~again)).tolist())

    def planned(self, uris: list[str]) -> None:
        """These objects are done again."""
        for _, entries in matches(self._first, self._second, digests(uris)):
            self._touched.update(np.unique(self._part[entries]).tolist())

    def _digests(self, uris: list[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """As `digests`; most were made when the page was met."""
        if any(uri not in self._page for uri in uris):
            return digests(uris)
        both = np.array([self._page[uri] for uri in uris], np.uint64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def touches(self) -> dict[str, Any]:
        """For the plan's record: which parts of which table hold rows of objects that are done again."""
        return {"table": self.table.version, "parts": sorted(self._touched - {-1})}

    def gone(self, store: Store, folder: str, since: str, *, emptied: bool = False) -> dict[str, Any]:
        """Writes the list of what is gone, once the listing is complete.

        Args:
            store: reaches the output.
            folder: path below the output that new files' names begin with.
            since: time of this listing.
            emptied: the user says that the archive was emptied on purpose.

        Returns:
            `{"deleted": files, "vanished": objects that are new on the list, "returned": those no longer on it}`.

        Raises:
            UserError: nothing of what the table holds below the prefix was met.
        """
        files, left = self._still_gone(store, folder)
        missed = int(np.count_nonzero((self._state == _MISSED) & (self._part >= 0)))
        if missed and not emptied and not np.any(self._state == _MET):
            raise UserError(_emptied(self.below, missed))
        lists = _Lists(store, self.table.output, folder)
        for names in self._newly_gone(store):
            lists.add([(name, since) for name in names])
        fresh, vanished = lists.close()
        return {"deleted": files + fresh, "vanished": vanished, "returned": left}

    def _still_gone(self, store: Store, folder: str) -> tuple[list[dict[str, Any]], int]:
        """The files of the list as it stands without what is there again, and how much that is."""
        kept, dropped = [], 0
        for number, (file, rows) in enumerate(
            zip(self.table.record.get("deleted", ()), deleted_objects(store, self.table), strict=True)
        ):
            stays = self._unmet(rows["uri"].to_pylist(), (_MISSED, _ELSEWHERE))
            dropped += len(rows) - int(np.count_nonzero(stays))
            if stays.all():
                kept.append(file)
            elif stays.any():
                kept.append(_put(store, self.table.output, f"{folder}-again-{number:03d}", rows.filter(pa.array(stays))))
        return kept, dropped

    def _newly_gone(self, store: Store) -> Iterator[list[str]]:
        parts = set(np.unique(self._part[self._state == _MISSED]).tolist()) - {-1}
        if not parts:
            return
        for piece in self.table.pieces(store, ["uri"], parts):
            uris = list(dict.fromkeys(piece.rows["uri"].to_pylist()))
            for start in range(0, len(uris), _ASKED):
                asked = uris[start : start + _ASKED]
                missed = self._unmet(asked, (_MISSED,))
                yield [uri for uri, yes in zip(asked, missed, strict=True) if yes]

    def _unmet(self, uris: list[str], states: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Which objects are in one of the states; they are `_WRITTEN` from then on."""
        found = np.zeros(len(uris), np.bool_)
        for asked, entries in matches(self._first, self._second, digests(uris)):
            found[asked] |= np.isin(self._state[entries], states)
            self._state[entries[np.isin(self._state[entries], states)]] = _WRITTEN
        return found


class _Lists:
    """New files of the list, at most `_FILE` names each."""

    def __init__(self, store: Store, output: str, folder: str) -> None:
        self._store, self._output, self._folder = store, output, folder
        self._waiting: list[tuple[str, str]] = []
        self._files: list[dict[str, Any]] = []

    def add(self, rows: list[tuple[str, str]]) -> None:
        """(uri, since) of more objects."""
        self._waiting += rows
        if len(self._waiting) >= _FILE:
            self._write()

    def _write(self) -> None:
        uris, since = zip(*self._waiting, strict=True)
        table = pa.table([pa.array(uris), pa.array(since)], schema=DELETED)
        self._waiting = []
        self._files.append(_put(self._store, self._output, f"{self._folder}-{len(self._files):03d}", table))

    def close(self) -> tuple[list[dict[str, Any]], int]:
        """The files, and how many objects they name."""
        if self._waiting:
            self._write()
        return self._files, sum(file["rows"] for file in self._files)


def _put(store: Store, output: str, name: str, rows: pa.Table) -> dict[str, Any]:
    data = pa.BufferOutputStream()
    pq.write_table(rows, data, compression="zstd")
    content = data.getvalue().to_pybytes()
    path = f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    store.put(join(output, path), content)
    return {"path": path, "rows": len(rows)}


def _etag(etag: str | None) -> int:
    if etag is None:
        return 0
    return int.from_bytes(hashlib.blake2b(etag.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _emptied(below: str, missed: int) -> str:
    return (
        f"of the {missed:,} objects that the table holds of {below} not one is there any more; if the archive was emptied on "
        "purpose give --archive-emptied, else check --archive"
    )
