"""Members of a zip, read where they lie.

Planning reads the central directory once, as a stream of entries, so that a zip of a million members costs the planner
their names and nothing else. A plan row holds the byte where its entry stands; reading a member fetches that entry and
gives it to the standard library, behind the file, as if it were the whole directory. So a shard of 256 members out of a
million costs 256 entries, not a million; a bad entry costs no other; and everything a zip can be (zip64, deflate, bzip2,
LZMA, data descriptors) is read by `zipfile`. No member is inflated beyond the size its entry states: `zipfile` sees to that
but for bzip2 and LZMA, which it inflates as far as they go, and which are therefore inflated here.

What it does not cover: archives split over several files; members that are encrypted (rejected).
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import pyarrow as pa

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.prefix import fate_of, too_large, unopened
from geobatch.archive.slice import NOTHING, Rows, Slice
from geobatch.errors import Rejection
from geobatch.schema import UNOPENED
from geobatch.store import ALONE, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_END = struct.Struct("<4s4H2LH")  # end of central directory
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory
_LOCATOR = struct.Struct("<4sLQL")  # of the latter
_ENTRY = struct.Struct("<4s6H3L5H2L")  # one member in the central directory
_LOCAL = struct.Struct("<4s5H3L2H")  # in front of a member's data
_UTF8 = 0x800

#: What damaged directories and members raise.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    struct.error,
    RuntimeError,
)


class Entry(NamedTuple):
    """One member as the central directory has it."""

    offset: int  # of this entry, bytes
    name: str
    size: int  # inflated, bytes
    folder: bool


class _Directory(NamedTuple):
    start: int  # of the first entry, bytes
    size: int  # of all entries, bytes
    shift: int  # what must be added to the offsets it states, where bytes stand before the zip


def entries(file: BinaryIO, size: int) -> Iterator[Entry]:
    """The members of the zip of `size` bytes, in the order of its directory.

    Raises:
        zipfile.BadZipFile: the directory cannot be read from here on.
    """
    where = _directory(file, size)
    file.seek(where.start)
    left, offset = where.size, where.start
    while left > 0:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or head[:4] != b"PK\x01\x02":
            raise zipfile.BadZipFile(f"no directory entry at byte {offset}")
        fields = _ENTRY.unpack(head)
        flags, packed, inflated, length = fields[3], fields[8], fields[9], fields[10:13]
        rest = file.read(sum(length))
        if len(rest) < sum(length):
            raise zipfile.BadZipFile(f"the directory ends inside the entry at byte {offset}")
        name = rest[: length[0]].decode("utf-8" if flags & _UTF8 else "cp437", "backslashreplace")
        if inflated == 0xFFFFFFFF:
            inflated = _wide(rest[length[0] : length[0] + length[1]])
        yield Entry(offset, name, inflated, name.endswith("/") and packed == 0)
        offset, left = offset + len(head) + len(rest), left - len(head) - len(rest)


def _wide(extra: bytes) -> int:
    """The inflated size, the first number in the zip64 field."""
    while len(extra) >= 12:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == 1:
            return int(struct.unpack("<Q", extra[4:12])[0])
        extra = extra[4 + length :]
    raise zipfile.BadZipFile("an entry without its size")


def _directory(file: BinaryIO, size: int) -> _Directory:
    tail = min(size, _END.size + 0xFFFF)
    file.seek(size - tail)
    data = file.read(tail)
    at = data.rfind(b"PK\x05\x06")
    if at < 0 or len(data) - at < _END.size:
        raise zipfile.BadZipFile("no end of a central directory: no zip, or cut off")
    fields = _END.unpack(data[at : at + _END.size])
    length, stated, end = fields[5], fields[6], size - tail + at
    file.seek(max(0, end - _LOCATOR.size))
    locator = file.read(_LOCATOR.size)
    if len(locator) == _LOCATOR.size and locator[:4] == b"PK\x06\x07":
        end -= _LOCATOR.size + _END64.size
        file.seek(max(0, end))
        wide = file.read(_END64.size)
        if len(wide) < _END64.size or wide[:4] != b"PK\x06\x06":
            raise zipfile.BadZipFile("a zip64 directory that is not where it is said to be")
        length, stated = _END64.unpack(wide)[8:10]
    if end - length < 0:
        raise zipfile.BadZipFile("a central directory larger than the file")
    return _Directory(end - length, length, end - length - stated)


class _Behind(io.RawIOBase):
    """A file with some bytes behind it."""

    def __init__(self, file: BinaryIO, size: int, behind: bytes) -> None:
        self._file, self._size, self._behind, self._position = file, size, behind, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size + len(self._behind)}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._position < self._size:
            self._file.seek(self._position)
            data = self._file.read(min(len(view), self._size - self._position))
        else:
            start = self._position - self._size
            data = self._behind[start : start + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Members:
    """The members of one zip, each by its entry.

    Raises:
        zipfile.BadZipFile: there is no central directory.
    """

    def __init__(self, file: BinaryIO, size: int, config: ArchiveConfig) -> None:
        self._file, self._size, self._config = file, size, config
        self._stated = size - _directory(file, size).shift

    def content(self, offset: int) -> bytes | Rejection:
        """The bytes of the member whose entry is at `offset`, or why there are none.

        Raises:
            Unreadable: the store failed.
        """
        try:
            with self._alone(offset) as archive:
                [info] = archive.infolist()
                # zipfile insists on one name in both places; the directory's is the one that counts.
                info.orig_filename = self._name(info.header_offset)
                return self._refused(info) or _inflated(archive, info)
        except ALONE as error:
            return fate_of(error)
        except NotImplementedError as error:
            return Rejection("unsupported", str(error))
        except DAMAGE as error:
            return Rejection("broken_archive", f"{type(error).__name__}: {error}")

    def _alone(self, offset: int) -> zipfile.ZipFile:
        """A zip whose directory holds this entry alone."""
        self._file.seek(offset)
        entry = bytearray(self._file.read(_ENTRY.size))
        fields = _ENTRY.unpack(entry)
        # Without the flag zipfile takes the name for cp437, and cannot fail on bad UTF-8.
        struct.pack_into("<H", entry, 8, fields[3] & ~_UTF8)
        entry += self._file.read(sum(fields[10:13]))
        end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, 1, 1, len(entry), self._stated)
        locator = _LOCATOR.pack(b"PK\x06\x07", 0, self._size + len(entry), 1)
        end = _END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        behind = _Behind(self._file, self._size, bytes(entry) + end64 + locator + end)
        return zipfile.ZipFile(cast(BinaryIO, io.BufferedReader(behind, 1 << 16)))

    def _name(self, offset: int) -> str:
        """The name in front of a member's data, decoded as zipfile does it."""
        self._file.seek(offset)
        head = self._file.read(_LOCAL.size)
        fields = _LOCAL.unpack(head)
        return self._file.read(fields[9]).decode("utf-8" if fields[2] & _UTF8 else "cp437")

    def _refused(self, info: zipfile.ZipInfo) -> Rejection | None:
        if info.file_size > self._config.max_bytes:
            return too_large(info.file_size, self._config)
        if info.flag_bits & 1:
            return Rejection("unsupported", "the member is encrypted")
        return Rejection("empty") if info.file_size == 0 else None


