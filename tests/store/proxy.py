"""A proxy in front of an S3 server that fails as networks and stores do, on demand."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What can go wrong with one request: answers of the store, a reset before it is passed on, one after it was carried
#: out, a body cut in half, an answer that never comes.
FAULTS = ("503", "409", "429", "reset", "lost", "cut", "silent")


class FaultyProxy:
    """Passes requests on to `endpoint`; each of `faults` is met by one request of `method`, in order."""

    def __init__(self, endpoint: str) -> None:
        self.faults: deque[str] = deque()
        self.method = "GET"
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self._target = urlsplit(endpoint)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.ended = threading.Event()

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

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _any(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

        return Handler

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((request.command, request.path, request.headers.get("Range")))
        fault = self.faults.popleft() if self.faults and request.command == self.method else ""
        if fault == "reset":
            _reset(request)
        elif fault == "silent":
            self.ended.wait(30)
            _reset(request)
        elif fault.isdigit():
            code = {"503": "SlowDown", "409": "ConditionalRequestConflict", "429": "TooManyRequests"}[fault]
            said = f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
            _answer(request, int(fault), [("Content-Type", "application/xml"), ("Content-Length", str(len(said)))], said)
        else:
            status, headers, data = self._asked(request, body)
            if fault == "lost":
                _reset(request)
            else:
                _answer(request, status, headers, data[: len(data) // 2] if fault == "cut" else data)
                if fault == "cut":  # no reset: that would also drop what the peer has not read yet
                    request.close_connection = True
                    request.connection.shutdown(socket.SHUT_WR)

    def _asked(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in ("Expect", "Connection")}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = [each for each in answer.getheaders() if each[0].lower() not in ("connection", "transfer-encoding")]
            return answer.status, kept, data
        finally:
            connection.close()


def _answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    if not any(name.lower() == "content-length" for name, _ in headers):
        request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)
    request.wfile.flush()


def _reset(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
