"""What each answer means, without a server."""

from __future__ import annotations

import botocore.exceptions as aws
import pytest
import urllib3.exceptions

from geobatch.errors import UserError
from geobatch.store import Changed, Denied, NoBucket, NotFound, Withheld
from geobatch.store.answers import PASSING, judge, stale, throttled

URI = "s3://bucket/a/b.jpg"


def answer(status: int, code: str, message: str = "said so") -> aws.ClientError:
    said = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return aws.ClientError(said, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", NotFound),
        (404, "404", NotFound),
        (404, "NoSuchBucket", NoBucket),
        (412, "PreconditionFailed", Changed),
        (403, "AccessDenied", Denied),
        (403, "403", Denied),
        (401, "Unauthorized", Denied),
        (403, "InvalidObjectState", Withheld),
        (403, "InvalidAccessKeyId", UserError),
        (403, "SignatureDoesNotMatch", UserError),
        (400, "ExpiredToken", UserError),
        (403, "RequestTimeTooSkewed", UserError),
        (301, "PermanentRedirect", UserError),
        (400, "KMS.DisabledException", Denied),
        (400, "InvalidArgument", Withheld),
        (501, "NotImplemented", Withheld),
        (405, "MethodNotAllowed", Withheld),
        (400, "KMS.ThrottlingException", None),
        (400, "RequestTimeout", None),
        (409, "ConditionalRequestConflict", None),
        (409, "OperationAborted", None),
        (429, "TooManyRequests", None),
        (500, "InternalError", None),
        (502, "502", None),
        (503, "SlowDown", None),
        (504, "GatewayTimeout", None),
    ],
)
def test_an_answer_is_one_line_or_worth_another_attempt(status: int, code: str, kind: type[Exception] | None) -> None:
    found = judge(answer(status, code, "it\nwas so"), URI)
    assert type(found) is kind if kind else found is None
    if found is not None:
        assert "\n" not in str(found) and ("bucket" in str(found) or "clock" in str(found))


def test_only_what_asks_for_less_slows_the_pace() -> None:
    assert all(throttled(answer(status, code)) for status, code in ((503, "SlowDown"), (429, "x"), (400, "Throttling")))
    assert not any(throttled(answer(500, code)) for code in PASSING if code in ("InternalError", "BadDigest"))
    assert not throttled(ConnectionError()) and not throttled(answer(404, "NoSuchKey"))


def test_only_refused_credentials_are_looked_up_anew() -> None:
    assert stale(answer(400, "ExpiredToken")) and stale(answer(403, "InvalidAccessKeyId"))
    assert not stale(answer(403, "AccessDenied")) and not stale(aws.NoCredentialsError())


@pytest.mark.parametrize(
    "error",
    [
        aws.EndpointConnectionError(endpoint_url="http://x"),
        aws.ReadTimeoutError(endpoint_url="http://x"),
        aws.ResponseStreamingError(error="cut"),
        aws.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        urllib3.exceptions.ProtocolError("reset"),
        ConnectionResetError(),
        TimeoutError("late"),
    ],
)
def test_a_networks_faults_pass(error: Exception) -> None:
    assert judge(error, URI) is None


def test_errors_of_the_set_up_are_the_users_and_a_bug_stays_a_bug() -> None:
    for error in (aws.NoCredentialsError(), aws.ProfileNotFound(profile="x"), RuntimeError("refreshed, but still expired.")):
        assert type(judge(error, URI)) is UserError
    assert type(judge(ValueError("Invalid endpoint"), URI)) is UserError
    for bug in (RuntimeError("dictionary changed size"), KeyError("x"), AssertionError()):
        assert judge(bug, URI) is bug
