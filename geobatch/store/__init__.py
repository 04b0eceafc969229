"""Bytes at a URI: list, read, write, and write only where nothing stands yet.

Two kinds of URI, `s3://bucket/key` through boto3 and local paths (`uri`), behind one class that asks again when a store
throttles, fails, resets or truncates (`faults`). A `Store` is a value: it pickles as its configuration, makes its clients
on first use in each process, and may be shared by threads.

What it does not cover: multipart uploads (a PUT carries 5 GB at most; parts of a table are far below), versions of
objects, and S3 Express directory buckets, whose listings are not sorted.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from geobatch.errors import GeobatchError, UserError
from geobatch.store.config import StoreConfig, StoreOverride
from geobatch.store.disk import Disk
from geobatch.store.faults import ALONE, Changed, Denied, NoBucket, NotFound, Unreadable, Withheld
from geobatch.store.s3 import S3, Tagged
from geobatch.store.stream import RangeFile, Stream
from geobatch.store.uri import Object, Place, join, split

__all__ = [
    "ALONE",
    "Changed",
    "Denied",
    "NoBucket",
    "NotFound",
    "Object",
    "RangeFile",
    "Store",
    "StoreConfig",
    "StoreOverride",
    "Stream",
    "Tagged",
    "Unreadable",
    "Withheld",
    "join",
    "misnamed",
    "split",
]


class Store:
    """Every bucket and folder that one set of credentials reaches.

    All methods raise `UserError` for missing, wrong or expired credentials and for buckets that do not exist, `Denied`
    (also a UserError) for what these credentials may not touch, and `Unreadable` when all attempts failed.
    """

    def __init__(self, config: StoreConfig | None = None) -> None:
        self.config = config or StoreConfig()
        self._disk = Disk(self.config)
        self._s3 = S3(self.config)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Store], tuple[StoreConfig]]:
        """Pickles as the configuration; clients stay behind."""
        return Store, (self.config,)

    def _side(self, place: Place) -> S3 | Disk:
        if place.bucket is None:
            return self._disk
        if self._process != os.getpid():  # forked: connections must not be shared with the parent
            self._s3, self._process = S3(self.config), os.getpid()
        return self._s3

    def objects(self, prefix: str, after: str | None = None) -> Iterator[list[Object]]:
        """Everything below the folder `prefix`, in pages of at most 1000, ordered by the key's UTF-8 bytes.

        `s3://b/a` and `s3://b/a/` both mean the keys that begin with `a/`, never `ab/x`. Pages are fetched as they are
        asked for; nothing there means empty pages, not an error. A listing that broke off goes on behind the last URI it
        gave, `after`, in as many requests as are left.
        """
        place = split(prefix)
        folder = place.key if not place.key or place.key.endswith("/") else f"{place.key}/"
        return self._side(place).objects(place._replace(key=folder), None if after is None else split(after).key)

    def require_credentials(self, uri: str) -> None:
        """Lists one page, so that what the user must put right is said before anything is started.

        Raises:
            UserError: credentials are missing or refused, or there is no such bucket.
            Unreadable: the store does not answer.
        """
        with contextlib.suppress(Denied, Withheld):  # who may read may still not list
            next(self.objects(uri), None)

    def head(self, uri: str) -> Object | None:
        """Size in bytes and etag of one object, or None if there is none."""
        place = split(uri)
        return self._side(place).head(place)

    def exists(self, uri: str) -> bool:
        """Whether an object stands at the URI."""
        return self.head(uri) is not None

    def get(self, uri: str, start: int | None = None, end: int | None = None, *, if_match: str | None = None) -> bytes:
        """The object's bytes from `start` to `end` (exclusive); fewer where the object ends before.

        Raises:
            NotFound: nothing is there.
            Changed: the object's etag is not `if_match`.
        """
        return self.get_tagged(uri, start, end, if_match=if_match).data

    def get_tagged(self, uri: str, start: int | None = None, end: int | None = None, *, if_match: str | None = None) -> Tagged:
        """As `get`, with the etag of the object the bytes are of."""
        place = split(uri)
        return self._side(place).get(place, start, end, if_match)

    def get_many(self, wanted: Iterable[str | tuple[str, str | None]]) -> Iterator[bytes | GeobatchError]:
        """Whole objects in the order asked, `in_flight` GETs under way; an object's error stands in its place.

        `wanted` holds URIs, or pairs of a URI and the etag it must have. It is consumed as answers are taken, so that no
        more than `in_flight` bodies are in memory. Nothing is at what is no URI. A UserError other than `Denied` and `NoBucket`
        concerns all: it is raised.
        """

        def one(item: str | tuple[str, str | None]) -> bytes | GeobatchError:
            uri, etag = item if isinstance(item, tuple) else (item, None)
            if (fault := misnamed(uri)) is not None:
                return NotFound(str(fault))
            try:
                return self.get(uri, if_match=etag)
            except UserError as error:
                if isinstance(error, Denied | NoBucket):
                    return error
                raise
            except GeobatchError as error:
                return error

        source = iter(wanted)
        with ThreadPoolExecutor(self.config.in_flight, "get") as pool:
            under_way: deque[Future[bytes | GeobatchError]] = deque()
            try:
                under_way.extend(pool.submit(one, item) for item in islice(source, self.config.in_flight))
                while under_way:
                    answer = under_way.popleft().result()
                    under_way.extend(pool.submit(one, item) for item in islice(source, 1))
                    yield answer
            finally:
                for future in under_way:
                    future.cancel()

    def head_many(self, uris: Iterable[str]) -> Iterator[Object | GeobatchError | None]:
        """What `head` says of each URI, in order, `in_flight` under way; `Denied` and `Unreadable` stand in place.

        Nothing is at what is no URI.
        """

        def one(uri: str) -> Object | GeobatchError | None:
            if misnamed(uri) is not None:
                return None
            try:
                return self.head(uri)
            except (Denied, Unreadable) as error:
                return error

        source = iter(uris)
        with ThreadPoolExecutor(self.config.in_flight, "head") as pool:
            while batch := list(islice(source, 1000)):
                yield from pool.map(one, batch)

    def stream(self, uri: str, start: int = 0, *, if_match: str | None = None) -> io.BufferedReader[Stream]:
        """The object from byte `start` as an unseekable binary file that outlives broken connections.

        `.raw.etag` and `.raw.size` tell what was opened.

        Raises:
            NotFound: nothing is there.
            Changed: the etag is not `if_match`; also while reading, if the object is replaced between two connections.
        """
        place = split(uri)
        return io.BufferedReader(self._side(place).stream(place, start, if_match), 1 << 20)

    def seekable(self, uri: str, size: int, *, if_match: str | None = None) -> io.BufferedReader[RangeFile]:
        """The object of `size` bytes as a file that fetches the blocks it is asked for."""
        return io.BufferedReader(RangeFile(lambda start, end: self.get(uri, start, end, if_match=if_match), size), 1 << 16)

    def put(self, uri: str, data: bytes) -> None:
        """Writes the object, whole or not at all, over whatever stood there."""
        place = split(uri)
        self._side(place).put(place, data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Writes the object if nothing stands there, and says whether what stands there now is this call's.

        A success whose reply was lost is recognised by its content; put something of your own into `data` where two
        writers of equal bytes must not both be told yes.
        """
        place = split(uri)
        return self._side(place).put_if_absent(place, data)

    def delete(self, uris: Iterable[str]) -> None:
        """Removes objects, 1000 a request; those that are not there are no error."""
        waiting: dict[str, list[str]] = {}
        for uri in uris:
            place = split(uri)
            if place.bucket is None:
                self._disk.delete(place)
                continue
            keys = waiting.setdefault(place.bucket, [])
            keys.append(place.key)
            if len(keys) == 1000:
                self._remove(place.bucket, waiting.pop(place.bucket))
        for bucket, keys in waiting.items():
            self._remove(bucket, keys)

    def _remove(self, bucket: str, keys: list[str]) -> None:
        side = self._side(Place(bucket, ""))
        assert isinstance(side, S3)
        side.delete(bucket, keys)

    def require_conditional_writes(self, prefix: str) -> None:
        """Finds out, with one probe object that is removed again, whether the store honours writes only-if-absent.

        Raises:
            UserError: it does not, or may not be written to.
            Unreadable: it takes no other write either: it is down, or the disk is full.
        """
        refusal = UserError(
            f"the store of {prefix} does not honour conditional writes; two runs could overwrite each other: use another store"
        )
        try:
            honoured = self._honours(prefix)
        except (Withheld, NotFound) as error:
            raise UserError(f"{refusal} ({error})") from error
        except Unreadable as error:
            if not error.exhausted:
                raise
            self._write_and_remove(prefix)  # a store that is down says so here
            try:
                honoured = self._honours(prefix)  # it was down and is up again, or takes all writes but these
            except (Unreadable, NotFound) as again:
                raise UserError(f"{refusal} ({again})") from again
        if not honoured:
            raise refusal

    def _honours(self, prefix: str) -> bool:
        probe = _probe(prefix)
        first = self.put_if_absent(probe, b"first")
        second = self.put_if_absent(probe, b"second")
        kept = self.get(probe)
        self.delete([probe])
        return first and not second and kept == b"first"

    def _write_and_remove(self, prefix: str) -> None:
        probe = _probe(prefix)
        self.put(probe, b"plain")
        self.delete([probe])


def misnamed(uri: str) -> UserError | None:
    """Why a URI is none (`split`), for one of many."""
    try:
        split(uri)
    except UserError as error:
        return error
    return None


def _probe(prefix: str) -> str:
    return join(prefix, f".probe-{uuid.uuid4().hex}")
