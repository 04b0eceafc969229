"""An S3 store, through boto3.

botocore's own retries are off: they know nothing of bodies that end early, of 409 on a conditional write, or of full
jitter. Checksums are sent only where S3 demands them, because a good part of the stores that speak S3 refuse the
trailers botocore adds otherwise; what protects the bytes is TLS and the comparison of every body with its length. Every
request goes through `_Session.ask`: at the pace the store bears (`pace`), within its deadline (`timeouts`), with credentials
that are good today (`session`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import botocore.exceptions as aws

from geobatch.errors import GeobatchError, MachineError, UserError
from geobatch.store.answers import PASSING, code_of, judge
from geobatch.store.config import StoreConfig
from geobatch.store.faults import Changed, Denied, NotFound, Unreadable, Withheld, persist
from geobatch.store.session import Failures, Session
from geobatch.store.stream import Stream
from geobatch.store.timeouts import Watch
from geobatch.store.uri import Object, Place

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

#: Keys of a page, and seconds for which it is remembered whether a bucket answers.
_PAGE, _PULSE = 1000, 10.0


class _Answer:
    """The unread body of a GET; reading it has a deadline, too."""

    def __init__(self, body: StreamingBody | None, etag: str, size: int, session: Session, watch: Watch) -> None:
        self._body, self.etag, self.size, self._session, self._watch = body, etag, size, session, watch

    def read(self, size: int) -> bytes:
        if self._body is None:
            return b""
        with self._session.within(size, self._watch):
            return self._body.read(size)

    def close(self) -> None:
        self._watch.close()
        if self._body is not None:
            self._body.close()


class Tagged(NamedTuple):
    """Bytes and the etag of the object they are of."""

    data: bytes
    etag: str


class S3:
    """The S3 side of `Store`; every method takes a `Place` with a bucket. Safe for threads; never pickled."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._session = Session(config)
        self._paying: dict[str, Any] = {"RequestPayer": "requester"} if config.requester_pays else {}
        self._sealing: dict[str, Any] = {}
        if config.kms_key is not None:
            key = {} if config.kms_key == "default" else {"SSEKMSKeyId": config.kms_key}
            self._sealing = {"ServerSideEncryption": "aws:kms", **key}
        self._answering: dict[str, tuple[float, bool]] = {}

    def _client(self) -> S3Client:
        return self._session.client()

    def _persist(self, uri: str, call: Callable[[S3Client], T], size: int = 0) -> T:
        """One request whose whole answer is `call`'s result, `size` bytes going up with it."""
        failures = Failures()
        return persist(self._config, uri, judge, lambda _: self._session.ask(call, failures, size))

    def objects(self, place: Place, after: str | None = None) -> Iterator[list[Object]]:
        """Pages of at most 1000 objects whose key begins with `place.key`, in the order of their keys' UTF-8 bytes.

        Args:
            place: bucket and prefix.
            after: key behind which to begin; it need not exist.
        """
        assert place.bucket is not None
        ask: dict[str, Any] = {"Bucket": place.bucket, "Prefix": place.key, "MaxKeys": _PAGE, **self._paying}
        token: dict[str, str] = {} if after is None else {"StartAfter": after}
        while True:
            page = self._page(place, {**ask, **token}, after)
            items = page.get("Contents", [])
            yield [Object(f"s3://{place.bucket}/{item['Key']}", item["Size"], _bare(item["ETag"])) for item in items]
            if not page.get("IsTruncated"):
                return
            after = items[-1]["Key"] if items else after
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, place: Place, ask: dict[str, Any], after: str | None) -> Any:
        """One page; a token that the store no longer knows is replaced by the last key it gave."""

        def listed(client: S3Client) -> Any:
            page = client.list_objects_v2(**ask)
            if "IsTruncated" not in page:  # every listing says it; an empty or foreign body would pass for an empty end
                raise ConnectionError("the answer is no listing")
            return page

        try:
            return self._persist(place.uri, listed)
        except Withheld:
            if "ContinuationToken" not in ask or after is None:
                raise
        ask = {name: value for name, value in {**ask, "StartAfter": after}.items() if name != "ContinuationToken"}
        return self._persist(place.uri, listed)

    def head(self, place: Place) -> Object | None:
        """Size and etag, or None if nothing is there."""
        assert place.bucket is not None
        bucket, key = place.bucket, place.key

        def work(client: S3Client) -> Object:
            try:
                answer: Any = client.head_object(Bucket=bucket, Key=key, **self._paying)
            except aws.ClientError as error:
                if code_of(error)[1] not in {400, 401, 403}:
                    raise
                # The answer to a HEAD cannot say why; that to a GET of one byte can, and may even be the byte.
                return self._first_byte(client, place)
            size = answer["ContentLength"] if "ContentLength" in answer else self._first_byte(client, place).size
            return Object(place.uri, size, _bare(answer["ETag"]))

        try:
            return self._persist(place.uri, work)
        except NotFound:
            return None
        except Unreadable as error:
            raise self._alone(place, error) from error.__cause__

    def _first_byte(self, client: S3Client, place: Place) -> Object:
        try:
            answer = client.get_object(Bucket=place.bucket or "", Key=place.key, Range="bytes=0-0", **self._paying)
        except aws.ClientError as error:
            if code_of(error)[1] != 416:
                raise
            return Object(place.uri, 0, _bare(error.response["ResponseMetadata"]["HTTPHeaders"].get("etag", "")))
        answer["Body"].close()
        return Object(place.uri, int(answer.get("ContentRange", "/0").rpartition("/")[2]), _bare(answer["ETag"]))

    def get(self, place: Place, start: int | None, end: int | None, if_match: str | None) -> Tagged:
        """The bytes from `start` to `end` (exclusive), and their object's etag."""
        failures = Failures()

        def work(_: int) -> Tagged:
            answer = self._asked(place, start or 0, end, if_match, failures)
            try:
                wanted = min(answer.size, end if end is not None else answer.size) - (start or 0)
                data = answer.read(wanted) if wanted > 0 else b""
                if len(data) < wanted:
                    raise ConnectionError(f"the body ended after {len(data)} of {wanted} bytes")
            finally:
                answer.close()
            return Tagged(data, answer.etag)

        try:
            return persist(self._config, place.uri, judge, work)
        except Unreadable as error:
            raise self._alone(place, error) from error.__cause__

    def _asked(self, place: Place, start: int, end: int | None, if_match: str | None, failures: Failures) -> _Answer:
        assert place.bucket is not None
        ask: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key, **self._paying}
        if start or end is not None:
            ask["Range"] = f"bytes={start}-{'' if end is None else max(end - 1, start)}"
        if if_match is not None:
            ask["IfMatch"] = if_match if if_match.startswith("W/") else f'"{if_match}"'
        watch = Watch()
        try:
            answer: Any = self._session.ask(lambda client: client.get_object(**ask), failures, watch=watch)
            if "ContentLength" not in answer and "Range" not in ask:  # sent in chunks: only a range tells the size
                answer["Body"].close()
                ask["Range"] = "bytes=0-"
                answer = self._session.ask(lambda client: client.get_object(**ask), failures, watch=watch)
        except aws.ClientError as error:
            watch.close()
            if code_of(error)[1] != 416:
                raise
            found = self.head(place)  # nothing stands at or after `start`
            if found is None or if_match not in (None, found.etag):
                raise Changed(f"{place.uri} is no longer what it was") from error
            return _Answer(None, found.etag, found.size, self._session, watch)
        body = _Answer(answer["Body"], _bare(answer["ETag"]), answer.get("ContentLength", 0), self._session, watch)
        if if_match is not None and body.etag != if_match:  # some stores ignore If-Match
            body.close()
            raise Changed(f"{place.uri} is no longer what it was")
        if "Range" in ask:
            span = answer.get("ContentRange", "")
            if not span.startswith(f"bytes {start}-"):
                body.close()
                raise UserError(f"the store of {place.uri} ignores Range requests; use one that does not")
            body.size = int(span.rpartition("/")[2])
        return body

    def stream(self, place: Place, start: int, if_match: str | None) -> Stream:
        """The object from `start` on."""

        def open_at(position: int, etag: str | None) -> _Answer:
            failures = Failures()
            try:
                return persist(self._config, place.uri, judge, lambda _: self._asked(place, position, None, etag, failures))
            except Unreadable as error:
                raise self._alone(place, error) from error.__cause__

        return Stream(
            place.uri, self._config, open_at, judge, lambda error: self._alone(place, error), start=start, if_match=if_match
        )

    def _alone(self, place: Place, error: Unreadable) -> Unreadable:
        """What outlasted all attempts at one object: `Withheld` if its bucket still answers."""
        if not error.exhausted or isinstance(error, Withheld) or not self._answers(place.bucket or ""):
            return error
        alone = Withheld(*error.args)
        alone.exhausted = True
        return alone

    def _answers(self, bucket: str) -> bool:
        """Whether the bucket says anything at all, be it no."""
        asked, good = self._answering.get(bucket, (-_PULSE, False))
        if time.monotonic() - asked < _PULSE:
            return good
        brief = replace(self._config, attempts=min(3, self._config.attempts))
        failures = Failures()
        try:
            persist(
                brief, f"s3://{bucket}/", judge, lambda _: self._session.ask(lambda it: it.head_bucket(Bucket=bucket), failures)
            )
            good = True
        except GeobatchError as fault:
            good = not (isinstance(fault, Unreadable) and fault.exhausted)
        self._answering[bucket] = (time.monotonic(), good)
        return good

    def put(self, place: Place, data: bytes) -> None:
        """Writes the object, whole or not at all."""
        ask: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key, "Body": data, **self._sealing, **self._paying}
        self._persist(place.uri, lambda client: client.put_object(**ask), len(data))

    def put_if_absent(self, place: Place, data: bytes) -> bool:
        """Writes the object if none is there; whether it is ours."""
        ask: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key, "Body": data, **self._sealing, **self._paying}
        failures, asked = Failures(), 0

        def work(_: int) -> None:
            nonlocal asked
            asked += 1
            self._session.ask(lambda client: client.put_object(**ask, IfNoneMatch="*"), failures, len(data))

        try:
            persist(self._config, place.uri, judge, work)
        except Changed:
            # A first attempt that finds the key taken has lost. A later one may have met its own success, whose reply
            # was lost on the way: the content tells.
            return asked > 1 and self.get(place, None, None, None).data == data
        return True

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Removes up to 1000 objects; those that are not there are no error. What was not deleted yet is asked for again."""
        left = list(keys)

        def work(client: S3Client) -> None:
            nonlocal left
            answer = client.delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in left], "Quiet": True}, **self._paying
            )
            passing: list[str] = []
            for refused in answer.get("Errors", []):
                code, key = refused.get("Code", ""), refused.get("Key", "")
                uri = f"s3://{bucket}/{key}"
                if code in PASSING:
                    passing.append(key)
                elif code == "AccessDenied":
                    raise Denied(f"{uri} may not be deleted; grant s3:DeleteObject to these credentials")
                elif code != "NoSuchKey":
                    raise MachineError(f"{uri} could not be deleted: {code}")
            if passing:
                left = passing
                raise ConnectionError(f"{len(passing)} objects could not be deleted yet, such as s3://{bucket}/{passing[0]}")

        self._persist(f"s3://{bucket}/", work)


def _bare(etag: str) -> str:
    return etag[1:-1] if len(etag) > 1 and etag[0] == etag[-1] == '"' else etag
