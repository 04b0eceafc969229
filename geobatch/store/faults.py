"""What a store can answer instead of bytes, and how often it is asked again.

    GeobatchError
    ├── NotFound              no such object
    ├── Changed               the object is no longer the one that was asked for
    ├── UserError
    │   ├── Denied            this object or bucket may not be touched with these credentials
    │   └── NoBucket          a NotFound as well: where one object of many is asked for, it is one that is not there
    └── MachineError
        └── Unreadable        the store kept failing after all attempts

Waiting is exponential with full jitter: a thousand workers that a store threw out in the same second must not come back in
the same second. With the defaults (8 attempts, 0.1 s) a store that is gone costs 6 s on average, 13 s at most, before
it is given up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from geobatch.errors import GeobatchError, MachineError, UserError

T = TypeVar("T")

#: Seconds that no single wait exceeds.
LONGEST_WAIT = 20.0


class NotFound(GeobatchError):
    """No object stands at the URI."""


class Changed(GeobatchError):
    """The object at the URI does not have the etag that was asked for."""


class Denied(UserError):
    """The credentials are good, but not for this."""


class NoBucket(UserError, NotFound):
    """No bucket of that name."""


class Unreadable(MachineError):
    """The store refused or failed, and asking again did not help."""


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """How to reach a store. Credentials are not here: they come from where boto3 looks for them."""

    endpoint: str | None = None
    """Address of an S3 store other than AWS, such as http://127.0.0.1:9000."""
    region: str | None = None
    """Region of the buckets; by default what the AWS configuration says."""
    profile: str | None = None
    """Profile in the AWS configuration; by default the usual chain of credentials."""
    attempts: int = 8
    """How often one request is tried before it counts as failed."""
    backoff: float = 0.1
    """Seconds that the first wait lasts at most; each further one may last twice as long, up to 20 s."""
    connect_timeout: float = 10.0
    """Seconds to wait for a connection."""
    read_timeout: float = 60.0
    """Seconds to wait for the next bytes of an answer."""
    in_flight: int = 32
    """How many requests one process keeps under way at once."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        if self.attempts < 1 or self.in_flight < 1:
            raise UserError("a store needs at least one attempt and one request in flight; raise --attempts or --in-flight")


def wait(config: StoreConfig, failures: int) -> None:
    """Sleeps after the `failures`-th failure in a row, counted from 1."""
    time.sleep(random.uniform(0.0, min(LONGEST_WAIT, config.backoff * 2 ** (failures - 1))))


def persist(config: StoreConfig, uri: str, judge: Callable[[Exception, str], Exception | None], work: Callable[[int], T]) -> T:
    """What `work(attempt)` returns, asking again while its errors can pass.

    Args:
        config: attempts and backoff.
        uri: what the request is about, for the message.
        judge: turns an error into the one to raise at once, or None if trying again may help.
        work: one attempt; given how many failed before it.

    Raises:
        Unreadable: every attempt failed.
    """
    for attempt in range(config.attempts):
        try:
            return work(attempt)
        except GeobatchError:
            raise
        except Exception as error:
            final = judge(error, uri)
            if final is not None:
                raise final from error
            last = error
        if attempt + 1 < config.attempts:
            wait(config, attempt + 1)
    raise given_up(config, uri, last) from last


def given_up(config: StoreConfig, uri: str, error: Exception) -> Unreadable:
    """The error that says that the last attempt failed too."""
    said = " ".join(str(error).split())[:200]
    return Unreadable(
        f"{uri} failed {config.attempts} times, at last with {type(error).__name__}: {said}; "
        "check the store's health and the network, then run again"
    )
