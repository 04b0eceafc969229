"""What a store can answer instead of bytes, and how often it is asked again.

    GeobatchError
    ├── NotFound              no such object
    ├── Changed               the object is no longer the one that was asked for
    ├── UserError
    │   ├── Denied            this object or bucket may not be touched with these credentials
    │   └── NoBucket          a NotFound as well: where one object of many is asked for, it is one that is not there
    └── MachineError
        └── Unreadable        the store kept failing after all attempts
            └── Withheld      it failed for this object only: its bucket answers

`ALONE` are those that say something about one object and nothing about its neighbours: an archive makes rows of them.

Waiting is exponential with full jitter: a thousand workers that a store threw out in the same second must not come back in
the same second. With the defaults (8 attempts, 0.1 s) a store that is gone costs 6 s on average, 13 s at most, before
it is given up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from geobatch import metrics
from geobatch.errors import GeobatchError, MachineError, UserError
from geobatch.store.config import StoreConfig

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
    """The store refused or failed, and asking again did not help.

    Attributes:
        exhausted: it was asked as often as it may be; else its answer was final.
    """

    exhausted = False


class Withheld(Unreadable):
    """The store answers, but not for this object."""


#: What concerns one object and not the store.
ALONE = (NotFound, Changed, Denied, Withheld)


def wait(config: StoreConfig, failures: int) -> None:
    """Sleeps after the `failures`-th failure in a row, counted from 1."""
    metrics.retried("request")
    time.sleep(random.uniform(0.0, min(LONGEST_WAIT, config.backoff * 2 ** min(failures - 1, 60))))


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
    times = "once" if config.attempts == 1 else f"{config.attempts} times, at last"
    fault = Unreadable(
        f"{uri} failed {times} with {type(error).__name__}: {said}; check the store's health and the network, then run again"
    )
    fault.exhausted = True
    return fault
