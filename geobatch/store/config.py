"""How a store is reached, and how two of them may differ.

One `StoreConfig` holds for everything a job touches. Where the archive lies with another provider, in another account or
another region than the output, a `StoreOverride` changes only what differs; what it leaves unset stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from geobatch.errors import UserError

#: Bytes that may take as long as a whole request may.
SPAN = 16 << 20

Addressing = Literal["auto", "path", "virtual"]


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """How to reach a store. Credentials are not here: they come from where boto3 looks for them."""

    endpoint: str | None = None
    """Address of an S3 store other than AWS, such as http://127.0.0.1:9000."""
    region: str | None = None
    """Region of the buckets; by default what the AWS configuration says."""
    profile: str | None = None
    """Profile in the AWS configuration; by default the usual chain of credentials."""
    addressing: Addressing = "auto"
    """Where a request names its bucket: in its path (http://host/bucket/key, which most stores other than AWS want) or in the
    host's name (virtual); auto leaves it to boto3."""
    kms_key: str | None = None
    """Key of AWS KMS (id, ARN or alias) that encrypts what is written; "default" is the account's own key for S3. By default
    the bucket's setting holds."""
    requester_pays: bool = False
    """Agree to pay for requests to buckets whose owner does not."""
    attempts: int = 8
    """How often one request is tried before it counts as failed."""
    backoff: float = 0.1
    """Seconds that the first wait lasts at most; each further one may last twice as long, up to 20 s."""
    connect_timeout: float = 10.0
    """Seconds to wait for a connection."""
    read_timeout: float = 60.0
    """Seconds to wait for the next bytes of an answer."""
    request_timeout: float = 120.0
    """Seconds until an answer must have begun, and again until its body must have ended, however its bytes drip; larger bodies
    get as long for each 16 MiB."""
    in_flight: int = 32
    """How many requests one process keeps under way at once."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        if self.attempts < 1 or self.in_flight < 1:
            raise UserError(
                "a store needs at least one attempt and one request in flight; raise --store.attempts or --store.in-flight"
            )
        if min(self.connect_timeout, self.read_timeout, self.request_timeout) <= 0:
            raise UserError("a store's timeouts must be more than 0 seconds; leave them at their defaults")

    def allowance(self, size: int = 0) -> float:
        """Seconds that a request with a body of `size` bytes may take in all."""
        return self.request_timeout * max(1.0, size / SPAN)


@dataclass(frozen=True, kw_only=True)
class StoreOverride:
    """What is different about one of several stores; whatever is unset is as in --store."""

    endpoint: str | None = None
    """Address of its S3 store; to reach AWS beside a --store.endpoint, https://s3.REGION.amazonaws.com."""
    region: str | None = None
    """Region of its buckets."""
    profile: str | None = None
    """Profile in the AWS configuration that holds its credentials."""
    addressing: Addressing | None = None
    """Where a request names its bucket: in the path, or in the host's name (virtual)."""
    kms_key: str | None = None
    """Key of AWS KMS that encrypts what is written to it."""
    requester_pays: bool | None = None
    """Agree to pay for its requests."""

    def over(self, config: StoreConfig) -> StoreConfig:
        """`config` with what is set here in its place."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(config, **{name: value for name, value in given.items() if value is not None})
