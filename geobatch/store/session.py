"""The way into S3: a client, the credentials it signs with, and what every request passes through.

boto3 renews by itself what it knows the end of: a role's credentials, those of a process that names an expiry. It does not
look again at a file or an environment it has read once, so that a run which outlives an hour's session would end with
`ExpiredToken` though the new one lies in the file. So when a store refuses the credentials, everything is looked up anew, at
most `RENEWALS` times for one request; only if that is refused too, the user is told.

An instance's or a pod's credentials come from a service that a hundred workers ask in the same second: it is asked up to five
times where boto3 asks once.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import boto3
import botocore.config
import botocore.loaders
import botocore.session
from botocore.exceptions import ClientError

from geobatch.store.answers import stale, throttled
from geobatch.store.config import StoreConfig
from geobatch.store.pace import Pace
from geobatch.store.timeouts import Guard, Watch

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

#: How often credentials are looked up anew for one request.
RENEWALS = 2


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """What botocore knows of services, parsed once in a process: a client then costs 21 ms of a core, else 80 to 150."""
    loader: botocore.loaders.Loader = botocore.session.Session().get_component("data_loader")
    return loader


class Failures:
    """What one request has met, over all its attempts."""

    def __init__(self) -> None:
        self.renewals = 0


class Session:
    """A client that is made on first use and made anew when its credentials are refused. Safe for threads."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._made: S3Client | None = None
        self._guard, self._pace = Guard(), Pace()

    def client(self) -> S3Client:
        """The client of today."""
        with self._lock:  # making one is the one thing boto3 cannot do in two threads
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> S3Client:
        config = self._config
        settings = botocore.config.Config(
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            max_pool_connections=config.in_flight,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="geobatch",
            s3={} if config.addressing == "auto" else {"addressing_style": config.addressing},
        )
        core = botocore.session.Session(profile=config.profile)
        if core.get_config_variable("metadata_service_num_attempts") == 1:
            core.set_config_variable("metadata_service_num_attempts", 5)
        core.register_component("data_loader", _descriptions())
        # Nobody here asks when an object was written, and dateutil takes 90 µs to tell: 15 minutes for ten million keys.
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_as_it_came)
        session = boto3.Session(botocore_session=core, region_name=config.region)
        made = session.client("s3", endpoint_url=config.endpoint, config=settings)
        self._guard.guard(made)
        return made

    def _renew(self, refused: S3Client) -> None:
        with self._lock:
            if self._made is refused:  # else another thread has just done so
                self._made = None

    @contextmanager
    def within(self, size: int, watch: Watch) -> Iterator[None]:
        """What happens inside must end within what `size` bytes may take."""
        with self._guard.within(self._config.allowance(size), watch):
            yield

    def ask(self, call: Callable[[S3Client], T], failures: Failures, size: int = 0, watch: Watch | None = None) -> T:
        """One attempt at one request.

        Args:
            call: makes it.
            failures: of this request so far.
            size: bytes of its body.
            watch: stays open for the answer's body; by default the whole answer is read in `call`.

        Raises:
            TimeoutError: it took longer than it may in all.
            ConnectionError: its credentials were refused and have been looked up anew: ask again.
        """
        client = self.client()
        self._pace.enter()
        with contextlib.ExitStack() as stack:
            if watch is None:
                watch = Watch()
                stack.callback(watch.close)
            try:
                with self.within(size, watch):
                    answer = call(client)
            except Exception as error:
                if isinstance(error, ClientError):
                    self._pace.answered(refused=throttled(error))
                if stale(error) and failures.renewals < RENEWALS:
                    failures.renewals += 1
                    self._renew(client)
                    raise ConnectionError(f"credentials were refused and are looked up anew: {error}") from error
                raise
        self._pace.answered(refused=False)
        return answer


def _as_it_came(moment: object) -> object:
    """A time as the store wrote it; botocore itself reads those of credentials, in either form."""
    return moment
