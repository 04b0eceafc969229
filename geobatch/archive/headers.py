"""The members of a tar, one by one, from any byte on, with damage raised.

The standard library reads the headers (ustar, GNU long names, pax, sparse), but its own iterator ends silently at a header
it cannot read, which would lose every image behind; here that is an error of `DAMAGE`. The file is read forwards only; what
is left out by more than 16 MiB is stepped over by a new request.
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import BinaryIO, cast

#: Bytes that are rather left out by a new request than read and dropped.
_LEAP = 16 << 20
#: Bytes of one member's headers, long names and sparse maps included; more is damage, not a header.
HEADER = 1 << 20
#: What headers and compressed streams raise when they are damaged. tarfile recurses once for each long name or pax header.
DAMAGE = (
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    RecursionError,
)
INSIDE = "the file ends inside a member"


class Forward:
    """A file at byte `position` of the archive that only goes forward; `reopen` opens it further on, if that is possible."""

    def __init__(self, file: BinaryIO, position: int, reopen: Callable[[int], BinaryIO] | None) -> None:
        self._file, self._position, self._reopen = file, position, reopen
        self.limit: int | None = None

    def tell(self) -> int:
        """Bytes from the archive's begin."""
        return self._position

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        if self.limit is not None and size > self.limit:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        """Goes on to a byte, or to the end if that comes before."""
        if position < self._position:
            raise tarfile.ReadError("a header that points backwards")
        if self._reopen is not None and position - self._position > _LEAP:
            self._file.close()
            self._file, self._position = self._reopen(position), position
        while self._position < position and self.read(min(position - self._position, 1 << 20)):
            pass

    def close(self) -> None:
        """Closes what is open."""
        self._file.close()


class Tar(tarfile.TarFile):
    """A tar whose `next` raises where the library's gives up in silence, and that remembers no members."""

    firstmember: tarfile.TarInfo | None = None
    #: Where the last header that was asked for begins.
    asked: int = 0

    @classmethod
    def over(cls, file: Forward) -> Tar:
        """The tar that begins where the file stands; its first header is read here."""
        return cls(fileobj=cast(BinaryIO, file), mode="r", encoding="utf-8", errors="backslashreplace")

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None at the end."""
        if self.firstmember is not None:
            first, self.firstmember = self.firstmember, None
            return first
        file = cast(Forward, self.fileobj)
        self.asked = self.offset
        file.limit = HEADER
        try:
            if self.offset != file.tell():
                file.seek(self.offset - 1)
                if not file.read(1):
                    raise tarfile.ReadError(INSIDE)
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
            except DAMAGE as error:
                if closed or isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                    return None
                raise
