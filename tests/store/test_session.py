"""Credentials that end while a run goes on, keys of KMS, buckets whose reader pays, and where a request names its bucket.

The proxy reads the key that a request is signed with; a key's name says until when it is good.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.store import Denied, NotFound, Store, StoreConfig, StoreOverride
from geobatch.store.session import RENEWALS
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

#: A credential process: a new key each time, good until the end of the second after next.
TURNS = """#!/bin/sh
until=$(($(date +%s) + 2))
echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"UNTIL$until\\", \\"SecretAccessKey\\": \\"x\\",
 \\"SessionToken\\": \\"t$until\\", \\"Expiration\\": \\"$(date -u -d @$until +%Y-%m-%dT%H:%M:%SZ)\\"}"
"""


def key_of(request: BaseHTTPRequestHandler) -> str:
    found = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
    return found[1] if found else ""


def expiring(seen: list[str]) -> Callable[[BaseHTTPRequestHandler], tuple[int, str] | None]:
    """What a store says that knows until when a key is good."""

    def check(request: BaseHTTPRequestHandler) -> tuple[int, str] | None:
        seen.append(key_of(request))
        return None if time.time() < float(seen[-1].removeprefix("UNTIL")) else (400, "ExpiredToken")

    return check


@pytest.fixture
def without_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No credentials but those of the files `config` and `credentials` in a folder."""
    s3.bucket()  # the server's own client keeps those of the environment
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def test_a_process_that_gives_keys_for_two_seconds(s3: S3Server, proxy: FaultyProxy, without_environment: Path) -> None:
    uri = f"s3://{s3.bucket()}/x"
    script = without_environment / "turns"
    script.write_text(TURNS)
    script.chmod(0o755)
    (without_environment / "config").write_text(f"[profile turns]\ncredential_process = {script}\n")
    seen: list[str] = []
    proxy.check = expiring(seen)
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", profile="turns", backoff=0.001))
    store.put(uri, b"1")
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        assert store.get(uri) == b"1"
        time.sleep(0.02)
    assert len(set(seen)) >= 3, "the client was pinned to a session"


def written(folder: Path, seconds: float) -> None:
    """Keys in the credentials file that are good for so long."""
    (folder / "credentials").write_text(
        f"[default]\naws_access_key_id = UNTIL{time.time() + seconds:.3f}\naws_secret_access_key = x\naws_session_token = t\n"
    )


def test_a_file_of_keys_is_read_again_once_they_are_refused(
    s3: S3Server, proxy: FaultyProxy, without_environment: Path
) -> None:
    uri, seen = f"s3://{s3.bucket()}/x", list[str]()
    proxy.check = expiring(seen)
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001))
    written(without_environment, 1.0)
    store._s3._client()
    written(without_environment, 60.0)
    time.sleep(1.0)
    seen.clear()
    with ThreadPoolExecutor(8) as pool:  # all of them meet the end at once, and one looks the new keys up
        list(pool.map(lambda number: store.put(f"{uri}{number}", b"1"), range(16)))
    assert len(set(seen)) == 2
    written(without_environment, -1.0)
    store = Store(store.config)
    for ask in (lambda: store.get(f"{uri}1"), lambda: store.put(f"{uri}1", b"")):
        seen.clear()
        with pytest.raises(UserError, match=r"rejects the AWS credentials.*ExpiredToken.*renew them") as raised:
            ask()
        assert "\n" not in str(raised.value) and not isinstance(raised.value, Denied)
        assert len(seen) <= 1 + RENEWALS, "it is not asked again and again"


def test_keys_that_are_expired_when_a_process_gives_them(s3: S3Server, without_environment: Path) -> None:
    script = without_environment / "turns"
    script.write_text(TURNS.replace("+ 2", "- 2"))
    script.chmod(0o755)
    (without_environment / "config").write_text(f"[default]\ncredential_process = {script}\n")
    with pytest.raises(UserError, match=r"no usable AWS credentials.*expired.*--store\.profile"):
        Store(s3.config()).get("s3://bucket/x")


