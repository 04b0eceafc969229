"""Loose objects: one slice a shard, many GETs in flight.

Each GET carries the etag of the listing, so that what is located is what was planned. An object that stays unreadable is
one rejection; if every object of a shard is after all attempts, the store is at fault and not the images, and the shard is
raised. An answer that is final (an archival storage class) is a rejection however many get it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.slice import NOTHING, Rows, Slice
from geobatch.errors import GeobatchError, Rejection
from geobatch.store import Changed, NotFound, Store, Unreadable


def fate_of(error: GeobatchError) -> Rejection:
    """The rejection that a store's answer for one object is."""
    reason = "missing" if isinstance(error, NotFound) else "changed" if isinstance(error, Changed) else "unreadable"
    return Rejection(reason, str(error))


def too_large(size: int, config: ArchiveConfig) -> Rejection:
    """The rejection of an image of so many bytes."""
    return Rejection("too_large", f"{size} bytes, more than {config.max_bytes}")


def read(store: Store, plan: pa.Table, config: ArchiveConfig) -> Iterator[Slice]:
    """The one slice of a shard of kind "object".

    Raises:
        Unreadable: none of several objects could be read.
    """
    objects = list(zip(*(plan[name].to_pylist() for name in ("image_id", "uri", "etag", "size")), strict=True))
    wanted = [(uri, etag) for _, uri, etag, size in objects if size is None or 0 < size <= config.max_bytes]
    answers = store.get_many(wanted)
    rows, failures = Rows(), []
    for image_id, uri, etag, size in objects:
        if size == 0:
            rows.reject(image_id, uri, etag, 0, Rejection("empty"))
            continue
        if size is not None and size > config.max_bytes:
            rows.reject(image_id, uri, etag, size, too_large(size, config))
            continue
        answer = next(answers)
        if isinstance(answer, Unreadable) and answer.exhausted:
            failures.append(answer)
        if isinstance(answer, GeobatchError):
            rows.reject(image_id, uri, etag, size, fate_of(answer))
        elif not answer:
            rows.reject(image_id, uri, etag, 0, Rejection("empty"))
        elif len(answer) > config.max_bytes:
            rows.reject(image_id, uri, etag, len(answer), too_large(len(answer), config))
        else:
            rows.add(image_id, uri, etag, answer)
    if len(failures) == len(wanted) > 1:
        raise failures[0]
    yield Slice(0, True, NOTHING, 0, rows.take())
