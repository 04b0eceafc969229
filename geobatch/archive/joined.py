"""Objects that lie one behind the other as one file.

A file that was cut by `split` is whole again without being written anywhere: reading runs over the borders, and each object
is opened when it is reached, with the etag it was planned with, so that parts of two different files never meet.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO, cast

from geobatch.store import Changed, Object, Store


class Joined:
    """The bytes of several objects, in order.

    Attributes:
        parts: the objects; an etag that is empty is not compared.
        starts: byte of the whole where each begins.
        size: of the whole, bytes.
    """

    def __init__(self, store: Store, parts: Sequence[Object]) -> None:
        self._store, self.parts = store, tuple(parts)
        *self.starts, self.size = accumulate((part.size for part in parts), initial=0)

    def open(self, position: int) -> BinaryIO:
        """A file that reads from a byte of the whole to its end; the first object is opened at once.

        Raises:
            NotFound, Changed, Denied, Unreadable: as `Store.stream`; also while reading, of a later part.
        """
        return cast(BinaryIO, _Running(self, self._store, position))


class _Running:
    def __init__(self, whole: Joined, store: Store, position: int) -> None:
        self._whole, self._store, self._position = whole, store, position
        self._number = min(max(bisect_right(whole.starts, position) - 1, 0), len(whole.parts) - 1)
        self._file = self._opened()

    def _opened(self) -> BinaryIO:
        part = self._whole.parts[self._number]
        inside = self._position - self._whole.starts[self._number]
        return cast(BinaryIO, self._store.stream(part.uri, inside, if_match=part.etag or None))

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the whole."""
        data = self._file.read(size)
        self._position += len(data)
        while len(data) < size and self._next():
            more = self._file.read(size - len(data))
            self._position += len(more)
            data += more
        return data

    def _next(self) -> bool:
        """Opens the part behind this one, which must have been read to its end."""
        whole = self._whole
        if self._number + 1 == len(whole.parts):
            return False
        if self._position != whole.starts[self._number + 1]:
            raise Changed(f"{whole.parts[self._number].uri} is shorter than it was")
        self._file.close()
        self._number += 1
        self._file = self._opened()
        return True

    def close(self) -> None:
        self._file.close()
