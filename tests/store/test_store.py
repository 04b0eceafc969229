"""The store as its users see it, each kind of it."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.store import Changed, Denied, NotFound, Store, StoreConfig, join
from tests.conftest import S3Server

ODD = ("a/b.jpg", "a-b/x", "a b+%23#é.jpg", "z", "a.jpg", "%2F", "日本/x?y=1&z", "~2", "a/c/../d", "'\"<&>")


def written(store: Store, base: str, names: tuple[str, ...]) -> list[str]:
    uris = [f"{base}/{name}" if base.startswith("s3") else join(base, name) for name in names]
    for uri in uris:
        store.put(uri, uri.encode())
    return uris


def test_odd_keys_are_listed_in_the_order_of_their_bytes_and_read_back(place: tuple[Store, str]) -> None:
    store, base = place
    names = ODD if base.startswith("s3") else tuple(name for name in ODD if ".." not in name)
    uris = written(store, base, names)
    found = [each for page in store.objects(base) for each in page]
    assert [each.uri for each in found] == sorted(uris, key=str.encode)
    assert list(store.get_many(each.uri for each in found)) == [each.uri.encode() for each in found]
    assert [store.head(each.uri) for each in found] == found
    assert [each.size for each in found] == [len(each.uri.encode()) for each in found]


def test_a_prefix_is_a_folder(place: tuple[Store, str]) -> None:
    store, base = place
    written(store, base, ("ab/x", "a/y", "a/z/w"))
    for prefix in (join(base, "a"), join(base, "a") + "/"):
        found = [each.uri for page in store.objects(prefix) for each in page]
        assert found == [join(base, "a/y"), join(base, "a/z/w")]
    assert [list(page) for page in store.objects(join(base, "b"))] == [[]]


def test_listings_come_in_pages(s3: S3Server) -> None:
    store, base = Store(s3.config()), f"s3://{s3.bucket()}"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(join(base, f"{number:04}"), b"x"), range(1003)))
    pages = list(store.objects(base))
    assert [len(page) for page in pages] == [1000, 3]
    store.delete(each.uri for page in pages for each in page)
    assert [list(page) for page in store.objects(base)] == [[]]


def test_parts_of_an_object(place: tuple[Store, str]) -> None:
    store, base = place
    uri = join(base, "x")
    store.put(uri, b"0123456789")
    assert store.get(uri, 3) == b"3456789"
    assert store.get(uri, 3, 5) == b"34"
    assert store.get(uri, None, 2) == b"01"
    assert store.get(uri, 8, 99) == b"89"
    assert store.get(uri, 10) == store.get(uri, 50, 60) == b""
    assert store.get(uri, 4, 4) == b""
    data, etag = store.get_tagged(uri)
    found = store.head(uri)
    assert data == b"0123456789" and found is not None and etag == found.etag


def test_an_empty_object(place: tuple[Store, str]) -> None:
    store, base = place
    uri = join(base, "x")
    store.put(uri, b"")
    assert store.get(uri) == store.get(uri, 0, 1) == store.stream(uri).read() == b""
    found = store.head(uri)
    assert found is not None and found.size == 0


def test_what_is_not_there(place: tuple[Store, str]) -> None:
    store, base = place
    uri = join(base, "nothing")
    assert store.head(uri) is None and not store.exists(uri) and list(store.head_many([uri])) == [None]
    for read in (store.get, store.stream):
        with pytest.raises(NotFound):
            read(uri)
    assert isinstance(next(store.get_many([uri])), NotFound)
    store.delete([uri])


def test_an_etag_that_is_no_longer_true(place: tuple[Store, str]) -> None:
    store, base = place
    uri = join(base, "x")
    store.put(uri, b"old")
    etag = store.get_tagged(uri).etag
    assert store.get(uri, if_match=etag) == b"old" and store.stream(uri, if_match=etag).read() == b"old"
    store.put(uri, b"other")
    for read in (store.get, store.stream):
        with pytest.raises(Changed):
            read(uri, if_match=etag)
    with pytest.raises(Changed):
        store.get(uri, 99, if_match=etag)
    old, new = store.get_many([(uri, etag), (uri, None)])
    assert isinstance(old, Changed) and new == b"other"


def test_of_many_writers_one_finds_nothing_there(place: tuple[Store, str]) -> None:
    store, base = place
    uri = join(base, "commit")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_if_absent(uri, b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert store.get(uri) == b"%d" % won.index(True)
    store.require_conditional_writes(base)
    assert [each.uri for page in store.objects(base) for each in page] == [uri]


def test_a_store_that_ignores_conditions_is_refused(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3.config())
    client = store._s3._client()
    put = client.put_object
    monkeypatch.setattr(client, "put_object", lambda IfNoneMatch=None, **rest: put(**rest))
    with pytest.raises(UserError, match="conditional writes"):
        store.require_conditional_writes(f"s3://{s3.bucket()}/out")


def test_many_gets_keep_their_order_and_read_no_further_than_they_must(place: tuple[Store, str]) -> None:
    store, base = place
    store = Store(StoreConfig(**{**vars(store.config), "in_flight": 4}))
    uris = written(store, base, tuple(f"{number}" for number in range(20)))
    asked: list[str] = []
    answers = store.get_many(asked.append(uri) or uri for uri in uris)  # type: ignore[func-returns-value]
    assert [next(answers) for _ in range(3)] == [uri.encode() for uri in uris[:3]]
    assert len(asked) <= 3 + 4
    assert list(answers) == [uri.encode() for uri in uris[3:]]


def test_a_store_pickles_as_its_configuration(place: tuple[Store, str]) -> None:
    store, base = place
    store.put(join(base, "x"), b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.config == store.config and copy.get(join(base, "x")) == b"1"
    assert len(pickle.dumps(store)) < 1000


def test_what_the_user_must_mend_is_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Store(s3.config())
    with pytest.raises(UserError, match="no bucket 'not-there'") as refused:
        list(store.objects("s3://not-there/x"))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no bucket"):
        store.put("s3://not-there/x", b"")
    with pytest.raises(UserError, match="check the bucket's name"):
        store.get("s3://No Such Name/x")
    with pytest.raises(UserError, match="credentials"):
        Store(s3.config(profile="nobody")).get("s3://b/x")
    with pytest.raises(UserError, match=r"--store\.endpoint"):
        Store(StoreConfig(endpoint="not a url")).get("s3://b/x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
        list(Store(s3.config()).objects("s3://b/x"))


def test_denied_is_an_answer_for_one_object_and_an_error_for_a_listing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3.config())
    client = store._s3._client()

    def refuse(**_: object) -> None:
        answer = {"Error": {"Code": "AccessDenied", "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise client.exceptions.ClientError(answer, "GetObject")  # type: ignore[arg-type]

    for name in ("get_object", "list_objects_v2"):
        monkeypatch.setattr(client, name, refuse)
    assert isinstance(next(store.get_many(["s3://b/x"])), Denied)
    with pytest.raises(Denied, match="grant it"):
        list(store.objects("s3://b/x"))
