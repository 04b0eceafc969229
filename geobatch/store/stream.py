"""Bytes of one object as a file: once in order, or at any place.

`Stream` reads an object from a position to its end through one GET. When the connection breaks in the middle it opens
another from where it was, with `If-Match`, so that the two halves belong to the same bytes; it gives up after `attempts`
breaks within one mebibyte. `RangeFile` is seekable, for formats whose table of contents is at the end: it fetches 256 KiB
where reading jumps to and up to 4 MiB where it goes on, and keeps the last 8 MiB.

Each read has a deadline in all (`timeouts`): a server that sends one byte a second counts as a break as well. So does one for
whose 16 MiB reading took longer than `request_timeout` in all, as it does for any other body (`StoreConfig.allowance`): at
10 KB/s, each read in time, a tar of 10 GB would hold its reader for twelve days. What passes between two reads does not count.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from geobatch.errors import GeobatchError
from geobatch.store.config import SPAN, StoreConfig
from geobatch.store.faults import Changed, Unreadable, given_up, wait

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Progress after which earlier breaks are forgiven.
_FORGIVEN = 1 << 20


class Opened(Protocol):
    """One answer whose body has not been read yet."""

    etag: str
    size: int  # of the whole object, bytes

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""

    def close(self) -> None:
        """Ends the answer, read or not."""


class Stream(io.RawIOBase):
    """An object read once, in order, across broken connections.

    Args:
        uri: the object, for messages.
        config: attempts and backoff.
        open_at: opens the object at a byte, if it still has the given etag.
        judge: as in `persist`.
        alone: what giving up means for this object.
        start: first byte to read.
        if_match: the etag it must have; by default the one it has when it is opened.
    """

    def __init__(
        self,
        uri: str,
        config: StoreConfig,
        open_at: Callable[[int, str | None], Opened],
        judge: Callable[[Exception, str], Exception | None],
        alone: Callable[[Unreadable], Unreadable] = lambda error: error,
        *,
        start: int = 0,
        if_match: str | None = None,
    ) -> None:
        self._uri, self._config, self._open_at = uri, config, open_at
        self._judge, self._alone = judge, alone
        self._body: Opened | None = open_at(start, if_match)
        self.etag, self.size = self._body.etag, self._body.size
        self._position, self._failures, self._failed_at = start, 0, start
        self._forgiven = _FORGIVEN
        self._spent, self._paced_at = 0.0, start

    def readable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes from the object's begin."""
        return self._position

    def close(self) -> None:
        """Drops the connection."""
        if self._body is not None:
            self._body.close()
            self._body = None
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fills `buffer` with up to 1 MiB; 0 means the end of the object.

        Raises:
            Changed: the object was replaced meanwhile.
            NotFound: it is gone.
            Unreadable: the connection broke too often.
        """
        view = memoryview(buffer).cast("B")
        want = min(len(view), 1 << 20, self.size - self._position)
        while want > 0:
            try:
                self._pace()
                if self._body is None:
                    self._body = self._open_at(self._position, self.etag)
                began = time.monotonic()
                data = self._body.read(want)
                self._spent += time.monotonic() - began
                if not data:
                    raise ConnectionError(f"the answer ended at byte {self._position} of {self.size}")
            except GeobatchError:
                raise
            except Exception as error:  # noqa: BLE001 — judged in `_broke`, never swallowed
                self._broke(error)
                continue
            view[: len(data)] = data
            self._position += len(data)
            return len(data)
        return 0

    def _pace(self) -> None:
        """Counts too few bytes in too much time as a break, which as many bytes in time forgive."""
        if self._spent <= self._config.request_timeout:
            return
        got, self._spent, self._paced_at = self._position - self._paced_at, 0.0, self._position
        if got < SPAN:
            self._forgiven = SPAN
            raise TimeoutError(f"{got} bytes came in {self._config.request_timeout:g} s (--store.request-timeout)")

    def _broke(self, error: Exception) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
        final = self._judge(error, self._uri)
        if final is not None:
            raise final from error
        if self._position - self._failed_at >= self._forgiven:
            self._failures, self._forgiven = 0, _FORGIVEN
        self._failures, self._failed_at = self._failures + 1, self._position
        if self._failures >= self._config.attempts:
            raise self._alone(given_up(self._config, self._uri, error)) from error
        wait(self._config, self._failures)


class RangeFile(io.RawIOBase):
    """An object as a seekable file that reads by Range and keeps the last blocks.

    Args:
        get: the bytes from start to end (exclusive) of the object.
        size: of the object, bytes.
        block: bytes fetched where reading jumps to.
        ahead: blocks fetched at once, at most, where it goes on: each fetch that follows another is twice as long.
        kept: how many blocks stay in memory.
    """

    def __init__(
        self, get: Callable[[int, int], bytes], size: int, *, block: int = 256 << 10, ahead: int = 16, kept: int = 32
    ) -> None:
        self._get, self._size, self._block, self._ahead = get, size, block, ahead
        self._kept = max(kept, ahead)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position, self._span, self._following = 0, 1, -1

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes from the object's begin."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves; fetches nothing."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to byte {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fills `buffer` up to the end of the block it begins in; 0 means the end of the object."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        number, inside = divmod(self._position, self._block)
        data = self._fetched(number)[inside : inside + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _fetched(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._span = min(self._span * 2, self._ahead) if number == self._following else 1
        self._following = number + self._span
        start = number * self._block
        end = min(self._following * self._block, self._size)
        data = self._get(start, end)
        if len(data) != end - start:
            raise Changed(f"the object ended at byte {start + len(data)} of {self._size}")
        for each in reversed(range(number, -(-end // self._block))):
            self._blocks[each] = data[(each - number) * self._block : (each - number + 1) * self._block]
            self._blocks.move_to_end(each)
        while len(self._blocks) > self._kept:
            self._blocks.popitem(last=False)
        return self._blocks[number]
