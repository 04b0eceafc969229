"""What an error of S3 or of the network means: for the user, for one object, or for another attempt.

botocore raises some sixty kinds of errors and S3 answers with some hundred codes. Here each becomes one of four: an error to
raise at once (with one line that says what to do), None for "ask again", and among them those that more may be known about:
that the store wants to be asked less (`throttled`), and that credentials may have been replaced since (`stale`).
"""

from __future__ import annotations

import botocore.exceptions as aws
import urllib3.exceptions

from geobatch.errors import UserError
from geobatch.store.faults import Changed, Denied, NoBucket, NotFound, Withheld

_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "InvalidSecurity", "NotSignedUp", "UnrecognizedClientException", "InvalidClientTokenId",
}  # fmt: skip
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_THROTTLED = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "TooManyRequests",
    "ServiceUnavailable", "KMS.ThrottlingException", "BandwidthLimitExceeded", "RequestThrottled",
}  # fmt: skip
#: Codes that pass whatever their status.
PASSING = _THROTTLED | {
    "RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody",
    "RequestTimeoutException", "PriorRequestNotComplete",
}  # fmt: skip
_NO_CREDENTIALS = (
    aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.TokenRetrievalError,
    aws.SSOError, aws.ProfileNotFound, aws.ConfigParseError, aws.InvalidConfigError,
)  # fmt: skip
_MISNAMED = (aws.NoRegionError, aws.InvalidRegionError, ValueError)
_NETWORK = (aws.BotoCoreError, urllib3.exceptions.HTTPError, OSError)


def judge(error: Exception, uri: str) -> Exception | None:
    """The error to raise at once for what S3 or the network said about `uri`, or None if asking again may help."""
    if isinstance(error, aws.ClientError):
        return _answered(error, uri)
    said = " ".join(str(error).split())[:200]
    if isinstance(error, _NO_CREDENTIALS) or _expired_at_birth(error):
        return UserError(
            f"no usable AWS credentials for {uri} ({said}); set AWS_ACCESS_KEY_ID and its secret, or --store.profile"
        )
    if isinstance(error, (aws.ParamValidationError, *_MISNAMED)):
        # botocore itself refuses a name that no bucket can have, and a bucket without a key: one object of many is not there.
        kind = NoBucket if isinstance(error, aws.ParamValidationError) else UserError
        return kind(f"S3 cannot be asked for {uri} ({said}); check the bucket's name, --store.endpoint and --store.region")
    if isinstance(error, _NETWORK):
        return None
    return error


def code_of(error: aws.ClientError) -> tuple[str, int]:
    """The code and the HTTP status of an answer. A HEAD has no body, so that its code is its status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code, int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def throttled(error: Exception) -> bool:
    """Whether the store asks to be asked less."""
    if not isinstance(error, aws.ClientError):
        return False
    code, status = code_of(error)
    return code in _THROTTLED or status in {429, 503}


def stale(error: Exception) -> bool:
    """Whether credentials were refused that may have been good, or may be replaced by now."""
    return isinstance(error, aws.ClientError) and code_of(error)[0] in _CREDENTIALS


def _expired_at_birth(error: Exception) -> bool:
    """botocore has no class of its own for credentials that are expired when they are fetched."""
    return type(error) is RuntimeError and "still expired" in str(error)


def _answered(error: aws.ClientError, uri: str) -> Exception | None:
    """The same for an answer that is an error."""
    code, status = code_of(error)
    said = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    bucket = uri.split("/")[2]
    if code == "NoSuchBucket":
        return NoBucket(f"there is no bucket {bucket!r}; check the name and --store.endpoint, or make the bucket")
    if code in _CREDENTIALS:
        return UserError(f"the store rejects the AWS credentials for {uri} ({code}); renew them and run again")
    if code == "RequestTimeTooSkewed":
        return UserError("the store rejects this machine's clock (RequestTimeTooSkewed); set the clock and run again")
    if code in _ELSEWHERE or status == 301:
        return UserError(f"bucket {bucket!r} lies in another region ({said}); name it with --store.region")
    return _of_object(code, status, said, uri)


def _of_object(code: str, status: int, said: str, uri: str) -> Exception | None:
    """What an answer says about the one object it was asked for."""
    final: Exception | None = None
    if code == "InvalidObjectState":
        final = Withheld(f"{uri} lies in an archival storage class; restore it first")
    elif code.startswith("KMS.") and code not in PASSING:
        final = Denied(f"the KMS key of {uri} cannot be used ({code}: {said}); check --store.kms-key and the key's policy")
    elif code == "NoSuchKey" or status == 404:
        final = NotFound(f"{uri} does not exist")
    elif status == 412:
        final = Changed(f"{uri} is no longer what it was")
    elif status in {401, 403} and code not in PASSING:
        final = Denied(f"access to {uri} is denied ({code}); grant it to these credentials or use others")
    elif code not in PASSING and status not in {408, 429} and (status < 500 or status == 501):
        final = Withheld(f"{uri}: the store answered {code} ({said}); check that it offers this operation")
    return final
