"""Recipe: an S3 server that lists any number of objects and holds hardly any, since moto sorts all its keys for every page.

`python -m tests.archives.endless` prints its port. It speaks ListObjectsV2, HEAD and GET of the bucket `endless`, whose objects
are `archive/NNNNN/NNNNNNNN.jpg`; their names, sizes and etags are functions of their number, only the first few have bytes.
What lies there is told by `PUT /control?objects=N&without=i,j` (the body: bytes of the first few, one after the other, each
with its length before it), what was asked by `GET /control`: a JSON of counts by kind of request.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

BUCKET, PREFIX = "endless", "archive/"

_PAGE = 1000


def name(number: int) -> str:
    """Key of an object."""
    return f"{PREFIX}{number // 1000:05d}/{number:08d}.jpg"


def etag(number: int) -> str:
    """Of an object without bytes."""
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


class _Lies:
    """What lies there, and what was asked."""

    def __init__(self) -> None:
        self.objects, self.without, self.bodies = 0, frozenset[int](), tuple[bytes, ...]()
        self.asked = Counter[str]()


_State = _Lies()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """Sets what lies here."""
        asked = parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bodies, at = [], 0
        while at < len(body):
            (size,) = struct.unpack_from("<Q", body, at)
            bodies.append(body[at + 8 : at + 8 + size])
            at += 8 + size
        _State.objects, _State.bodies = int(asked["objects"][0]), tuple(bodies)
        _State.without = frozenset(int(each) for each in asked.get("without", [""])[0].split(",") if each)
        _State.asked.clear()
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        """Size and etag."""
        self._object("head", send=False)

    def do_GET(self) -> None:
        """A page, an object, or the counts."""
        parts = urlsplit(self.path)
        if parts.path == "/control":
            self._answer(200, json.dumps(_State.asked).encode())
        elif parts.path.rstrip("/") == f"/{BUCKET}":
            _State.asked["list"] += 1
            self._answer(200, _page(parse_qs(parts.query)))
        else:
            self._object("get", send=True)

    def _object(self, kind: str, *, send: bool) -> None:
        _State.asked[kind] += 1
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        number = int(key[-12:-4]) if key[-12:-4].isdigit() else -1
        if not 0 <= number < len(_State.bodies) or number in _State.without or key != name(number):
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>" if send else b"")
            return
        body = _State.bodies[number]
        start, end = 0, len(body)
        if span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, len(body)) if last else len(body)
        head = {"ETag": f'"{_etag(number)}"', "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
        self._answer(206 if span else 200, body[start:end], {**head, "Accept-Ranges": "bytes"}, send=send)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, send: bool = True) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body)), "Content-Type": "application/xml"}.items():
            self.send_header(key, value)
        self.end_headers()
        if send:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _etag(number: int) -> str:
    if number < len(_State.bodies):
        return hashlib.md5(_State.bodies[number], usedforsecurity=False).hexdigest()
    return etag(number)


def _page(asked: dict[str, list[str]]) -> bytes:
    prefix = asked.get("prefix", [""])[0]
    start = int(asked.get("continuation-token", ["0"])[0])
    if prefix not in ("", PREFIX):
        start = _State.objects
    wanted = [n for n in range(start, min(start + _PAGE, _State.objects)) if n not in _State.without]
    rows = "".join(
        f"<Contents><Key>{quote(name(n))}</Key><LastModified>2019-01-01T00:00:00.000Z</LastModified><ETag>&quot;{_etag(n)}&quot;"
        f"</ETag><Size>{len(_State.bodies[n]) if n < len(_State.bodies) else 500_000 + n}</Size></Contents>"
        for n in wanted
    )
    more = start + _PAGE < _State.objects
    token = f"<NextContinuationToken>{start + _PAGE}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(wanted)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<EncodingType>url</EncodingType><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{rows}"
        "</ListBucketResult>"
    ).encode()


class Endless:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.endpoint, self.archive = f"http://127.0.0.1:{port}", f"s3://{BUCKET}/{PREFIX.rstrip('/')}"

    def holds(self, objects: int, bodies: tuple[bytes, ...] = (), without: tuple[int, ...] = ()) -> None:
        """From now on; the counts begin anew."""
        data = b"".join(struct.pack("<Q", len(body)) + body for body in bodies)
        query = f"objects={objects}&without={','.join(map(str, without))}"
        request = urllib.request.Request(f"{self.endpoint}/control?{query}", data=data, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def asked(self) -> dict[str, int]:
        """Requests since then, by kind: list, get, head."""
        with urllib.request.urlopen(f"{self.endpoint}/control", timeout=30) as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found


@contextmanager
def endless() -> Iterator[Endless]:
    """A server in a process of its own."""
    server = subprocess.Popen([sys.executable, "-m", "tests.archives.endless"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield Endless(int(server.stdout.readline()))
    finally:
        server.terminate()
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()


if __name__ == "__main__":
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(http.server_address[1], flush=True)
    http.serve_forever()
