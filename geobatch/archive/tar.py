"""A tar or WebDataset shard, plain or gzipped: read once, in order, never on disk.

The standard library reads the headers (ustar, GNU long names, pax, sparse), but its own iterator ends silently at a header
it cannot read, which would lose every image behind; here that is damage and becomes a row. Members before it are rows as
if nothing had happened. An archive may lack its closing zeros, and may be several archives written one behind the
other; what follows the closing zeros and is no header is padding.

Where a slice begins in a plain tar is a byte of the file, so that reading starts there again after a death. A gzipped one
has no such places: it is read from its begin, and only slices that are not committed are kept. A member of more than
`max_bytes`, or a sidecar that large, is stepped over by a new Range GET.

What it does not cover: bzip2, xz and zstd; links (rejected: their bytes stand elsewhere); global pax headers
that rename members, after a resumption.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import MemberIds, Names, escaped
from geobatch.archive.prefix import fate_of, too_large
from geobatch.archive.slice import NOTHING, Rows, Slice, close
from geobatch.errors import GeobatchError, Rejection
from geobatch.store import Changed, Denied, NotFound, Store

#: Bytes that are rather left out by a new request than read and dropped.
_LEAP = 16 << 20
#: Bytes of one member's headers, long names and sparse maps included; more is damage, not a header.
_HEADER = 1 << 20
#: What headers and compressed streams raise when they are damaged.
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, KeyError, IndexError, OverflowError, struct.error)
#: What ends an archive early and says so in a row. The store failing is not among it.
_ENDS = (*_DAMAGE, Changed, NotFound, Denied)
_INSIDE = "the file ends inside a member"
_GZIP = b"\x1f\x8b"


class _Forward:
    """A file at byte `position` of the archive that only goes forward; `reopen` opens it further on, if that is possible."""

    def __init__(self, file: BinaryIO, position: int, reopen: Callable[[int], BinaryIO] | None) -> None:
        self._file, self._position, self._reopen = file, position, reopen
        self.limit: int | None = None

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if self.limit is not None and size > self.limit:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header that points backwards")
        if self._reopen is not None and position - self._position > _LEAP:
            self._file.close()
            self._file, self._position = self._reopen(position), position
        while self._position < position and self.read(min(position - self._position, 1 << 20)):
            pass

    def close(self) -> None:
        self._file.close()


class _Tar(tarfile.TarFile):
    """A tar whose `next` raises where the library's gives up in silence, and that remembers no members."""

    firstmember: tarfile.TarInfo | None = None
    #: Where the last header that was asked for begins.
    asked: int = 0

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None at the end."""
        if self.firstmember is not None:
            first, self.firstmember = self.firstmember, None
            return first
        file = cast(_Forward, self.fileobj)
        self.asked = self.offset
        file.limit = _HEADER
        try:
            if self.offset != file.tell():
                file.seek(self.offset - 1)
                if not file.read(1):
                    raise tarfile.ReadError(_INSIDE)
            return self._header()
        finally:
            file.limit = None

    def _header(self) -> tarfile.TarInfo | None:
        closed = False
        while True:
            try:
                return self.tarinfo.fromtarfile(self)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                closed = True
                self.offset += tarfile.BLOCKSIZE
            except _DAMAGE as error:
                if closed or isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                    return None
                raise


class _Member(NamedTuple):
    """What `_members` meets: an image, a member to pass over (`name` is None), or the archive's early end (`ends`)."""

    offset: int  # of its header
    name: str | None = None
    size: int = 0
    fate: Rejection | None = None
    read: Callable[[], bytes] | None = None
    ends: bool = False


def _end(error: Exception, offset: int) -> Rejection:
    if isinstance(error, GeobatchError):
        return fate_of(error)
    return Rejection("broken_archive", f"at byte {offset}: {type(error).__name__}: {error}")


def _members(file: _Forward, names: Names, config: ArchiveConfig) -> Iterator[_Member]:
    """The members in order; what ends the archive early comes as the last of them.

    Raises:
        Unreadable: the store failed, which says nothing about the archive.
    """
    tar: _Tar | None = None
    start = file.tell()
    try:
        tar = _Tar(fileobj=cast(BinaryIO, file), mode="r", encoding="utf-8", errors="backslashreplace")
        while (member := tar.next()) is not None:
            if tar.offset <= member.offset:
                raise tarfile.ReadError("a member of negative size")
            if member.isdir() or not names.takes_member(member.name):
                yield _Member(member.offset)
                continue
            fate = _refused(member, config)
            read = partial(_content, tar, member) if fate is None else None
            yield _Member(member.offset, member.name, member.size, fate, read)
    except _ENDS as error:
        offset = tar.asked if tar is not None else start
        yield _Member(offset, fate=_end(error, offset), ends=True)


