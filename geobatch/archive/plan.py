"""A listing becomes the frozen manifest.

Whatever lies below one prefix is planned together: loose images fill shards of at most `shard_rows` and `shard_bytes`; a tar
is a shard, or as many as it has byte parts (`parts`, `cut`); a zip's members and a Parquet file's row groups are cut into
shards, of which none spans two files. Listing streams: what is in memory is one page of the listing, one table of at most
50,000 rows, and, while a zip is planned, the names of its members. A million keys are planned in 6 s on one core and 62 MiB
(`tests/archive/test_plan.py`).

What it does not cover: listing several prefixes at once. One page of 1000 keys takes S3 some 0.1 s, so ten million keys take
a quarter of an hour, however fast the planner is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from geobatch.archive import parquet, texts
from geobatch.archive import zip as zips
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.cut import cut
from geobatch.archive.listing import PROBES, Source, pages, probe
from geobatch.archive.names import MemberIds, Names, escaped
from geobatch.errors import UserError
from geobatch.schema import HIDDEN, PLAN, UNOPENED
from geobatch.store import ALONE, Object, Store

__all__ = ["ArchiveConfig", "Planned", "plan"]

#: Rows of one table, and objects listed between two reports, at most.
TABLE_ROWS = 50_000

#: Kinds of a source that is no container: named in a manifest, or not judged yet.
_LOOSE = ("object", None)
#: Kinds of a container whose rows appear as it is read, and of those whose members the globs choose.
_UNSEEN, _CHOSEN = ("tar", "text"), ("tar", "zip")

#: Which of these (uri, etag) need no work; without an etag, an object that a manifest names and the store lacks, or, if HIDDEN,
#: does not show.
Known = Callable[[list[tuple[str, str | None]]], list[bool]]
#: Told the objects that are there, wanted or not.
Met = Callable[[list[str]], None]


class Planned(NamedTuple):
    """A piece of the manifest, and the counts up to here.

    Attributes:
        table: whole shards, rows of PLAN; none in a report that only counts.
        listed: objects met, and members of zips.
        skipped: of those, passed over by name (or, in a manifest, named again).
        known: of those, passed over because `known` said so.
        empty: (uri, etag) of zips and Parquet files, opened since the last piece, that hold no image and so have no shard.
        notes: lines on what was met since the last piece, that somebody should read.
    """

    table: pa.Table
    listed: int
    skipped: int
    known: int
    empty: tuple[tuple[str, str | None], ...] = ()
    notes: tuple[str, ...] = ()


class _Row(NamedTuple):
    """A row of PLAN but for its shard."""

    kind: str
    image_id: str | None
    uri: str
    etag: str | None
    size: int | None
    offset: int | None


def plan(
    store: Store,
    config: ArchiveConfig,
    known: Known | None = None,
    met: Met | None = None,
    *,
    may_be_empty: bool = False,
    reopen: bool = False,
) -> Iterator[Planned]:
    """The archive's shards, in tables as they are listed; a shard is never split between two.

    Args:
        store: reaches the archive.
        config: what is read.
        known: told which objects and containers need no reading; asked for at most 1000 at once.
        met: told what is listed, page by page, each before `known` is asked of it.
        may_be_empty: whether an archive without a single image is one, and not a mistake.
        reopen: tars and zips are read although they are known, since they were by other globs.

    Raises:
        UserError: nothing is there, nothing there is an image, or it may not be read.
        Unreadable: the store kept failing.
    """
    planner = _Planner(store, config, known, met, reopen)
    rows: list[_Row] = []
    sizes: list[int] = []
    first = reported = planned = 0
    for shard in planner.shards():
        if sizes and len(rows) + len(shard) > TABLE_ROWS:
            yield planner.report(rows, sizes, first)
            first, reported, rows, sizes = first + len(sizes), planner.listed, [], []
        if shard:
            rows += shard
            sizes.append(len(shard))
            planned += len(shard)
        elif planner.listed - reported >= TABLE_ROWS:
            yield planner.report(rows, sizes, first)
            first, reported, rows, sizes = first + len(sizes), planner.listed, [], []
    if not planned and not planner.known and not may_be_empty:
        raise UserError(_nothing(planner, config))
    yield planner.report(rows, sizes, first)


def _nothing(planner: _Planner, config: ArchiveConfig) -> str:
    if not planner.listed:
        return f"nothing lies at {config.uri}; check --archive"
    if planner.complaint:
        return planner.complaint
    globs = "check --include and --exclude" if config.include or config.exclude else "name the images with --include"
    if config.texts:
        return (
            f"none of the {planner.listed} objects at {config.uri} is a CSV, TSV, JSONL, JSON or Parquet file; check --archive"
        )
    return f"none of the {planner.listed} objects at {config.uri} is an image by its name; {globs}"


class _Planner:
    """Lists, sorts out, and cuts into shards."""

    def __init__(self, store: Store, config: ArchiveConfig, known: Known | None, met: Met | None, reopen: bool) -> None:
        self._store, self._config, self._known, self._met, self._reopen = store, config, known, met, reopen
        self._names = Names(config)
        self._loose: list[_Row] = []
        self._weight = 0
        self._probed, self._held = False, list[Source]()
        self.listed = self.skipped = self.known = 0
        self.complaint = ""
        self._empty: list[tuple[str, str | None]] = []
        self._notes: list[str] = []
        self._own = False

    def report(self, rows: list[_Row], sizes: list[int], first: int) -> Planned:
        """The rows as a table, their shards of these sizes numbered from `first`."""
        shards = [first + index for index, size in enumerate(sizes) for _ in range(size)]
        columns = [shards, *(list(column) for column in zip(*rows, strict=True))] if rows else [[] for _ in PLAN]
        table = pa.table([pa.array(column, field.type) for column, field in zip(columns, PLAN, strict=True)], schema=PLAN)
        empty, self._empty = tuple(self._empty), []
        notes, self._notes = tuple(self._notes), []
        return Planned(table, self.listed, self.skipped, self.known, empty, notes)

    def shards(self) -> Iterator[list[_Row]]:
        """The rows of each shard; an empty list after each page, so that counts can be reported."""
        for page in pages(self._store, self._config, self._names):
            self.listed += page.passed
            self.skipped += page.passed
            if self._met is not None:
                there = [source for source in page.sources if source.found is not None or source.hidden]
                self._met([each.uri for source in there for each in source.parts or (source,)])
            for source in self._unknown(self._named(page.sources)):
                if source.kind in _LOOSE or source.found is None:
                    if full := self._one(source):
                        yield full
                elif source.lacking:
                    yield [_Row("tar", escaped(source.uri), source.uri, source.found.etag, source.found.size, None)]
                elif source.parts:
                    for needed in cut(self._store, source.parts):
                        yield [_Row("tar", None, part.uri, part.etag, part.size, first) for part, first in needed]
                else:
                    yield from self._opened(source.kind or "", source.found)
            yield []
        if self._loose:
            yield self._loose

    def _one(self, source: Source) -> list[_Row]:
        """Adds a loose image, and gives the shard that it does not fit in any more."""
        full: list[_Row] = []
        found = source.found
        size, etag = (found.size, found.etag) if found is not None else (None, None)
        cost = size if size is not None and size <= self._config.max_bytes else 0
        if self._loose and (len(self._loose) == self._config.shard_rows or self._weight + cost > self._config.shard_bytes):
            full, self._loose, self._weight = self._loose, [], 0
        self._loose.append(_Row("object", escaped(source.uri), source.uri, etag, size, None))
        self._weight += cost
        return full

    def _opened(self, kind: str, found: Object) -> Iterator[list[_Row]]:
        """The shards of a container."""
        if kind == "text" and (wrong := texts.complaint(self._store, found, self._config.texts)):
            self.complaint = self.complaint or wrong
            self.skipped += 1
            return
        if kind in _UNSEEN:
            yield [_Row(kind, None, found.uri, found.etag, found.size, None)]
            return
        empty = True
        try:
            for shard in self._zip(found) if kind == "zip" else self._parquet(found):
                empty = False
                yield shard
            if empty:
                self._empty.append((found.uri, found.etag))
        except ALONE:
            # Gone, replaced, forbidden or withheld since it was listed: the reader will meet the same and say so in a row.
            yield [_Row(kind, escaped(found.uri), found.uri, found.etag, found.size, UNOPENED)]

    def _zip(self, found: Object) -> Iterator[list[_Row]]:
        ids = MemberIds(found.uri)
        shard: list[_Row] = []
        weight = 0
        members = zips.entries(cast(BinaryIO, self._store.seekable(found.uri, found.size, if_match=found.etag)), found.size)
        while True:
            try:
                member = next(members, None)
            except zips.DAMAGE:
                shard.append(_Row("zip", escaped(found.uri), found.uri, found.etag, found.size, None))
                break
            if member is None:
                break
            self.listed += 1
            if member.folder or not self._names.takes_member(member.name):
                self.skipped += 1
                continue
            cost = member.size if member.size <= self._config.max_bytes else 0
            if shard and (len(shard) == self._config.shard_rows or weight + cost > self._config.shard_bytes):
                yield shard
                shard, weight = [], 0
            shard.append(_Row("zip", ids.give(member.name), found.uri, found.etag, member.size, member.offset))
            weight += cost
        if shard:
            yield shard

    def _parquet(self, found: Object) -> Iterator[list[_Row]]:
        try:
            file = parquet.opened(self._store, found.uri, found.size, found.etag)
        except parquet.DAMAGE:
            yield [_Row("parquet", None, found.uri, found.etag, found.size, None)]
            return
        if parquet.image_column(file.schema_arrow) is None:
            if parquet.is_own(file.schema_arrow) and not self._own:
                self._own = True
                self._notes.append(
                    f"{found.uri} is of a table of geobatch's own: it and its like are passed over, not read as images"
                )
            self.skipped += 1
            return
        for run in parquet.runs(file, self._config):
            yield [_Row("parquet", None, found.uri, found.etag, group.size, index) for index, group in run]

    def _named(self, page: list[Source]) -> Iterator[Source]:
        """The sources that are wanted by name."""
        for source in page:
            self.listed += len(source.parts) or 1
            if source.parts:
                taken = True  # `parts` has asked the globs
                self._notes += [source.lacking] if source.lacking else []
            elif source.kind == "object":
                taken = not self._names.excludes(source.name)
            elif source.kind is not None:
                taken = self._names.opens(source.name)
            else:
                taken = self._names.takes(source.name)
            if taken:
                yield source
            else:
                self.skipped += 1

    def _unknown(self, page: Iterator[Source]) -> list[Source]:
        """The sources that are not known; the first of all are probed."""
        wanted = list(page)
        if self._known is not None:
            single = [source for source in wanted if not source.parts]
            asked = [(each.uri, each.found.etag if each.found else HIDDEN if each.hidden else None) for each in single]
            known = {source for source, yes in zip(single, self._known(asked) if asked else (), strict=True) if yes}
            for source in wanted:  # of parts that are not all there the first stands for the rest
                parts = source.parts[:1] if source.lacking else source.parts
                if parts and all(self._known([part[::2] for part in parts])):
                    known.add(source)
            if self._reopen:
                known = {source for source in known if source.kind not in _CHOSEN or source.found is None}
            self.known += sum(len(source.parts) or 1 for source in known)
            if not self._probed and len(self._held) < PROBES:
                self._held += [each for each in wanted if each in known and each.found is not None][:PROBES]
            wanted = [source for source in wanted if source not in known]
        if wanted and not self._probed:
            self._probed = True
            probe(self._store, wanted, self._held)
        return wanted