def _inflated(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return _bounded(archive, info)
    with archive.open(info) as file:
        data = file.read(info.file_size)
        file.read(1)  # only at the end is the checksum compared
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{len(data)} bytes where {info.file_size} were stated")
    return data


def _bounded(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member of bzip2 or LZMA."""
    packed = copy(info)  # as it lies there: stored, and with no checksum of its own
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC
    data = bytearray()
    with archive.open(packed) as file:
        inflate = bz2.BZ2Decompressor() if info.compress_type == zipfile.ZIP_BZIP2 else _lzma(file.read(9), info.file_size)
        while not inflate.eof and len(data) <= info.file_size and (piece := file.read(1 << 16)):
            data += inflate.decompress(piece, info.file_size + 1 - len(data))
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"not the {info.file_size} bytes that were stated, or not with their checksum")
    return bytes(data)


def _lzma(head: bytes, size: int) -> lzma.LZMADecompressor:
    """For what follows the head of an LZMA member, which is of no more than `size` bytes and needs no larger dictionary."""
    _, _, length, coded, window = struct.unpack("<BBHBL", head)
    if length != 5:
        raise zipfile.BadZipFile(f"{length} bytes of LZMA properties where 5 are the rule")
    literals = {"lc": coded % 9, "lp": coded // 9 % 5, "pb": coded // 45}
    return lzma.LZMADecompressor(
        lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": min(window, max(size, 4096)), **literals}]
    )


def read(store: Store, plan: pa.Table, config: ArchiveConfig) -> Iterator[Slice]:
    """The one slice of a shard of kind "zip".

    Raises:
        Unreadable: the store failed.
    """
    rows = Rows()
    planned = plan.to_pylist()
    opened = _opened(store, planned[0]["uri"], planned[0]["etag"], config)
    for row in planned:
        content: bytes | Rejection
        if isinstance(opened, Rejection):
            content = opened
        elif row["offset"] is None:
            content = Rejection("broken_archive", "its central directory cannot be read from here on")
        elif row["offset"] == UNOPENED:
            content = unopened()
        else:
            content = opened.content(row["offset"])
        if isinstance(content, Rejection):
            rows.reject(row["image_id"], row["uri"], row["etag"], row["size"], content)
        else:
            rows.add(row["image_id"], row["uri"], row["etag"], content)
    yield Slice(0, True, NOTHING, 0, rows.take())


def _opened(store: Store, uri: str, etag: str | None, config: ArchiveConfig) -> _Members | Rejection:
    try:
        found = store.head(uri)
        if found is None:
            return Rejection("missing", f"{uri} does not exist")
        return _Members(cast(BinaryIO, store.seekable(uri, found.size, if_match=etag or found.etag)), found.size, config)
    except ALONE as error:
        return fate_of(error)
    except DAMAGE as error:
        return Rejection("broken_archive", f"{type(error).__name__}: {error}")