def _refused(member: tarfile.TarInfo, config: ArchiveConfig) -> Rejection | None:
    if not member.isreg():
        return Rejection("empty", f"no file but a link to {member.linkname!r}" if member.linkname else "no file")
    if member.size > config.max_bytes:
        return too_large(member.size, config)
    return Rejection("empty") if member.size == 0 else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issparse():
        return cast(BinaryIO, tar.extractfile(member)).read()
    file = cast(_Forward, tar.fileobj)  # the library's way costs two more copies
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError(_INSIDE)
    return data


class _Source(NamedTuple):
    """The archive, and what reading it depends on."""

    store: Store
    uri: str
    etag: str | None
    ids: MemberIds
    config: ArchiveConfig
    done: Mapping[int, int]


def _slices(source: _Source, members: Iterator[_Member], number: int) -> Iterator[Slice]:
    """Every slice from `number` on, also those that are done, but without their rows."""
    _, uri, etag, ids, config, done = source
    rows, count, weight, skipped = Rows(), 0, 0, 0
    for member in members:
        if member.name is None and not member.ends:
            skipped += 1
            continue
        cost = member.size if member.read is not None else 0
        if count and (count == config.shard_rows or weight + cost > config.shard_bytes):
            yield Slice(number, False, member.offset, skipped, rows.take())
            number, count, weight, skipped = number + 1, 0, 0, 0
        count, weight = count + 1, weight + cost
        fate, ends, data = member.fate, member.ends, b""
        if member.read is not None:
            try:
                data = member.read()
            except _ENDS as error:
                fate, ends = _end(error, member.offset), True
        image_id = escaped(uri) if ends or member.name is None else ids.give(member.name)
        if number in done:
            pass
        elif fate is not None:
            rows.reject(image_id, uri, etag, None if ends else member.size, fate)
        else:
            rows.add(image_id, uri, etag, data)
        if ends:
            break
    yield from close(number, done, skipped, rows)


def _after(done: Mapping[int, int], number: int, offset: int) -> tuple[int, int]:
    """The first slice from `number` on that is not done, and where it begins; `NOTHING` if none is left."""
    while number in done:
        number, offset = number + 1, done[number]
    return number, offset


def read(
    store: Store,
    plan: pa.Table,
    config: ArchiveConfig,
    done: Mapping[int, int],
    seen: Callable[[], set[str]] | None,
) -> Iterator[Slice]:
    """The slices of a shard of kind "tar" that are not done.

    Raises:
        Unreadable: the store failed; no row would be true.
    """
    [row] = plan.to_pylist()
    uri, etag = row["uri"], row["etag"]
    number, offset = _after(done, 0, 0)
    if offset == NOTHING:
        return
    try:
        magic = store.get(uri, 0, len(_GZIP), if_match=etag)
        fate = None if magic else Rejection("empty")
    except (Changed, NotFound, Denied) as error:
        magic, fate = b"", fate_of(error)
    if fate is not None:
        rows = Rows()
        rows.reject(escaped(uri), uri, etag, row["size"], fate)
        yield from close(number, done, 0, rows)
    elif magic == _GZIP:
        source = _Source(store, uri, etag, MemberIds(uri), config, done)
        yield from (piece for piece in _pass(source, 0, 0, zipped=True) if piece.number not in done)
    else:
        ids = MemberIds(uri, seen() if done and seen is not None else ())
        yield from _resumed(_Source(store, uri, etag, ids, config, done), number, offset)


def _resumed(source: _Source, number: int, offset: int) -> Iterator[Slice]:
    """Passes over a plain tar, one for each run of slices that are not done."""
    while offset != NOTHING:
        following = number
        with closing(_pass(source, number, offset, zipped=False)) as pieces:
            for piece in pieces:
                yield piece
                if piece.last:
                    return
                following, end = piece.number + 1, piece.end
                if following in source.done:
                    break
        number, offset = _after(source.done, following, end)


def _pass(source: _Source, number: int, offset: int, *, zipped: bool) -> Generator[Slice]:
    """The slices from `number` on, read from byte `offset`."""

    def opened(position: int) -> BinaryIO:
        return cast(BinaryIO, source.store.stream(source.uri, position, if_match=source.etag))

    try:
        file = source.store.stream(source.uri, offset, if_match=source.etag)
        if offset > file.raw.size:  # the padding of the last member before it is what is cut off
            raise tarfile.ReadError(_INSIDE)
    except _ENDS as error:
        yield from _slices(source, iter([_Member(offset, fate=_end(error, offset), ends=True)]), number)
        return
    inflated = cast(BinaryIO, gzip.GzipFile(fileobj=cast(BinaryIO, file))) if zipped else None
    # No buffer of our own behind gzip: what it had inflated when it met the damage would be lost with it.
    forward = _Forward(inflated, 0, None) if inflated is not None else _Forward(cast(BinaryIO, file), offset, opened)
    try:
        yield from _slices(source, _members(forward, Names(source.config), source.config), number)
    finally:
        forward.close()
        file.close()  # gzip leaves what it reads from open
