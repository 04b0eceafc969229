"""A tar or WebDataset shard, plain or gzipped: read once, in order, never on disk.

A header that cannot be read is damage and becomes a row (`headers`); members before it are rows as if nothing had
happened. An archive may lack its closing zeros, and may be several archives written one behind the other; what follows the
closing zeros and is no header is padding.

A tar that was split into byte parts (`parts`) is a shard a part: the members whose first header lies in it, or in parts
behind it in which none was found to begin. The last of them may reach into further parts. The plan says where the next
shard begins, and a reader that does not come out exactly there raises: so every member is read once, or the job ends.

Where a slice begins in a plain tar is a byte of the file, so that reading starts there again after a death. A gzipped one
has no such places: it is read from its begin, and only slices that are not committed are kept. A member of more than
`max_bytes`, or a sidecar that large, is stepped over by a new Range GET.

What it does not cover: bzip2, xz and zstd; links (rejected: their bytes stand elsewhere); global pax headers
that rename members, after a resumption.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.headers import DAMAGE, INSIDE, Forward, Tar
from geobatch.archive.joined import Joined
from geobatch.archive.names import MemberIds, Names, escaped
from geobatch.archive.prefix import fate_of, too_large
from geobatch.archive.slice import NOTHING, Rows, Slice, close
from geobatch.errors import GeobatchError, Rejection, UserError
from geobatch.store import ALONE, Object, Store

#: What ends an archive early and says so in a row. That the store fails altogether is not among it.
_ENDS = (*DAMAGE, *ALONE)
_GZIP = b"\x1f\x8b"


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


def _members(file: Forward, source: _Source, end: int | None) -> Iterator[_Member]:
    """The members in order, up to the one at byte `end`; what ends the archive early comes as the last of them.

    Raises:
        Unreadable: the store failed, which says nothing about the archive.
        UserError: no member begins at `end`.
    """
    names, config = Names(source.config), source.config
    tar: Tar | None = None
    start = file.tell()
    try:
        tar = Tar.over(file)
        while tar.firstmember is not None or tar.offset != end:  # the part that begins there need not be opened
            member = tar.next()
            if end is not None and (member is None or tar.offset > end):
                if member is None or member.offset != end:
                    raise _astray(source.uri, end)
                return
            if member is None:
                return
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


def _astray(uri: str, end: int) -> UserError:
    return UserError(
        f"the members of {uri} do not lead to byte {end}, where the next part's begin (is there a tar within the tar?); "
        "join the parts to one file, which is read from its begin"
    )


def _refused(member: tarfile.TarInfo, config: ArchiveConfig) -> Rejection | None:
    if not member.isreg():
        return Rejection("empty", f"no file but a link to {member.linkname!r}" if member.linkname else "no file")
    if member.size > config.max_bytes:
        return too_large(member.size, config)
    return Rejection("empty") if member.size == 0 else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issparse():
        return cast(BinaryIO, tar.extractfile(member)).read()
    file = cast(Forward, tar.fileobj)  # the library's way costs two more copies
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError(INSIDE)
    return data


class _Source(NamedTuple):
    """The archive, and what reading it depends on."""

    file: Joined
    uri: str
    etag: str | None
    ids: MemberIds
    config: ArchiveConfig
    done: Mapping[int, int]
    end: int | None  # byte from which on members are another shard's


def _slices(source: _Source, members: Iterator[_Member], number: int) -> Iterator[Slice]:
    """Every slice from `number` on, also those that are done, but without their rows."""
    _, uri, etag, ids, config, done, _ = source
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
        UserError: the members do not lead to where the next shard begins.
    """
    rows = plan.to_pylist()
    file = Joined(store, [Object(row["uri"], row["size"], row["etag"] or "") for row in rows])
    uri, etag, first = rows[0]["uri"], rows[0]["etag"], rows[0]["offset"] or 0
    if rows[0]["offset"] is not None and first >= rows[0]["size"]:  # a part in which no member begins
        yield from (piece for piece in close(0, done, 0, Rows()) if piece.number not in done)
        return
    number, offset = _after(done, 0, first)
    if offset == NOTHING:
        return
    if rows[0]["image_id"] is not None:
        lacking = Rejection("broken_archive", "parts of it are missing; fetch them, or leave it out with --exclude")
        yield from close(number, done, 0, _alone(uri, etag, rows[0]["size"], lacking))
        return
    try:
        magic = store.get(uri, 0, len(_GZIP), if_match=etag)
        fate = None if magic else Rejection("empty")
    except ALONE as error:
        magic, fate = b"", fate_of(error)
    if fate is not None:
        yield from close(number, done, 0, _alone(uri, etag, rows[0]["size"], fate))
    elif magic == _GZIP and first == 0:
        source = _Source(file, uri, etag, MemberIds(uri), config, done, None)
        yield from (piece for piece in _pass(source, 0, 0, zipped=True) if piece.number not in done)
    else:
        behind = zip(file.starts[1:], rows[1:], strict=True)
        end = next((start + row["offset"] for start, row in behind if row["offset"] < row["size"]), None)
        ids = MemberIds(uri, seen() if done and seen is not None else ())
        yield from _resumed(_Source(file, uri, etag, ids, config, done, end), number, offset)


def _alone(uri: str, etag: str | None, size: int, fate: Rejection) -> Rows:
    """The archive's own rejection."""
    rows = Rows()
    rows.reject(escaped(uri), uri, etag, size, fate)
    return rows


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
    try:
        file = source.file.open(offset)
        if offset > source.file.size:  # the padding of the last member before it is what is cut off
            raise tarfile.ReadError(INSIDE)
    except _ENDS as error:
        yield from _slices(source, iter([_Member(offset, fate=_end(error, offset), ends=True)]), number)
        return
    inflated = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else None
    # No buffer of our own behind gzip: what it had inflated when it met the damage would be lost with it.
    forward = Forward(inflated, 0, None) if inflated is not None else Forward(file, offset, source.file.open)
    try:
        yield from _slices(source, _members(forward, source, source.end), number)
    finally:
        forward.close()
        file.close()  # gzip leaves what it reads from open
