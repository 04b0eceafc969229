"""Servers that keep a connection alive and a client waiting: each byte in time, and never an end."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from geobatch.errors import UserError
from geobatch.store import Store, StoreConfig, Unreadable, timeouts
from geobatch.store.timeouts import Guard, Watch
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

BODY = bytes(range(256)) * 4096  # which drips for half a day


def impatient(endpoint: str, **settings: object) -> Store:
    """A store that gives a request 0.2 s in all, and 5 s to each byte."""
    given = {"attempts": 1, "request_timeout": 0.2, "read_timeout": 5.0, "backoff": 0.001, **settings}
    return Store(StoreConfig(endpoint=endpoint, region="us-east-1", **given))  # type: ignore[arg-type]


class Slow(NamedTuple):
    """A proxy, an object of `BODY` behind it, and stores that try once and four times."""

    proxy: FaultyProxy
    uri: str
    once: Store
    again: Store


@pytest.fixture(scope="module")
def slow(s3: S3Server) -> Iterator[Slow]:
    uri = f"s3://{s3.bucket()}/x"
    Store(s3.config()).put(uri, BODY)
    proxy = FaultyProxy(s3.endpoint)
    made = Slow(proxy, uri, impatient(proxy.endpoint), impatient(proxy.endpoint, attempts=4))
    for store in made[2:]:
        store._s3._client()  # which takes longer than a request
    yield made
    proxy.close()


@pytest.mark.parametrize("fault", ["drip", "drip-head", "silent", "stall"])
def test_no_answer_outlasts_its_deadline(slow: Slow, fault: str) -> None:
    slow.proxy.method = "GET"
    slow.proxy.faults.append(fault)
    began = time.monotonic()
    with pytest.raises(Unreadable, match=r"failed once with TimeoutError.*--store\.request-timeout"):
        slow.once.get(slow.uri)
    assert 0.2 <= time.monotonic() - began < 3.0


def test_the_next_attempt_is_a_new_connection(slow: Slow) -> None:
    slow.proxy.method = "GET"
    slow.proxy.faults.extend(["drip", "stall"])
    assert slow.again.get(slow.uri) == BODY
    slow.proxy.faults.extend(["drip", "stall", "drip-head"])
    with slow.again.stream(slow.uri, 7) as stream:
        assert stream.read() == BODY[7:]
    assert not slow.proxy.faults


def test_a_write_a_listing_and_a_head_have_deadlines_too(slow: Slow) -> None:
    base, slow.proxy.method = slow.uri[:-2], ""
    for ask in (
        lambda: slow.once.put(f"{base}/y", b"2"),
        lambda: slow.once.put_if_absent(f"{base}/z", b"2"),
        lambda: slow.once.head(slow.uri),
        lambda: list(slow.once.objects(base)),
        lambda: slow.once.delete([f"{base}/none"]),
    ):
        slow.proxy.faults.append("drip-head")
        began = time.monotonic()
        with pytest.raises(Unreadable, match="TimeoutError"):
            ask()
        assert time.monotonic() - began < 3.0


@contextmanager
def takes_nothing() -> Iterator[str]:
    """A server that accepts a connection and reads a byte of it now and then: a handshake and a body never end."""
    server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    held: list[socket.socket] = []

    def sip() -> None:
        server.settimeout(0.05)
        while not ended.is_set():
            try:
                held.append(server.accept()[0])
            except TimeoutError:
                for each in held:
                    each.settimeout(0.01)
                    try:
                        each.recv(1)
                    except OSError:
                        continue

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        ended.set()
        thread.join()
        for each in (server, *held):
            each.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_nobody_takes_and_a_handshake_that_never_ends(scheme: str, s3: S3Server) -> None:
    with takes_nothing() as address:
        store = impatient(f"{scheme}://{address}")
        store._s3._client()
        began = time.monotonic()
        with pytest.raises(Unreadable, match="TimeoutError"):
            store.put("s3://bucket/x", bytes(8 << 20))
        assert time.monotonic() - began < 3.0


def test_a_large_body_gets_more_time() -> None:
    config = StoreConfig(request_timeout=100)
    assert config.allowance() == config.allowance(16 << 20) == 100
    assert config.allowance(32 << 20) == 200
    with pytest.raises(UserError, match="more than 0"):
        StoreConfig(request_timeout=0)


def test_a_connection_noted_late_is_ended_at_once_and_an_early_one_is_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        early = Watch()
        early.note(ours)
        early.arm(10.0)
        early.expire(9.0)
        early.close()
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
        late = Watch()
        late.arm(10.0)
        late.expire(10.0)
        late.note(ours)
        assert ours.recv(1) == b"" and late.expired
        late.close()


def test_the_thread_ends_when_nothing_is_under_way_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "LOOK", 0.01)
    monkeypatch.setattr(timeouts, "IDLE", 0.03)
    guard = Guard()
    for _ in range(2):
        with guard.within(5.0, Watch()):
            thread = guard._thread
            assert thread is not None and thread.is_alive()
        thread.join(5)
        assert not thread.is_alive() and guard._thread is None


def test_what_is_raised_inside_comes_through() -> None:
    with pytest.raises(KeyError), Guard().within(5.0, Watch()):
        raise KeyError


def test_over_tls(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that speaks TLS and then drips a header: below it is the same socket."""
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        plain, _ = server.accept()
        with plain, context.wrap_socket(plain, server_side=True) as secure:
            secure.recv(4096)
            while not ended.wait(0.02):
                try:
                    secure.sendall(b"H")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        store = impatient(f"https://localhost:{server.getsockname()[1]}", addressing="path")
        store._s3._client()
        with pytest.raises(Unreadable, match="TimeoutError"):
            store.get("s3://bucket/x")
        ended.set()
        thread.join()


def self_signed(folder: Path) -> Path:
    """A certificate for localhost."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    pkcs8, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(form, pkcs8, bare))
    (folder / "certificate.pem").write_bytes(made.public_bytes(form))
    return folder / "certificate.pem"
