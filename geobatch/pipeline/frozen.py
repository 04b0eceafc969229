"""What is to be done tonight: the archive is listed into a run's frozen plan.

The table is read first, by the columns that say what it holds (`geobatch.sink.held`, `geobatch.sink.reuse`); then the listing
streams past it, page by page, and what is new is written into the plan as it comes. Nothing of the archive is read but its
listing, and nothing is marked as gone before the listing is complete. In memory are 30 bytes an
object of the table, and 16 a row where equal bytes are looked for. A page of 1000 names costs botocore 44 ms of a core, the
planner and all that it asks 12.

A container is known by its etag, which says nothing of the globs by which its members were chosen. The table keeps those, and
where tonight's take more, tars and zips are opened again; their members are recognised by their bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import member_globs, no_wider
from geobatch.archive.plan import Planned, plan
from geobatch.progress import Progress, say
from geobatch.schema import LAYOUTS
from geobatch.sink import Run, Snapshot, begin
from geobatch.sink import held as holding
from geobatch.sink import reuse as reusing
from geobatch.sink.held import Held
from geobatch.sink.reuse import Index
from geobatch.store import Store, split

#: Containers without an image that one run notes for the next; what is more is opened again, and noted then.
_EMPTY = 100_000

#: Share of what the table holds of an archive that may be gone at once before it is said as a warning.
_MANY = 0.5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run over a standing table does beside what is new.

    Fields:
        everything: all of the archive again; its rows then take the place of the old ones in one step.
        retry: reasons of rejections that are tried again; None: none are.
        emptied: the archive may be found without a single object that the table knows.
    """

    everything: bool = False
    retry: frozenset[str] | None = None
    emptied: bool = False

    def asked(self) -> dict[str, Any]:
        """What `run.json` keeps of it."""
        return {"everything": self.everything, "retry": sorted(self.retry or ())}


def freeze(
    run: Run,
    archive: ArchiveConfig,
    store: Store,
    table: Snapshot | None,
    wanted: Wanted | None = None,
    source: Store | None = None,
) -> dict[str, Any] | None:
    """Lists the archive into the run's frozen plan; None if nothing in it is new, and nothing in the table is gone.

    Containers that were opened and hold no image are work done: the run publishes their names, if nothing else, and the next
    one knows them.

    Args:
        run: whose record is written once there is something to do.
        archive: what is listed.
        store: reaches the output, and the archive too if `source` is None.
        table: what the run adds to; None: nothing is known.
        wanted: None: no more than what is new; objects that are gone are not marked, and equal bytes are computed again.
        source: reaches the archive.

    Raises:
        UserError: nothing is there, or nothing of what the table holds; it may not be read.
    """
    known = _Known(store, archive, table, wanted or Wanted(), marks=wanted is not None) if table is not None else None
    counts: dict[str, Any] = {"listed": 0, "skipped": 0, "known": 0, "images": 0, "empty": [], "globs": _globs(archive, table)}
    if known is not None and counts["globs"]["wider"] and not known.wanted.everything:
        say(
            f"--include and --exclude take other members than before below {counts['globs']['below']}: tars and zips that the "
            "table knows are read again, and what it has a place for keeps it"
        )
    with Progress("listed", unit="objects") as progress:
        stream = _tables(run, archive, store, source or store, known, counts, progress)
        first = next(stream, None)
        if first is None and known is not None and not (counts.get("vanished") or counts.get("returned") or counts["empty"]):
            return None
        begun = begin(run)
        run.record, run.resumed = begun.record, begun.resumed
        if (theirs := run.plan()) is not None:
            return theirs
        if first is not None and known is not None and known.index is not None:
            counts["reuse"] = known.index.write(store, run.at())
        frozen = run.freeze(chain([first] if first is not None else [], stream), counts)
    if known is not None and known.marks:
        _tell(counts, known.held)
    return frozen


def expected(
    archive: ArchiveConfig, store: Store, table: Snapshot | None, wanted: Wanted | None = None, source: Store | None = None
) -> Iterator[Planned]:
    """What `freeze` would plan now, with nothing written; arguments and errors as there."""
    if table is None:
        yield from plan(source or store, archive)
        return
    held = _Known(store, archive, table, wanted or Wanted(), marks=False).held
    empty, wider = wanted is not None and len(held) > 0, _globs(archive, table)["wider"]
    yield from plan(source or store, archive, held.known, held.met, may_be_empty=empty, reopen=wider)


