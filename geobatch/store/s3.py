"""An S3 store, through boto3.

botocore's own retries are off: they know nothing of bodies that end early, of 409 on a conditional write, or of full
jitter. Checksums are sent only where S3 demands them, because a good part of the stores that speak S3 refuse the
trailers botocore adds otherwise; what protects the bytes is TLS and the comparison of every body with its Content-Length.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import botocore.config
import botocore.exceptions as aws
import urllib3.exceptions

from geobatch.errors import MachineError, UserError
from geobatch.store.faults import Changed, Denied, NoBucket, NotFound, StoreConfig, Unreadable, persist
from geobatch.store.stream import Stream
from geobatch.store.uri import Object, Place

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "InvalidSecurity", "NotSignedUp", "UnrecognizedClientException", "InvalidClientTokenId",
}  # fmt: skip
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_PASSING = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "RequestTimeout",
    "InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody",
    "RequestTimeoutException", "PriorRequestNotComplete",
}  # fmt: skip
_NO_CREDENTIALS = (
    aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.TokenRetrievalError,
    aws.SSOError, aws.ProfileNotFound, aws.ConfigParseError, aws.InvalidConfigError,
)  # fmt: skip
_MISNAMED = (aws.ParamValidationError, aws.NoRegionError, aws.InvalidRegionError, ValueError)
_NETWORK = (aws.BotoCoreError, urllib3.exceptions.HTTPError, OSError)


def judge(error: Exception, uri: str) -> Exception | None:
    """The error to raise at once for what S3 or the network said about `uri`, or None if asking again may help."""
    if isinstance(error, aws.ClientError):
        return _answered(error, uri)
    said = " ".join(str(error).split())[:200]
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            f"no usable AWS credentials for {uri} ({said}); set AWS_ACCESS_KEY_ID and its secret, or --store.profile"
        )
    if isinstance(error, _MISNAMED):
        return UserError(f"S3 cannot be asked for {uri} ({said}); check the bucket's name, --store.endpoint and --store.region")
    if isinstance(error, _NETWORK):
        return None
    return error


def _answered(error: aws.ClientError, uri: str) -> Exception | None:
    """The same for an answer that is an error. A HEAD has no body, so that its code is its status."""
    told = error.response.get("Error", {})
    code, said = str(told.get("Code", "")), " ".join(str(told.get("Message", "")).split())[:200]
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    bucket = uri.split("/")[2]
    final: Exception | None = None
    if code == "NoSuchBucket":
        final = NoBucket(f"there is no bucket {bucket!r}; check the name and --store.endpoint, or make the bucket")
    elif code in _CREDENTIALS:
        final = UserError(f"the store rejects the AWS credentials for {uri} ({code}); renew them and run again")
    elif code == "RequestTimeTooSkewed":
        final = UserError("the store rejects this machine's clock (RequestTimeTooSkewed); set the clock and run again")
    elif code in _ELSEWHERE or status == 301:
        final = UserError(f"bucket {bucket!r} lies in another region ({said}); name it with --store.region")
    elif code == "InvalidObjectState":
        final = Unreadable(f"{uri} lies in an archival storage class; restore it first")
    elif code == "NoSuchKey" or status == 404:
        final = NotFound(f"{uri} does not exist")
    elif status == 412:
        final = Changed(f"{uri} is no longer what it was")
    elif code not in _PASSING and status not in {408, 429} and (status < 500 or status == 501):
        final = Unreadable(f"{uri}: the store answered {code} ({said}); check that it offers this operation")
        if status in {401, 403}:
            final = Denied(f"access to {uri} is denied ({code}); grant it to these credentials or use others")
    return final


class _Answer:
    """The unread body of a GET."""

    def __init__(self, body: StreamingBody | None, etag: str, size: int) -> None:
        self._body, self.etag, self.size = body, etag, size

    def read(self, size: int) -> bytes:
        return b"" if self._body is None else self._body.read(size)

    def close(self) -> None:
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
        self._lock = threading.Lock()
        self._made: S3Client | None = None

    def _client(self) -> S3Client:
        with self._lock:  # making a client is the one thing boto3 cannot do in two threads
            if self._made is None:
                config = self._config
                settings = botocore.config.Config(
                    connect_timeout=config.connect_timeout,
                    read_timeout=config.read_timeout,
                    max_pool_connections=config.in_flight,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    user_agent_extra="geobatch",
                )
                session = boto3.Session(profile_name=config.profile, region_name=config.region)
                self._made = session.client("s3", endpoint_url=config.endpoint, config=settings)
            return self._made

    def objects(self, place: Place) -> Iterator[list[Object]]:
        """Pages of at most 1000 objects whose key begins with `place.key`, in the order of their keys' UTF-8 bytes."""
        assert place.bucket is not None
        ask: dict[str, Any] = {"Bucket": place.bucket, "Prefix": place.key, "MaxKeys": 1000}
        while True:
            page = persist(self._config, place.uri, judge, lambda _: self._client().list_objects_v2(**ask))
            yield [
                Object(f"s3://{place.bucket}/{item['Key']}", item["Size"], _bare(item["ETag"]))
                for item in page.get("Contents", [])
            ]
            if not page.get("IsTruncated"):
                return
            ask["ContinuationToken"] = page["NextContinuationToken"]

    def head(self, place: Place) -> Object | None:
        """Size and etag, or None if nothing is there."""
        assert place.bucket is not None
        bucket, key = place.bucket, place.key
        try:
            answer = persist(self._config, place.uri, judge, lambda _: self._client().head_object(Bucket=bucket, Key=key))
        except NotFound:
            return None
        return Object(place.uri, answer["ContentLength"], _bare(answer["ETag"]))

    def get(self, place: Place, start: int | None, end: int | None, if_match: str | None) -> Tagged:
        """The bytes from `start` to `end` (exclusive), and their object's etag."""

        def work(_: int) -> Tagged:
            answer = self._asked(place, start or 0, end, if_match)
            try:
                wanted = min(answer.size, end if end is not None else answer.size) - (start or 0)
                data = answer.read(wanted) if wanted > 0 else b""
                if len(data) < wanted:
                    raise ConnectionError(f"the body ended after {len(data)} of {wanted} bytes")
            finally:
                answer.close()
            return Tagged(data, answer.etag)

        return persist(self._config, place.uri, judge, work)

    def _asked(self, place: Place, start: int, end: int | None, if_match: str | None) -> _Answer:
        assert place.bucket is not None
        ask: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key}
        if start or end is not None:
            ask["Range"] = f"bytes={start}-{'' if end is None else max(end - 1, start)}"
        if if_match is not None:
            ask["IfMatch"] = if_match if if_match.startswith("W/") else f'"{if_match}"'
        try:
            answer = self._client().get_object(**ask)
        except aws.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 416:
                raise
            found = self.head(place)  # nothing stands at or after `start`
            if found is None or if_match not in (None, found.etag):
                raise Changed(f"{place.uri} is no longer what it was") from error
            return _Answer(None, found.etag, found.size)
        body = _Answer(answer["Body"], _bare(answer["ETag"]), answer["ContentLength"])
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
            return persist(self._config, place.uri, judge, lambda _: self._asked(place, position, None, etag))

        return Stream(place.uri, self._config, open_at, judge, start=start, if_match=if_match)

    def put(self, place: Place, data: bytes) -> None:
        """Writes the object, whole or not at all."""
        assert place.bucket is not None
        bucket, key = place.bucket, place.key
        persist(self._config, place.uri, judge, lambda _: self._client().put_object(Bucket=bucket, Key=key, Body=data))

    def put_if_absent(self, place: Place, data: bytes) -> bool:
        """Writes the object if none is there; whether it is ours."""
        assert place.bucket is not None
        bucket, key = place.bucket, place.key
        failed = 0

        def work(attempt: int) -> None:
            nonlocal failed
            failed = attempt
            self._client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")

        try:
            persist(self._config, place.uri, judge, work)
        except Changed:
            # A first attempt that finds the key taken has lost. A later one may have met its own success, whose reply
            # was lost on the way: the content tells.
            return failed > 0 and self.get(place, None, None, None).data == data
        return True

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Removes up to 1000 objects; those that are not there are no error."""

        def work(_: int) -> None:
            answer = self._client().delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
            for refused in answer.get("Errors", []):
                code = refused.get("Code", "")
                uri = f"s3://{bucket}/{refused.get('Key', '')}"
                if code in _PASSING:
                    raise ConnectionError(f"{uri}: {code}")
                if code == "AccessDenied":
                    raise Denied(f"{uri} may not be deleted; grant s3:DeleteObject to these credentials")
                raise MachineError(f"{uri} could not be deleted: {code}")

        persist(self._config, f"s3://{bucket}/", judge, work)


def _bare(etag: str) -> str:
    return etag[1:-1] if len(etag) > 1 and etag[0] == etag[-1] == '"' else etag
