"""What the store lists, or a manifest names, and does not give while the archive is planned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.errors import UserError
from geobatch.store import Denied, Store, Unreadable, Withheld
from tests.archive.reading import fates, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

Bucket = tuple[Store, str]


@pytest.fixture
def bucket(s3: S3Server, proxy: FaultyProxy) -> Bucket:
    """A store behind the proxy that is asked twice, and an empty bucket."""
    return Store(s3.config(endpoint=proxy.endpoint, attempts=2, backoff=0.001)), f"s3://{s3.bucket()}"


def refusing(proxy: FaultyProxy, status: int, code: str, names: str, methods: str = "GET") -> None:
    """Every such request for objects of these names is answered so."""
    asked = re.compile(rf"({methods}) /[^/?]+/({names})")
    proxy.check = lambda request: (status, code) if asked.fullmatch(f"{request.command} {request.path}") else None


@pytest.mark.parametrize(
    ("status", "code"), [(403, "InvalidObjectState"), (403, "AccessDenied"), (404, "NoSuchKey"), (412, "PreconditionFailed")]
)
def test_neighbours_that_may_be_parts_and_are_not_given_are_no_parts(
    bucket: Bucket, proxy: FaultyProxy, status: int, code: str
) -> None:
    store, uri = bucket
    for name in ("a.jpg", "dump00", "dump01", "part-00000", "part-00001", "part-00002"):
        store.put(f"{uri}/{name}", b"x" * 600)
    refusing(proxy, status, code, r"(dump|part-).*")
    [piece] = plan(store, ArchiveConfig(uri=uri))
    assert piece[1:4] == (6, 5, 0) and piece.table["uri"].to_pylist() == [f"{uri}/a.jpg"]
    proxy.spoiled = {"": "500"}  # a store that says nothing says nothing about them either
    with pytest.raises(Unreadable):
        list(plan(store, ArchiveConfig(uri=uri)))


def test_forbidden_ones_in_front_of_what_is_known_stop_no_night(bucket: Bucket, proxy: FaultyProxy) -> None:
    store, uri = bucket
    for name in ("0.jpg", "1.jpg", "2.jpg", "8.jpg", "9.jpg"):
        store.put(f"{uri}/{name}", b"x")
    refusing(proxy, 403, "AccessDenied", r"[012]\.jpg")
    config = ArchiveConfig(uri=uri)
    [shard] = shards(store, config, lambda pairs: [each.endswith("9.jpg") for each, _ in pairs])
    [piece] = slices(store, shard, config)
    assert piece.table["reason"].to_pylist() == ["unreadable"] * 3 + [None]
    with pytest.raises(Denied, match="grant it"):
        shards(store, config, lambda pairs: [False] * len(pairs))


@pytest.mark.parametrize("ending", ["zip", "parquet"])
def test_a_container_withheld_as_it_is_planned_is_not_called_damaged(bucket: Bucket, proxy: FaultyProxy, ending: str) -> None:
    store, uri = bucket
    data = make.zipped(make.images(["a.jpg"])) if ending == "zip" else make.parquet([make.picture(1)])
    store.put(f"{uri}/x.{ending}", data)
    refusing(proxy, 403, "InvalidObjectState", "x.*")
    config = ArchiveConfig(uri=uri)
    [shard] = shards(store, config)
    [piece] = slices(store, shard, config)
    assert piece.table["reason"].to_pylist() == ["unreadable"] and "restore it" in piece.table["detail"][0].as_py()
    proxy.check = lambda _: None
    [piece] = slices(store, shard, config)
    assert piece.table["reason"].to_pylist() == ["unreadable"]
    assert "withheld it when it was planned; run again with --retry-rejected unreadable" in piece.table["detail"][0].as_py()
    assert [*fates(rows(store, config)).values()] == [None]


def test_rows_of_a_manifest_that_the_store_withholds_cost_no_others(bucket: Bucket, proxy: FaultyProxy, tmp_path: Path) -> None:
    store, uri = bucket
    names = ["good.jpg", "sealed.jpg", "failing.jpg", "denied.jpg"]
    for name in names:
        store.put(f"{uri}/{name}", b"x")
    odd = ["https://host/x.jpg", "s3://", uri, "s3://no bucket at all/x.jpg", "/zero\0byte.jpg"]
    long = f"file://{tmp_path}/{'x' * 300}.jpg"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    loop = f"file://{tmp_path}/loop.jpg"
    store.put(f"{uri}/m.csv", "\n".join(["uri", *odd, long, loop, *names]).encode())
    refusing(proxy, 400, "InvalidRequest", "sealed.jpg", "GET|HEAD")  # under another's key (SSE-C)
    proxy.spoiled = {"failing.jpg": "500", "denied.jpg": "403"}
    found = rows(store, ArchiveConfig(uri=f"{uri}/m.csv"))
    assert {row["uri"]: row["reason"] for row in found.values()} == {
        **dict.fromkeys([*odd[:2], f"{uri}/", *odd[3:], long, loop], "missing"),
        f"{uri}/good.jpg": None,
        **{f"{uri}/{name}": "unreadable" for name in names[1:]},
    }
    said = {row["uri"]: row["detail"] for row in found.values()}
    assert (
        said["https://host/x.jpg"] == "'https://host/x.jpg' is of an unknown scheme; write s3://bucket/prefix or a local path"
    )
    assert "InvalidRequest" in said[f"{uri}/sealed.jpg"] and "InternalError" in said[f"{uri}/failing.jpg"]


@pytest.mark.parametrize("dead", ["", "jpg"])
def test_a_store_that_fails_for_row_after_row_of_a_manifest_ends_its_planning(
    bucket: Bucket, proxy: FaultyProxy, dead: str
) -> None:
    store, uri = bucket
    store.put(f"{uri}/m.csv", "\n".join(["uri", *(f"{number}.jpg" for number in range(300))]).encode())
    found, config = store.head(f"{uri}/m.csv"), ArchiveConfig(uri=f"{uri}/m.csv")
    assert found is not None
    if dead:
        proxy.spoiled = {"9.jpg": "500"}  # many, and never one behind the other
        assert len(rows(store, config)) == 300
        proxy.spoiled = {dead: "500"}
        with pytest.raises(Withheld, match="check the store's health"):
            list(plan(store, config))
        assert len({path for method, path, _ in proxy.requests if method == "HEAD"}) < 300 + 3
    else:
        proxy.spoiled = {"^HEAD.*": "500"}
        with pytest.raises(Unreadable) as raised:
            list(plan(store, config))
        assert not isinstance(raised.value, Withheld)


@pytest.mark.parametrize(("uri", "said"), [("https://host/{}.jpg", "unknown scheme"), ("s3://", "no bucket")])
def test_a_manifest_without_a_uri_is_refused(tmp_path: Path, uri: str, said: str) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["uri", *(uri.format(number) for number in range(5))]))
    with pytest.raises(UserError, match=said):
        list(plan(Store(), ArchiveConfig(uri=str(tmp_path / "m.csv"))))


def test_a_manifest_of_which_nothing_may_be_looked_at_is_refused(bucket: Bucket, proxy: FaultyProxy) -> None:
    store, uri = bucket
    store.put(f"{uri}/m.csv", b"uri\na.jpg\nb.jpg\n")
    proxy.spoiled = {"[ab].jpg": "403"}
    with pytest.raises(Denied):
        list(plan(store, ArchiveConfig(uri=f"{uri}/m.csv"), lambda pairs: [True] * len(pairs)))


def test_rights_that_were_taken_away_stop_the_night_after_a_good_one(bucket: Bucket, proxy: FaultyProxy) -> None:
    store, uri = bucket
    for name in ("0.jpg", "1.jpg", "9.jpg"):
        store.put(f"{uri}/{name}", b"x")
    refusing(proxy, 403, "AccessDenied", r".*\.jpg")
    with pytest.raises(Denied):
        shards(store, ArchiveConfig(uri=uri), lambda pairs: [each.endswith("9.jpg") for each, _ in pairs])


def test_a_container_of_a_manifest_is_never_fetched_as_an_image(bucket: Bucket, proxy: FaultyProxy) -> None:
    """Nobody knows its size, and all of it would be in memory; an image of unknown size is asked for it first."""
    store, uri = bucket
    store.put(f"{uri}/m.csv", b"uri\nx.tar\nlarge.jpg\nsmall.jpg\ngone.tar\n")
    for name, size in (("x.tar", 600), ("large.jpg", 600), ("small.jpg", 60)):
        store.put(f"{uri}/{name}", b"x" * size)
    proxy.spoiled = {"HEAD .*(large|small).jpg": "500", "HEAD .*x.tar": "500"}
    config = ArchiveConfig(uri=f"{uri}/m.csv", max_bytes=100)
    pieces = shards(store, config)
    proxy.spoiled = {}
    proxy.requests.clear()
    found = {row["uri"][len(uri) + 1 :]: row["reason"] for shard in pieces for piece in slices(store, shard, config)
             for row in piece.table.to_pylist()}  # fmt: skip
    assert found == {"x.tar": "unreadable", "large.jpg": "too_large", "small.jpg": None, "gone.tar": "missing"}
    assert not any(method == "GET" and re.search("x.tar|large", path) for method, path, _ in proxy.requests)
