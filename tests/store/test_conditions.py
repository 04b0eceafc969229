"""Stores that do not honour a write only-if-absent, each in its own way, and listings and deletes that go half."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler

import pytest

from geobatch.errors import MachineError, UserError
from geobatch.store import Denied, Store, StoreConfig, Unreadable
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy


@pytest.fixture
def store(proxy: FaultyProxy) -> Store:
    return Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001, attempts=3))


@pytest.mark.parametrize("answer", ["ignores", "409", "412", "501", "403"])
def test_a_store_without_conditional_writes_is_found_out_in_one_line(
    s3: S3Server, proxy: FaultyProxy, store: Store, answer: str
) -> None:
    base = f"s3://{s3.bucket()}/out"
    if answer == "ignores":
        proxy.stripped = {"If-None-Match"}
    else:
        code = {
            "409": "ConditionalRequestConflict",
            "412": "PreconditionFailed",
            "501": "NotImplemented",
            "403": "AccessDenied",
        }
        proxy.check = lambda request: (int(answer), code[answer]) if request.headers.get("If-None-Match") else None
    with pytest.raises(UserError, match="use others" if answer == "403" else "does not honour conditional writes") as raised:
        store.require_conditional_writes(base)
    assert "\n" not in str(raised.value) and isinstance(raised.value, Denied) == (answer == "403")
    assert [list(page) for page in store.objects(base)] == [[]], "the probe was left behind"


def test_a_store_that_is_down_is_not_taken_for_one_without_conditional_writes(
    s3: S3Server, proxy: FaultyProxy, store: Store
) -> None:
    base, proxy.method = f"s3://{s3.bucket()}/out", "PUT"
    proxy.check = lambda request: (500, "InternalError") if request.command == "PUT" else None
    with pytest.raises(MachineError, match="check the store's health") as raised:
        store.require_conditional_writes(base)
    assert "conditional" not in str(raised.value)
    proxy.check = lambda _: None
    proxy.faults.extend(["500"] * 3)  # all attempts of the first write; then it is up again
    store.require_conditional_writes(base)
    assert not proxy.faults and [list(page) for page in store.objects(base)] == [[]]


def test_a_conflict_that_passes_is_waited_for(s3: S3Server, proxy: FaultyProxy, store: Store) -> None:
    base, proxy.method = f"s3://{s3.bucket()}/out", "PUT"
    proxy.faults.extend(["409", "", "409"])
    store.require_conditional_writes(base)
    assert not proxy.faults


def test_of_a_batch_that_is_deleted_in_part_the_rest_is_asked_again(s3: S3Server, proxy: FaultyProxy, store: Store) -> None:
    base = f"s3://{s3.bucket()}"
    uris = [f"{base}/{number}" for number in range(6)]
    for uri in uris:
        store.put(uri, b"x")
    asked: list[list[str]] = []
    errors = {"2": "InternalError", "4": "SlowDown"}

    def some(request: BaseHTTPRequestHandler, body: bytes) -> bytes | None:
        """Deletes nothing of what it names as failed, as often as `errors` says; the rest is passed on."""
        if request.command != "POST":
            return None
        asked.append(re.findall(r"<Key>([^<]*)</Key>", body.decode()))
        failed = {key: errors.pop(key) for key in asked[-1] if key in errors}
        said = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in failed.items())
        if not failed:
            return None
        Store(s3.config()).delete([f"{base}/{key}" for key in asked[-1] if key not in failed])
        return f'<?xml version="1.0"?><DeleteResult>{said}</DeleteResult>'.encode()

    proxy.instead = some
    store.delete(uris)
    assert asked == [list("012345"), ["2", "4"]]
    assert [list(page) for page in store.objects(base)] == [[]]
    for code, kind in (("AccessDenied", Denied), ("MethodNotAllowed", MachineError), ("InternalError", Unreadable)):
        proxy.instead = lambda request, _, code=code: (  # type: ignore[misc]
            f"<DeleteResult><Error><Key>2</Key><Code>{code}</Code></Error></DeleteResult>".encode()
        )
        with pytest.raises(kind, match=f"{base}/2"):
            store.delete([uris[2]])
    errors.update({"2": "NoSuchKey"})
    proxy.instead = some
    store.delete([uris[2]])


def test_a_listing_whose_token_was_forgotten_goes_on_behind_its_last_key(
    s3: S3Server, proxy: FaultyProxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geobatch.store.s3._PAGE", 3)
    base = f"s3://{s3.bucket()}"
    uris = [f"{base}/a+b %/{number}" for number in range(10)]
    for uri in uris:
        store.put(uri, b"x")
    proxy.check = lambda request: (400, "InvalidArgument") if "continuation-token" in request.path else None
    assert [each.uri for page in store.objects(base) for each in page] == uris
    proxy.check = lambda request: (400, "InvalidArgument") if "list-type" in request.path else None
    with pytest.raises(Unreadable, match="InvalidArgument"):
        list(store.objects(base))


def test_a_listing_that_broke_off_goes_on_where_it_was(
    s3: S3Server, proxy: FaultyProxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geobatch.store.s3._PAGE", 3)
    base = f"s3://{s3.bucket()}"
    uris = [f"{base}/{number}" for number in range(8)]
    for uri in uris:
        store.put(uri, b"x")
    pages = store.objects(base)
    got = [each.uri for each in next(pages)]
    proxy.faults.extend(["500"] * 3)
    with pytest.raises(Unreadable):
        next(pages)
    proxy.requests.clear()
    got += [each.uri for page in store.objects(base, after=got[-1]) for each in page]
    assert got == uris and len(proxy.requests) == 2


def test_answers_in_chunks_are_read_whole_and_their_ends_are_checked(s3: S3Server, proxy: FaultyProxy, store: Store) -> None:
    uri, body = f"s3://{s3.bucket()}/x", bytes(range(256)) * 1000
    store.put(uri, body)
    store.put(f"{uri}0", b"")
    proxy.chunked = True
    assert store.get(uri) == body and store.get(uri, 7, 99) == body[7:99] and store.get(f"{uri}0") == b""
    with store.stream(uri, 5) as stream:
        assert stream.read() == body[5:]
    assert [each.size for page in store.objects(uri[:-2]) for each in page] == [len(body), 0]
    for fault in ("cut", "reset", "lost"):
        proxy.faults.append(fault)
        assert store.get(uri) == body
        proxy.faults.append(fault)
        with store.stream(uri) as stream:
            assert stream.read() == body
    found = store.head(uri)
    assert found is not None and found.size == len(body)
