"""Any key that S3 allows is written, listed in order, read and deleted as itself."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geobatch.store import Store
from tests.conftest import S3Server

#: Pieces that URLs, XML, file systems and proxies like to change.
PIECES = st.sampled_from(
    ["a", "b", "/", "//", ".", "..", "../", "./", " ", "+", "%", "%2F", "%2e%2e", "~", "#", "?", "&", "=", ";", "é", "e\u0301",
     "日本", "\U0001f30d", "'", '"', "<", ">", "\\", "\t", "*", ":", "@", "!", "\u200b", "\ufeff", "\u2028", "|", "^", "`", "{"]
)  # fmt: skip
KEYS = st.one_of(
    st.lists(PIECES, min_size=1, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
)


@pytest.fixture(scope="module")
def there(s3: S3Server) -> tuple[Store, str]:
    return Store(s3.config()), f"s3://{s3.bucket()}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(KEYS, min_size=1, max_size=8), data=st.data())
def test_keys_are_themselves_and_come_in_the_order_of_their_bytes(
    there: tuple[Store, str], monkeypatch: pytest.MonkeyPatch, keys: set[str], data: st.DataObject
) -> None:
    store, bucket = there
    monkeypatch.setattr("geobatch.store.s3._PAGE", 3)
    base = f"{bucket}/{uuid.uuid4().hex}"
    uris = sorted((f"{base}/{key}" for key in keys), key=str.encode)
    for uri in uris:
        store.put(uri, uri.encode())
    assert [each.uri for page in store.objects(base) for each in page] == uris
    assert list(store.get_many(uris)) == [uri.encode() for uri in uris]
    assert [each is not None and each.uri for each in store.head_many(uris)] == uris
    after = data.draw(st.sampled_from(uris), "after")
    assert [each.uri for page in store.objects(base, after=after) for each in page] == uris[uris.index(after) + 1 :]
    store.delete(uris[::2])
    assert [each.uri for page in store.objects(base) for each in page] == uris[1::2]
    assert store.put_if_absent(uris[0], b"") and not store.put_if_absent(uris[0], b"x")


@pytest.mark.parametrize("key", ["x" * 1024, "é" * 512, "%" * 1024, "日" * 341 + "/", "a/" * 512])
def test_the_longest_key(there: tuple[Store, str], key: str) -> None:
    store, bucket = there
    uri = f"{bucket}/{key}"
    store.put(uri, b"long")
    assert store.get(uri) == b"long" and store.put_if_absent(uri, b"") is False
    listed = [each.uri for page in store.objects(bucket) for each in page]
    assert uri in listed
    store.delete([uri])
    assert store.head(uri) is None


def test_a_prefix_with_a_slash_of_its_own_is_another_folder(there: tuple[Store, str]) -> None:
    store, bucket = there
    for key in ("f/x", "f//x", "f/", "f"):
        store.put(f"{bucket}/{key}", b"")
    assert [each.uri for page in store.objects(f"{bucket}/f") for each in page] == [
        f"{bucket}/{key}" for key in ("f/", "f//x", "f/x")
    ]
    assert [each.uri for page in store.objects(f"{bucket}/f//") for each in page] == [f"{bucket}/f//x"]
