"""Folders of a bucket on this disk: fetched once, whole or not at all, whoever dies or meddles meanwhile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from geobatch.errors import MachineError, UserError
from geobatch.store import Store, StoreConfig, fetch
from geobatch.store.fetch import LARGE, WEEK, Remote, absent, digest_of, folders, listed, remote_of
from geobatch.store.verify import same_bytes
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

FILES = {"card.json": b"{}", "deep/weights.bin": bytes(range(256)) * 4000, "deep/empty": b"", "a b/ü.txt": "ü".encode()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOBATCH_CACHE_BYTES", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def store(s3: S3Server) -> Store:
    return Store(s3.config())


@pytest.fixture
def uri(s3: S3Server, store: Store) -> str:
    """A folder in a bucket of its own."""
    where = f"s3://{s3.bucket()}/models/one"
    for name, data in FILES.items():
        store.put(f"{where}/{name}", data)
    return where


def remote(store: Store, uri: str) -> Remote:
    found = Remote.of(store, uri)
    assert found is not None
    return found


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def left_over(cache: Path) -> list[str]:
    return [path.name for path in (cache / "folders").iterdir() if path.name.startswith(".geobatch-")]


class Slow(FaultyProxy):
    """A store that takes its time."""

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.15)
        super().pass_on(request)


def bodies(proxy: FaultyProxy) -> list[str]:
    """Paths of the objects that were asked for."""
    return [each[1] for each in proxy.requests if each[0] == "GET" and "list-type" not in each[1]]


def test_it_is_fetched_once_and_is_the_bucket_s(uri: str, store: Store, cache: Path) -> None:
    one = remote(store, uri + "/")
    assert not (cache / "folders").exists()  # a listing is enough to know it
    where = one.here()
    assert contents(where) == FILES and Path(where).parent == cache / "folders" and not left_over(cache)
    assert one.digest == remote(store, uri).digest == digest_of(listed(store, uri))
    blind = dataclasses.replace(one, store=StoreConfig(endpoint="http://127.0.0.1:9", attempts=1))
    assert blind.here() == where  # nobody is asked again
    assert dataclasses.replace(blind, below="deep").here() == f"{where}/deep"
    assert Remote.of(store, uri + "x") is None


def test_the_record_says_where_the_last_run_found_it_whoever_fetched_it(uri: str, store: Store, s3: S3Server) -> None:
    """The same bytes in another bucket, reached otherwise: nodes of this run may see nothing of the first."""
    first = remote(store, uri)
    where = first.here()
    copy = f"s3://{s3.bucket()}/copy"
    for name, data in FILES.items():
        store.put(f"{copy}/{name}", data)
    second = dataclasses.replace(remote(store, copy), store=dataclasses.replace(store.config, attempts=2, profile="night"))
    assert second.digest == first.digest and remote_of(where) == first
    assert second.here() == where and remote_of(where) == second
    record = Path(f"{where}.json")
    about = json.loads(record.read_text())
    record.write_text(json.dumps({**about, "store": {**about["store"], "of_another_release": 1}}))
    assert remote_of(where) == second
    before = record.stat()
    os.utime(record, (0, 0))
    assert second.here() == where and record.stat().st_mtime >= before.st_mtime - 1  # used just now: others go first


def test_markers_of_folders_are_passed_over_and_names_that_leave_are_refused(s3: S3Server, store: Store) -> None:
    where = f"s3://{s3.bucket()}/m"
    store.put(f"{where}/deep/", b"")
    store.put(f"{where}/deep/x", b"x")
    assert contents(remote(store, where).here()) == {"deep/x": b"x"}
    store.put(f"{where}/deep/../../evil", b"x")
    with pytest.raises(UserError, match="rename that object"):
        Remote.of(store, where)


def test_an_object_that_is_a_folder_too_is_refused(uri: str, store: Store) -> None:
    store.put(f"{uri}/deep", b"x")
    with pytest.raises(UserError, match="rename one of both"):
        Remote.of(store, uri)


def test_a_folder_that_changed_since_is_refused(uri: str, store: Store, cache: Path) -> None:
    one = remote(store, uri)
    store.put(f"{uri}/card.json", b'{"other": 1}')
    with pytest.raises(UserError, match="changed while the run was going on"):
        one.here()
    again = remote(store, uri)
    assert again.digest != one.digest and contents(again.here())["card.json"] == b'{"other": 1}'


@pytest.mark.parametrize("aged", [False, True])
def test_a_damaged_file_is_fetched_again_and_nothing_else(
    uri: str, s3: S3Server, proxy: FaultyProxy, store: Store, cache: Path, aged: bool
) -> None:
    """By its size and time at once; where these lie, by its bytes once a week."""
    one = remote(store, uri)
    where = Path(one.here())
    path = where / "deep/weights.bin"
    stat = path.stat()
    record = where.with_name(f"{where.name}.json")
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"?!")
    if aged:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        about = json.loads(record.read_text())
        record.write_text(json.dumps({**about, "verified": time.time() - WEEK - 1}))
    through = dataclasses.replace(one, store=s3.config(endpoint=proxy.endpoint))
    assert contents(through.here()) == FILES and not left_over(cache)
    assert len(bodies(proxy)) == 1 and "weights" in bodies(proxy)[0]


def test_two_that_find_the_same_damage_both_get_it_mended(
    uri: str, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the weekly look, which nobody waits for another to take."""
    one = remote(store, uri)
    path = Path(one.here()) / "deep/weights.bin"
    stat, record = path.stat(), folders() / f"{one.digest}.json"
    path.write_bytes(b"?" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    record.write_text(json.dumps({**json.loads(record.read_text()), "verified": time.time() - WEEK - 1}))
    both, looks = threading.Barrier(2), list[bool]()

    def same(*given: object) -> bool:
        found = same_bytes(*given)  # type: ignore[arg-type]
        if not found and len(looks) < 2:
            looks.append(found)
            both.wait(20)
        return found

    monkeypatch.setattr(fetch, "same_bytes", same)
    with ThreadPoolExecutor(2) as pool:
        for where in pool.map(lambda _: one.here(), range(2)):
            assert contents(where) == FILES
    assert len(looks) == 2 and not left_over(cache)


def test_a_record_of_nonsense_or_none_counts_as_unfinished(uri: str, store: Store) -> None:
    one = remote(store, uri)
    where = Path(one.here())
    record = where.with_name(f"{where.name}.json")
    for harm in (lambda: record.write_text("{"), record.unlink, lambda: shutil.rmtree(where / "deep")):
        harm()
        assert contents(one.here()) == FILES


def test_digests_of_the_folder_s_own_must_fit(uri: str, store: Store) -> None:
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in FILES.items()]
    store.put(f"{uri}/SHA256SUMS", "\n".join(lines).encode())
    assert contents(remote(store, uri).here()).keys() == {*FILES, "SHA256SUMS"}
    lines[1] = f"{'0' * 64}  deep/weights.bin"
    store.put(f"{uri}/SHA256SUMS", "\n".join(lines).encode())
    with pytest.raises(UserError, match=r"weights\.bin is not what SHA256SUMS beside it says"):
        remote(store, uri).here()


