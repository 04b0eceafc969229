"""Loose objects: one slice a shard, many GETs in flight.

Each GET carries the etag of the listing, so that what is located is what was planned. An object that stays unreadable is
one rejection. If every object of a shard is after all attempts, the store is at fault, or this node's rights, or neighbours
that share a fate: the shard is raised. Asked for the last time, objects that the store withholds while it answers otherwise, or
denies, are rejections however many they are; a store that says nothing at all is raised still. An answer that is final (an
archival storage class) is a rejection however many get it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import container
from geobatch.archive.slice import NOTHING, Rows, Slice
from geobatch.errors import GeobatchError, Rejection
from geobatch.store import Changed, Denied, NotFound, Object, Store, Unreadable, Withheld

#: image_id, uri, etag, size.
_Object = tuple[str, str, str | None, int | None]


def fate_of(error: GeobatchError) -> Rejection:
    """The rejection that a store's answer for one object is."""
    reason = "missing" if isinstance(error, NotFound) else "changed" if isinstance(error, Changed) else "unreadable"
    return Rejection(reason, str(error))


def unopened() -> Rejection:
    """The rejection of a container that the store gives, and did not when it was planned."""
    return Rejection("unreadable", "the store withheld it when it was planned; run again with --retry-rejected unreadable")


def too_large(size: int, config: ArchiveConfig) -> Rejection:
    """The rejection of an image of so many bytes."""
    return Rejection("too_large", f"{size} bytes, more than {config.max_bytes}")


def read(store: Store, plan: pa.Table, config: ArchiveConfig, last: bool = True) -> Iterator[Slice]:
    """The one slice of a shard of kind "object".

    Args:
        store: reaches the archive.
        plan: the shard's rows.
        config: what is read.
        last: whether it is asked for no more, so that what can be said of each object alone is.

    Raises:
        Unreadable: none of several objects could be read, and the store does not answer, or is asked again (Withheld).
        Denied: none of several may be read, and it is asked for again.
    """
    objects, unread = _sized(store, plan, config)
    wanted = [(uri, etag) for (_, uri, etag, _), fate in zip(objects, unread, strict=True) if fate is None]
    answers = store.get_many(wanted)
    rows = Rows()
    failures: list[Unreadable | Denied] = []
    for (image_id, uri, etag, size), fate in zip(objects, unread, strict=True):
        if fate is not None:
            rows.reject(image_id, uri, etag, size, fate)
            continue
        answer = next(answers)
        if isinstance(answer, Denied) or (isinstance(answer, Unreadable) and answer.exhausted):
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
        silent = [each for each in failures if not isinstance(each, Withheld | Denied)]
        if silent or not last:
            raise (silent or failures)[0]
    yield Slice(0, True, NOTHING, 0, rows.take())


def _sized(store: Store, plan: pa.Table, config: ArchiveConfig) -> tuple[list[_Object], list[Rejection | None]]:
    """The objects, with sizes that were not to be had when they were planned, and why an object is not asked for.

    A container of unknown size is one that a manifest names: fetched as an image it would be in memory as a whole.
    """
    objects = list(zip(*(plan[name].to_pylist() for name in ("image_id", "uri", "etag", "size")), strict=True))
    unsized = [uri for _, uri, _, size in objects if size is None]
    found = {uri: said.size for uri, said in zip(unsized, store.head_many(unsized), strict=True) if isinstance(said, Object)}
    sized = [(name, uri, etag, found.get(uri) if size is None else size) for name, uri, etag, size in objects]
    return sized, [
        unopened() if uri in found and container(uri) is not None
        else Rejection("empty") if size == 0
        else too_large(size, config) if size is not None and size > config.max_bytes
        else None
        for _, uri, _, size in sized
    ]  # fmt: skip