def test_wrong_keys_are_one_line_also_where_a_head_cannot_say_so(s3: S3Server, proxy: FaultyProxy) -> None:
    proxy.check = lambda _: (403, "InvalidAccessKeyId")
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001))
    for ask in (store.head, store.require_credentials):
        with pytest.raises(UserError, match=r"rejects the AWS credentials.*InvalidAccessKeyId") as raised:
            ask("s3://bucket/x")
        assert not isinstance(raised.value, Denied)
    proxy.check = lambda request: (403, "AccessDenied")
    store.require_credentials("s3://bucket/x")  # who may read may still not list
    with pytest.raises(Denied):
        store.head("s3://bucket/x")


def test_a_head_that_is_refused_may_be_answered_by_a_get(s3: S3Server, proxy: FaultyProxy) -> None:
    base = f"s3://{s3.bucket()}"
    proxy.check = lambda request: (403, "AccessDenied") if request.command == "HEAD" else None
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001))
    for name, body in (("x", b"123"), ("empty", b"")):
        store.put(f"{base}/{name}", body)
        found = store.head(f"{base}/{name}")
        assert found is not None and found.size == len(body)
    assert store.head(f"{base}/none") is None


def test_who_reads_pays(s3: S3Server, proxy: FaultyProxy) -> None:
    base = f"s3://{s3.bucket()}"
    proxy.check = lambda request: None if request.headers.get("x-amz-request-payer") == "requester" else (403, "AccessDenied")
    config = StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001, requester_pays=True)
    store = Store(config)
    store.put(f"{base}/x", b"123")
    assert store.put_if_absent(f"{base}/y", b"1")
    assert store.head(f"{base}/x") is not None and store.get(f"{base}/x", 1) == b"23"
    assert store.stream(f"{base}/x").read() == b"123"
    assert [len(page) for page in store.objects(base)] == [2]
    store.delete([f"{base}/x", f"{base}/y"])
    with pytest.raises(Denied):
        Store(StoreOverride(requester_pays=False).over(config)).get(f"{base}/x")


def test_what_is_written_is_sealed(s3: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3.bucket()
    for number, key in enumerate(("arn:aws:kms:us-east-1:123456789012:key/abc", "default")):
        store = Store(s3.config(kms_key=key))
        store.put(f"s3://{bucket}/{number}", b"1")
        assert store.put_if_absent(f"s3://{bucket}/{number}b", b"2")
        for name in (f"{number}", f"{number}b"):
            about = store._s3._client().head_object(Bucket=bucket, Key=name)
            assert about["ServerSideEncryption"] == "aws:kms"
            assert key == "default" or about["SSEKMSKeyId"] == key
    proxy.check = lambda request: (400, "KMS.NotFoundException") if request.command == "PUT" else None
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", kms_key="gone"))
    with pytest.raises(UserError, match=r"KMS key.*KMS\.NotFoundException.*check --store\.kms-key"):
        store.require_conditional_writes(f"s3://{bucket}/out")


def test_a_bucket_is_named_where_the_store_wants_it(s3: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def check(request: BaseHTTPRequestHandler) -> tuple[int, str]:
        seen.append((request.headers["Host"].split(":")[0], request.path))
        return 404, "NoSuchKey"

    proxy.check = check
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: look_up("127.0.0.1", *rest, **named))
    endpoint = proxy.endpoint.replace("127.0.0.1", "store.test")
    for addressing in ("path", "virtual"):
        with pytest.raises(NotFound):
            Store(StoreConfig(endpoint=endpoint, region="us-east-1", addressing=addressing)).get("s3://bucket/a/x")  # type: ignore[arg-type]
    assert seen == [("store.test", "/bucket/a/x"), ("bucket.store.test", "/a/x")]


def test_an_override_changes_what_it_names() -> None:
    store = StoreConfig(endpoint="http://here", profile="mine", attempts=3)
    assert StoreOverride().over(store) == store
    there = StoreOverride(endpoint="http://there", requester_pays=True, kms_key="k").over(store)
    assert there == StoreConfig(endpoint="http://there", profile="mine", attempts=3, requester_pays=True, kms_key="k")
    assert StoreOverride(requester_pays=False).over(there).requester_pays is False