def test_an_outline_leaves_weights_in_the_bucket(uri: str, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geobatch.store.fetch.LARGE", 1000)
    one = remote(store, uri)
    part = one.outline()
    assert contents(part).keys() == FILES.keys() - {"deep/weights.bin"}
    assert [piece.name for piece in absent(Path(part))] == ["deep/weights.bin"] and LARGE > 1 << 20
    whole = remote_of(f"{part}/deep")
    assert whole == dataclasses.replace(one, below="deep")
    assert whole is not None and (Path(whole.here()) / "weights.bin").read_bytes() == FILES["deep/weights.bin"]
    assert one.outline() == one.here() and absent(Path(one.here())) == []  # the whole is no worse
    assert remote_of("/somewhere/else") is remote_of(folders() / "nothing") is None
    monkeypatch.setattr("geobatch.store.fetch.LARGE", -1)
    store.put(f"{uri}/card.json", b"other")
    assert contents(remote(store, uri).outline()) == {}


# Processes that die, and processes that come at once

HERE = """
import sys, time
from geobatch.store import StoreConfig
from geobatch.store.fetch import Remote
uri, digest, endpoint = sys.argv[1:4]
print("begun", flush=True)
print(Remote(uri, digest, StoreConfig(endpoint=endpoint, region="us-east-1", backoff=0.01)).here(), flush=True)
time.sleep(float(sys.argv[4]))
"""


def asking(one: Remote, endpoint: str | None = None, stays: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HERE, one.uri, one.digest, endpoint or str(one.store.endpoint), str(stays)],
        stdout=subprocess.PIPE,
        text=True,
    )


def large(s3: S3Server, store: Store, files: int = 12) -> Remote:
    where = f"s3://{s3.bucket()}/large"
    for number in range(files):
        store.put(f"{where}/part-{number:02d}", hashlib.sha256(bytes([number])).digest() * 8192)
    return remote(store, where)


def test_many_at_once_fetch_once(s3: S3Server, proxy: FaultyProxy, store: Store, cache: Path) -> None:
    one = large(s3, store)
    processes = [asking(one, proxy.endpoint) for _ in range(3)]
    said = {process.communicate(timeout=60)[0].split()[1] for process in processes}
    assert said == {str(cache / "folders" / one.digest)} and all(process.returncode == 0 for process in processes)
    assert len(bodies(proxy)) == 12


def test_what_a_killed_process_left_is_kept_and_never_used(s3: S3Server, proxy: FaultyProxy, store: Store, cache: Path) -> None:
    one, slow = large(s3, store, files=20), Slow(s3.endpoint)
    scratch = cache / "folders" / f".geobatch-{one.digest}"
    first = asking(one, slow.endpoint)
    deadline = time.monotonic() + 30
    while len(list(scratch.glob("part-*"))) < 11:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    slow.close()
    assert not (cache / "folders" / one.digest).exists()
    next(scratch.glob("part-*")).write_bytes(b"cut short")
    assert contents(dataclasses.replace(one, store=s3.config(endpoint=proxy.endpoint)).here()) == {
        f"part-{number:02d}": hashlib.sha256(bytes([number])).digest() * 8192 for number in range(20)
    }
    assert 0 < len(bodies(proxy)) < 20 and not left_over(cache)


def test_a_lost_network_is_the_machine_s_fault(uri: str, store: Store) -> None:
    one = dataclasses.replace(remote(store, uri), store=StoreConfig(endpoint="http://127.0.0.1:9", attempts=2, backoff=0.001))
    with pytest.raises(MachineError, match="failed 2 times"):
        one.here()
