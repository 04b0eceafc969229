"""No request outlasts its deadline, whatever its server does.

A socket's timeout runs anew with every byte: a server that sends one a second, of the header or of the body, holds a worker
for as long as it likes. So each request under way is known here with the time by which it must have ended, and a thread that
looks at them shuts the socket of one that is late. Whoever waits for it, in a handshake, a header or a body, finds the
connection ended and raises `TimeoutError`, which is worth another attempt.

The socket is reached by a copy of its number, taken as the connection is made or used again: it means the same connection
below TLS as above it, and cannot become another's while the request lasts. Header and body together cost 16 µs of a core
more for it, and the thread ends when nothing was under way for a few seconds.

What it does not cover: looking a name up and asking a credential process, whose waits are the system's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

#: Seconds between two looks at what is under way, and without anything before the thread ends.
LOOK, IDLE = 0.1, 5.0


class Watch:
    """One request: the connection it uses, and by when it must have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: int | None = None
        self.until = float("inf")
        self.expired = False

    def note(self, used: socket.socket) -> None:
        """The connection that the request goes through from now on."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
            self._handle = os.dup(used.fileno())
            if self.expired:
                self._shut()

    def expire(self, now: float) -> None:
        """Ends the request if it is late."""
        with self._lock:
            if now >= self.until and not self.expired:
                self.expired = True
                self._shut()

    def arm(self, until: float) -> None:
        """The request must end by then, on the monotonic clock."""
        with self._lock:
            self.until = until

    def _shut(self) -> None:
        if self._handle is not None:
            found = socket.socket(fileno=self._handle)
            with contextlib.suppress(OSError):  # it ended by itself this moment
                found.shutdown(socket.SHUT_RDWR)
            found.detach()

    def close(self) -> None:
        """Lets the connection go; it is not ended by this."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def __del__(self) -> None:
        self.close()


class Guard:
    """Everything under way through one client, and the thread that looks at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[Watch] = set()
        self._here = threading.local()
        self._thread: threading.Thread | None = None
        self._busy = 0.0

    @contextmanager
    def within(self, seconds: float, watch: Watch) -> Iterator[Watch]:
        """What happens inside, in this thread, must end within `seconds`.

        Raises:
            TimeoutError: it did not.
        """
        watch.arm(time.monotonic() + seconds)
        before, self._here.watch = getattr(self._here, "watch", None), watch
        with self._lock:
            self._live.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
                self._thread.start()
        fault: Exception | None = None
        try:
            yield watch
        except Exception as error:  # noqa: BLE001 — raised below, as what it was or as what made it happen
            fault = error
        finally:
            with self._lock:
                self._live.discard(watch)
            watch.arm(float("inf"))
            self._here.watch = before
        if watch.expired:
            raise TimeoutError("it had not ended by its deadline (--store.request-timeout)") from fault
        if fault is not None:
            raise fault

    def note(self, used: socket.socket | None) -> None:
        """The connection that this thread's request goes through."""
        watch = getattr(self._here, "watch", None)
        if watch is not None and used is not None:
            watch.note(used)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK)
            now = time.monotonic()
            with self._lock:
                live = list(self._live)
                if live:
                    self._busy = now
                elif now - self._busy > IDLE:
                    self._thread = None
                    return
            for watch in live:
                watch.expire(now)

    def guard(self, client: Any) -> None:
        """Makes the client's connections known here.

        botocore has no public place for a connection class; the two names used here are those by which it sets its own.
        """
        session = client._endpoint.http_session
        session._pool_classes_by_scheme = session._manager.pool_classes_by_scheme = _pools(self)


def _pools(guard: Guard) -> dict[str, type]:
    """botocore's pools of connections, by scheme, that tell the guard which socket a request goes through."""

    def noted(kind: Any) -> Any:
        def _new_conn(self: Any) -> socket.socket:
            made: socket.socket = kind._new_conn(self)
            guard.note(made)
            return made

        def request(self: Any, *arguments: Any, **named: Any) -> Any:
            guard.note(self.sock)
            return kind.request(self, *arguments, **named)

        return type(f"Noted{kind.__name__}", (kind,), {"_new_conn": _new_conn, "request": request})

    def pool(kind: Any, connection: Any) -> Any:
        return type(f"Noted{kind.__name__}", (kind,), {"ConnectionCls": noted(connection)})

    return {
        "http": pool(AWSHTTPConnectionPool, AWSHTTPConnection),
        "https": pool(AWSHTTPSConnectionPool, AWSHTTPSConnection),
    }
