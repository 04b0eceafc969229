"""The store against a proxy that throttles, resets, truncates and loses answers."""

from __future__ import annotations

import random
import threading
import time

import pytest

from geobatch.errors import UserError
from geobatch.store import Changed, Store, StoreConfig, Unreadable, Withheld, faults
from tests.conftest import S3Server, free_port
from tests.store.proxy import FaultyProxy

BODY = random.Random(7).randbytes(3 << 20)


@pytest.fixture
def faulty(s3: S3Server, proxy: FaultyProxy) -> tuple[Store, FaultyProxy, str]:
    """A store behind the proxy, the proxy, and the URI of an object of 3 MiB."""
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01, attempts=5))
    uri = f"s3://{s3.bucket()}/x"
    Store(s3.config()).put(uri, BODY)
    return store, proxy, uri


def test_reads_survive_every_fault(faulty: tuple[Store, FaultyProxy, str]) -> None:
    store, proxy, uri = faulty
    proxy.faults.extend(["503", "reset", "cut", "lost"])
    assert store.get(uri) == BODY
    assert len(proxy.requests) == 5
    proxy.faults.extend(["cut", "429"])
    assert store.get(uri, 100, 200_000) == BODY[100:200_000]
    proxy.faults.extend(["503", "cut"])
    assert [each.uri for page in store.objects(uri[:-2]) for each in page] == [uri]
    proxy.method = "HEAD"
    proxy.faults.extend(["503", "reset"])
    assert store.exists(uri)


def test_faults_beyond_the_attempts_are_the_machines_error(faulty: tuple[Store, FaultyProxy, str]) -> None:
    store, proxy, uri = faulty
    proxy.faults.extend(["503"] * 5)
    with pytest.raises(Unreadable, match=r"failed 5 times.*SlowDown"):
        store.get(uri)
    assert [method for method, _, _ in proxy.requests] == ["GET"] * 5 + ["HEAD"]  # the last asks whether the bucket lives
    proxy.faults.extend(["cut"] * 5)
    answers = list(store.get_many([uri]))
    assert isinstance(answers[0], Withheld)


FOREIGN = b'<?xml version="1.0"?><html><body>Back soon</body></html>'


@pytest.mark.parametrize("answer", [b"", FOREIGN, b'<?xml version="1.0"?><ListBucketResult></ListBucketResult>'])
def test_an_answer_that_is_no_listing_is_not_its_end(faulty: tuple[Store, FaultyProxy, str], answer: bytes) -> None:
    store, proxy, uri = faulty
    answers = iter([answer, answer])
    proxy.instead = lambda *_: next(answers, None)
    assert [each.uri for page in store.objects(uri[:-2]) for each in page] == [uri]
    assert len(proxy.requests) == 3
    proxy.instead = lambda *_: answer
    with pytest.raises(Unreadable, match=r"failed 5 times.*no listing"):
        list(store.objects(uri[:-2]))


def test_a_stream_goes_on_where_it_broke(faulty: tuple[Store, FaultyProxy, str]) -> None:
    store, proxy, uri = faulty
    proxy.faults.extend(["cut", "reset", "cut"])
    with store.stream(uri, 5) as stream:
        assert stream.read() == BODY[5:]
    starts = [int(span.removeprefix("bytes=").rstrip("-")) for _, _, span in proxy.requests if span]
    assert starts[0] == 5 and starts == sorted(starts)
    # Half of what was left came in the first answer, half of the rest in the second that was cut.
    assert starts[-1] > len(BODY) // 2


def test_a_stream_gives_up_where_no_progress_is_made(faulty: tuple[Store, FaultyProxy, str]) -> None:
    store, proxy, uri = faulty
    with store.stream(uri) as stream:
        assert stream.read(10) == BODY[:10]
    proxy.faults.extend(["cut", *["reset"] * 20])
    with store.stream(uri) as stream, pytest.raises(Unreadable):
        stream.read()


def test_the_halves_of_a_stream_are_of_the_same_object(faulty: tuple[Store, FaultyProxy, str], s3: S3Server) -> None:
    store, proxy, uri = faulty
    proxy.faults.append("cut")
    with store.stream(uri) as stream:
        stream.read(10)
        Store(s3.config()).put(uri, BODY[::-1])
        with pytest.raises(Changed):
            stream.read()


@pytest.mark.parametrize("fault", ["503", "409", "reset", "lost"])
def test_writes_survive_every_fault(faulty: tuple[Store, FaultyProxy, str], fault: str) -> None:
    store, proxy, uri = faulty
    proxy.method = "PUT"
    proxy.faults.append(fault)
    store.put(f"{uri}1", b"one")
    assert store.get(f"{uri}1") == b"one"
    proxy.faults.append(fault)
    assert store.put_if_absent(f"{uri}2", b"two"), "a lost reply of our own success must be recognised"
    proxy.faults.append(fault)
    assert not store.put_if_absent(f"{uri}2", b"three")
    assert store.get(f"{uri}2") == b"two"


def test_silence_has_a_deadline(s3: S3Server, proxy: FaultyProxy) -> None:
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01, attempts=2, read_timeout=0.5))
    uri = f"s3://{s3.bucket()}/x"
    proxy.faults.extend(["silent", "silent"])
    started = time.monotonic()
    with pytest.raises(Unreadable, match="Timeout"):
        store.get(uri)
    assert time.monotonic() - started < 5


def test_nobody_listening_is_one_line(s3: S3Server) -> None:
    store = Store(StoreConfig(endpoint=f"http://127.0.0.1:{free_port()}", region="us-east-1", backoff=0.01, attempts=3))
    with pytest.raises(Unreadable, match="failed 3 times") as raised:
        list(store.objects("s3://b/x"))
    assert "\n" not in str(raised.value)


def test_waits_double_to_a_limit_and_are_spread_over_their_whole_span(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    here, sleep = threading.get_ident(), time.sleep

    def noted(seconds: float) -> None:
        """Threads that other tests left sleep on."""
        slept.append(seconds) if threading.get_ident() == here else sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    for failures in range(1, 12):
        for _ in range(200):
            faults.wait(StoreConfig(backoff=0.1), failures)
    for number in range(11):
        part = slept[200 * number : 200 * number + 200]
        longest = min(faults.LONGEST_WAIT, 0.1 * 2**number)
        assert 0 <= min(part) < 0.1 * longest and 0.9 * longest < max(part) <= longest


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        StoreConfig(attempts=0)
    with pytest.raises(UserError, match="at least one"):
        StoreConfig(in_flight=0)
