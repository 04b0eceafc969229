"""Where the members of each byte part of a tar begin, so that as many readers can work as there are parts.

A part begins anywhere, usually inside a member. Looking for a header in it would find the second half of one that a long
name precedes, so the search begins 2 MiB before the border (more than headers may take), follows the members it finds over
the border, and believes the first one behind it once two more have followed. A header has a checksum and says `ustar`;
older tars do not, and are read by one reader, as are gzipped ones. Costs two requests and some 2.5 MiB a part.

The guess is only where a reader begins: each reader checks that its own members lead to exactly where the next begins
(`tar`), so that a wrong one, such as a tar within the tar over a border, ends the job and never doubles or drops a member.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence

from geobatch.archive.headers import DAMAGE, Forward, Tar
from geobatch.archive.joined import Joined
from geobatch.store import ALONE, Object, Store

_BLOCK = tarfile.BLOCKSIZE
#: Bytes before a border at which the search begins; headers with long names and sparse maps are at most half of it.
BACK = 2 << 20
#: Bytes behind a border in which a member must begin; otherwise the part is its predecessor's.
AHEAD = 64 << 20
#: Members in a row that make a header believed, and headers tried for one border.
_BELIEVED, _TRIED = 3, 64


def cut(store: Store, parts: Sequence[Object]) -> Iterator[list[tuple[Object, int]]]:
    """For each part what its reader needs: the part itself, then those that its last member may reach into.

    Each comes with the byte in it at which its first own member begins, or its size if none does; a reader's members end
    where those of the first later part begin that has any.

    Raises:
        Unreadable: the store failed.
    """
    firsts = list(_firsts(store, parts))
    for number in range(len(parts)):
        last = number
        if firsts[number] < parts[number].size:
            later = (at for at in range(number + 1, len(parts)) if firsts[at] < parts[at].size)
            last = next(later, len(parts) - 1)
        yield list(zip(parts[number : last + 1], firsts[number : last + 1], strict=True))


def _firsts(store: Store, parts: Sequence[Object]) -> Iterator[int]:
    yield 0
    if len(parts) == 1:
        return
    whole = Joined(store, parts)
    try:
        zipped = store.get(parts[0].uri, 0, 2, if_match=parts[0].etag or None) == b"\x1f\x8b"
    except ALONE:  # that a part changed, vanished or is withheld is the reader's to report
        zipped = False
    reached = 0
    for part, start in zip(parts[1:], whole.starts[1:], strict=True):
        if not zipped and reached <= start:
            found = _first(whole, start)
            reached = start + part.size if found is None else found
        yield part.size if zipped else min(reached - start, part.size)


def _first(whole: Joined, border: int) -> int | None:
    """Byte of the whole at which the first member at or behind a border begins; None if that cannot be told."""
    at = max(0, border - BACK) // _BLOCK * _BLOCK
    tried = 0
    try:
        file = whole.open(at)
        try:
            while at < border + AHEAD and (window := file.read(1 << 20)):
                for header in _headers(window):
                    found = _followed(whole, at + header, border)
                    if found is not None:
                        return found
                    tried += 1
                    if tried == _TRIED:
                        return None
                at += len(window)
        finally:
            file.close()
    except ALONE:  # that a part changed, vanished or is withheld is the reader's to report
        return None
    return None


def _headers(window: bytes) -> Iterator[int]:
    """Where blocks of the window are whole headers by their checksum."""
    at = -1
    while (at := window.find(b"ustar", at + 1)) >= 0:
        start = at - 257
        if start >= 0 and start % _BLOCK == 0:
            try:
                tarfile.TarInfo.frombuf(window[start : start + _BLOCK], "utf-8", "backslashreplace")
            except tarfile.HeaderError:
                continue
            yield start


def _followed(whole: Joined, header: int, border: int) -> int | None:
    """The first member behind the border, on the way from a header on; None where the way breaks off."""
    file = Forward(whole.open(header), header, whole.open)
    found, behind = None, 0
    try:
        tar = Tar.over(file)
        while behind < _BELIEVED:
            member = tar.next()
            if member is None:
                return found if found is not None else whole.size
            if tar.offset <= member.offset:
                return None
            if member.offset >= border:
                found = member.offset if found is None else found
                behind += 1
    except DAMAGE:
        return None
    finally:
        file.close()
    return found