def _tables(
    run: Run,
    archive: ArchiveConfig,
    store: Store,
    source: Store,
    known: _Known | None,
    counts: dict[str, Any],
    progress: Progress,
) -> Iterator[pa.Table]:
    """The plan's tables; at the end `counts` is all that the plan's record holds beside them."""
    held = known.held if known is not None else None
    asked = (held.known, held.met) if held is not None else (None, None)
    may_be_empty = known is not None and known.marks and len(known.held) > 0
    for planned in plan(source, archive, *asked, may_be_empty=may_be_empty, reopen=counts["globs"]["wider"]):
        counts["images"] += len(planned.table)
        counts.update(skipped=planned.skipped, known=planned.known)
        for note in planned.notes:
            say(note)
        empty = planned.empty[: _EMPTY - len(counts["empty"])]
        counts["empty"] += empty
        if held is not None and empty:  # what they held before goes
            held.planned([uri for uri, _ in empty])
        progress.add(planned.listed - counts["listed"])
        counts["listed"] = planned.listed
        if len(planned.table):
            if held is not None:
                held.planned(pc.unique(planned.table["uri"]).to_pylist())
            yield planned.table
    if known is not None:
        counts["touches"] = known.held.touches()
        if known.marks:
            emptied = known.wanted.emptied
            counts.update(known.held.gone(store, f"deleted/{run.id}", run.record["started"], emptied=emptied))


def lies_inside(output: str, archive: str) -> bool:
    """Whether an output lies in an archive, however both are spelled and whatever links lead there."""
    (bucket, inner), (other, outer) = _folder(output), _folder(archive)
    return bucket == other and inner.startswith(outer)


def _folder(uri: str) -> tuple[str | None, str]:
    place = split(uri)
    key = (place.key if place.bucket else os.path.realpath(place.key)).rstrip("/")
    return place.bucket, f"{key}/" if key or not place.bucket else ""


def _globs(archive: ArchiveConfig, table: Snapshot | None) -> dict[str, Any]:
    """For the plan's record: by which globs the members of containers `below` are chosen `now`, and whether some that the table
    holds there were chosen by others (`differ`) or are to be read again since some take more now (`wider`).
    """
    below, now = _below(archive), member_globs(archive)
    record = table.record if table is not None else {"globs": {}}
    said = record.get("globs", {})
    mixed = record.get("mixed", ()) if "globs" in record else (below,)  # nobody knows by which a table of before was made
    above = [where for where in said if below.startswith(where)]  # the nearest was read last
    then = [globs for where, globs in said.items() if where in sorted(above, key=len)[-1:] or where.startswith(below)]
    return {
        "below": below,
        "now": now,
        "differ": any(globs != now for globs in then) or any(below.startswith(one) or one.startswith(below) for one in mixed),
        "wider": any(not no_wider(now, globs) for globs in then),
    }


def _below(archive: ArchiveConfig) -> str:
    return f"{split(archive.uri).uri.rstrip('/')}/"


class _Known:
    """What the table holds, by object, and by bytes where equal bytes need not be computed again."""

    def __init__(self, store: Store, archive: ArchiveConfig, table: Snapshot, wanted: Wanted, *, marks: bool) -> None:
        self.wanted, self.marks = wanted, marks
        self.held = Held(table, _below(archive), everything=wanted.everything, retry=wanted.retry)
        again = marks and not wanted.everything and table.record["method"] not in LAYOUTS
        self.index = Index(table) if again else None
        columns = [*holding.COLUMNS, *(reusing.COLUMNS if self.index is not None else ())]
        with Progress("read of the table", table.record["rows"], unit="rows") as progress:
            for piece in table.pieces(store, columns):
                self.held.add(piece)
                if self.index is not None:
                    self.index.add(piece)
                progress.add(len(piece.rows))
        self.held.close()


def _tell(counts: dict[str, Any], held: Held) -> None:
    if counts["vanished"]:
        much = "warning: " if counts["vanished"] > _MANY * len(held) else ""
        say(f"{much}{counts['vanished']:,} objects of the table are gone from {held.below}; their rows stay, marked as deleted")
    if counts["returned"]:
        say(f"{counts['returned']:,} objects that were marked as deleted are there again, or have no rows any more")
