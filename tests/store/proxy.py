"""A proxy in front of an S3 server that fails as networks and stores do: on demand, at set rates, or for ever.

What happens at set rates is drawn from the seed, the request and how often it was made before, not from the order in which
threads come: the same run meets the same faults.
"""

from __future__ import annotations

import http.client
import random
import re
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: Answers of a store, by status, that stand in place of its own.
CODES = {
    "403": "AccessDenied", "409": "ConditionalRequestConflict", "412": "PreconditionFailed",
    "429": "TooManyRequests", "500": "InternalError", "501": "NotImplemented", "503": "SlowDown",
}  # fmt: skip

#: What else can go wrong with one request: a reset before it is passed on, one after it was carried out, a body cut in half,
#: an answer that never comes, one that comes late, one that stops in its middle, one whose header or body drips.
FAULTS = (*CODES, "reset", "lost", "cut", "silent", "late", "stall", "drip", "drip-head")

#: What share of all faults each is in `mixture`.
_MIXTURE = {"500": 0.2, "503": 0.2, "reset": 0.15, "lost": 0.15, "cut": 0.15, "late": 0.1, "stall": 0.05}

#: Seconds by which an answer is late, and between two bytes that drip.
LATE, DRIP = 0.2, 0.05


def mixture(share: float) -> dict[str, float]:
    """Rates of all kinds of faults that together meet a `share` of the requests."""
    return {fault: share * part for fault, part in _MIXTURE.items()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A peer that hung up is what this is for."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*_)  # type: ignore[arg-type]


class FaultyProxy:
    """Passes requests on to `endpoint`.

    Attributes:
        faults: each is met by one request of `method` ("": any), in order; "" lets it through.
        rates: share of all requests that meet a fault.
        spoiled: fault that every request meets whose method and path, "GET /bucket/key", match a pattern.
        limit: requests a second above which the answer is SlowDown.
        check: what to say of a request in place of passing it on: status and code, or None.
        instead: what to answer, with status 200, to a request and its body in place of passing it on, or None.
        stripped: headers that are not passed on.
        chunked: answers come in chunks and tell no length.
        requests: method, path and Range of each.
        met: how often each fault was met.
    """

    def __init__(self, endpoint: str, seed: int = 0) -> None:
        self.faults: deque[str] = deque()
        self.method = "GET"
        self.rates: dict[str, float] = {}
        self.spoiled: dict[str, str] = {}
        self.limit: float | None = None
        self.check: Callable[[BaseHTTPRequestHandler], tuple[int, str] | None] = lambda _: None
        self.instead: Callable[[BaseHTTPRequestHandler, bytes], bytes | None] = lambda *_: None
        self.stripped: set[str] = set()
        self.chunked = False
        self.requests: list[tuple[str, str, str | None]] = []
        self.met: Counter[str] = Counter()
        self._seed, self._made, self._recent = seed, Counter[str](), deque[float]()
        self._lock = threading.Lock()
        self._target = urlsplit(endpoint)
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _any(self) -> None:
                try:
                    proxy.pass_on(self)
                except OSError:  # the peer hung up, as it may
                    self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

        return Handler

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = _body(request)
        with self._lock:
            self.requests.append((request.command, request.path, request.headers.get("Range")))
            fault = self._fault(request)
            self.met[fault] += 1
        said = self.check(request)
        if fault == "reset":
            _reset(request)
        elif fault == "silent":
            self._outlast(request)
        elif fault in CODES:
            _refuse(request, int(fault), CODES[fault])
        elif said is not None:
            _refuse(request, *said)
        elif (made := self.instead(request, body)) is not None:
            self._answer(request, "", 200, [("Content-Type", "application/xml")], made)
        else:
            self._answer(request, fault, *self._asked(request, body))

    def _fault(self, request: BaseHTTPRequestHandler) -> str:
        """What this request meets; "" for nothing."""
        if self.faults and self.method in ("", request.command):
            return self.faults.popleft()
        line = f"{request.command} {request.path}"
        for pattern, fault in self.spoiled.items():
            if re.search(pattern, line):
                return fault
        if self.limit is not None:
            now = time.monotonic()
            while self._recent and now - self._recent[0] > 1:
                self._recent.popleft()
            if len(self._recent) >= self.limit:
                return "503"
            self._recent.append(now)
        line += f" {request.headers.get('Range')}"
        self._made[line] += 1
        drawn = random.Random(f"{self._seed} {self._made[line]} {line}").random()
        for fault, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return ""

    def _answer(
        self, request: BaseHTTPRequestHandler, fault: str, status: int, headers: list[tuple[str, str]], data: bytes
    ) -> None:
        if fault == "lost":
            _reset(request)
            return
        if fault == "late":
            self.ended.wait(LATE)
        head = _head(request, status, headers, None if self.chunked else len(data))
        if fault == "drip-head":
            self._drip(request, head + data)
            return
        request.connection.sendall(head)
        if request.command == "HEAD":
            return
        if self.chunked:
            data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _cut(data)) + b"0\r\n\r\n"
        if fault == "drip":
            self._drip(request, data)
        elif fault in ("cut", "stall"):
            request.connection.sendall(data[: len(data) // 2])
            request.close_connection = True
            if fault == "cut":  # no reset: that would also drop what the peer has not read yet
                request.connection.shutdown(socket.SHUT_WR)
            else:
                self._outlast(request)
        else:
            request.connection.sendall(data)

    def _drip(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        for byte in range(len(data)):
            request.connection.sendall(data[byte : byte + 1])
            if self.ended.wait(DRIP):
                break
        request.close_connection = True

    def _outlast(self, request: BaseHTTPRequestHandler) -> None:
        """Says nothing more until the peer hangs up."""
        until = time.monotonic() + 30
        while not self.ended.is_set() and time.monotonic() < until:
            if select.select([request.connection], [], [], 0.05)[0]:
                break
        _reset(request)

    def _asked(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)
        try:
            left = {"expect", "connection", "transfer-encoding", *(name.lower() for name in self.stripped)}
            headers = {name: value for name, value in request.headers.items() if name.lower() not in left}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = [each for each in answer.getheaders() if each[0].lower() not in ("connection", "transfer-encoding")]
            return answer.status, kept, data
        finally:
            connection.close()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass  # trailers
    return b"".join(parts)


def _cut(data: bytes, size: int = 50_000) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _head(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], size: int | None) -> bytes:
    """The header of an answer; chunked where no size is given, as it was where the request is a HEAD."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
    whole = request.command == "HEAD" and size is not None
    lines += [f"{name}: {value}" for name, value in headers if whole or name.lower() != "content-length"]
    if not whole:
        lines.append("Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    said = f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
    request.connection.sendall(_head(request, status, [("Content-Type", "application/xml")], len(said)))
    if request.command != "HEAD":
        request.connection.sendall(said)


def _reset(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
