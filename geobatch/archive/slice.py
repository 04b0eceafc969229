"""The unit of work and of commit.

A shard falls into slices: runs of at most `shard_rows` images and `shard_bytes` encoded bytes, at least one image. Where
they begin depends on the archive and its configuration alone, never on what was read before, so that a slice committed by
a run that died is the slice that the next run leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from geobatch.errors import Rejection
from geobatch.schema import IMAGE

#: The `end` of a shard's last slice.
NOTHING = -1


class Slice(NamedTuple):
    """A run of a shard's images.

    Attributes:
        number: from 0 within the shard.
        last: whether the shard ends here.
        end: where the next slice begins: a byte of a (decompressed) tar, a row of a Parquet shard, a text of
            a shard of texts; `NOTHING` after the last.
        skipped: members passed over by name.
        table: rows of IMAGE.
    """

    number: int
    last: bool
    end: int
    skipped: int
    table: pa.Table


class Rows:
    """Rows of IMAGE as they are gathered."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str | None, int | None, bytes | None, str | None, str | None, str | None]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, image_id: str, uri: str, etag: str | None, data: bytes) -> None:
        """An image that was read."""
        self._rows.append((image_id, uri, etag, len(data), data, None, None, None))

    def reject(self, image_id: str, uri: str, etag: str | None, size: int | None, fate: Rejection) -> None:
        """An image that could not be read."""
        self._rows.append((image_id, uri, etag, size, None, "read", fate.reason, fate.detail))

    def take(self) -> pa.Table:
        """The rows as a table of IMAGE; none are left behind, so that their bytes are held once."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(IMAGE)
        self._rows.clear()
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, IMAGE, strict=True)], schema=IMAGE)


def close(number: int, done: Mapping[int, int], skipped: int, rows: Rows) -> Iterator[Slice]:
    """The slice `number` where a shard turned out to end, and what that makes of slices behind it.

    Nothing lies behind it unless the object was replaced or deleted after later slices were committed: then the ones
    between them stay empty, and the last is the one behind all of them, unless that was committed too.
    """
    behind, finished = [each for each in done if each > number], NOTHING in done.values()
    numbers = [number]
    if behind:
        numbers += [each for each in range(number + 1, max(behind)) if each not in done]
    if behind and not finished:
        numbers.append(max(behind) + 1)
    for each in numbers:
        last = each == numbers[-1] and not (behind and finished)
        yield Slice(each, last, NOTHING if last else 0, skipped if each == number else 0, rows.take())
