"""A real HTTP server on loopback that speaks /v1/chat/completions, and says or does what it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import free_port


@dataclass
class Answer:
    """One HTTP answer; `body` a JSON value or raw text."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hang_up: bool = False


def completion(*texts: str, finish: str = "stop", **message: Any) -> Answer:
    """A chat completion with one choice for each text."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        for n, text in enumerate(texts)
    ]
    return Answer({"object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 7}})


def fault(status: int, text: str, code: str = "", **headers: str) -> Answer:
    """An error as these services write it."""
    return Answer({"error": {"message": text, "code": code, "type": "error"}}, status, headers)


@dataclass
class Served:
    """What a running server is told (`answers`: body -> Answer) and what it saw."""

    url: str
    answers: Callable[[dict[str, Any]], Answer]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def served(answers: Callable[[dict[str, Any]], Answer]) -> Iterator[Served]:
    """Runs the server for a while."""
    port = free_port()
    seen = Served(f"http://127.0.0.1:{port}/v1", answers)
    lock, here = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                here[0] += 1
                seen.most_at_once = max(seen.most_at_once, here[0])
                seen.bodies.append(body)
                seen.paths.append(self.path)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
            answer = seen.answers(body)
            time.sleep(answer.seconds)
            with lock:
                here[0] -= 1
            if answer.hang_up:
                self.connection.close()
                self.close_connection = True
                return
            data = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that left is no news."""

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
