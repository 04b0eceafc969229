"""Loose objects: what each store's answer makes of a row, and whose fault it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.prefix import fate_of
from geobatch.archive.source import Read
from geobatch.pipeline.frozen import freeze
from geobatch.sink import open_run
from geobatch.store import Changed, Denied, NotFound, Store, StoreConfig, Unreadable, Withheld
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

STORE = Store()


def test_odd_keys_of_a_bucket(s3: S3Server) -> None:
    store, base = Store(s3.config()), f"s3://{s3.bucket()}/my photos"
    # A newline in a key is more than the test server can route.
    members = make.images([name for name in make.NAMES if name[0] not in "./" and "\n" not in name] + ["../up.jpg"])
    for name, data in members:
        store.put(f"{base}/{name}", data)
    store.put(f"{base}/", b"")
    found = rows(store, ArchiveConfig(uri=base, shard_rows=5))
    assert {key: row["bytes"] for key, row in found.items()} == {
        f"{base}/{name}".replace("%", "%25").replace("#", "%23"): data for name, data in members
    }


def test_missing_changed_empty_and_too_large(tmp_path: Path) -> None:
    for name, data in (("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c"), ("d.jpg", b""), ("e.jpg", b"e" * 2000)):
        put(tmp_path, name, data)
    config = ArchiveConfig(uri=str(tmp_path), max_bytes=1000)
    [shard] = shards(STORE, config)
    (tmp_path / "b.jpg").unlink()
    put(tmp_path, "c.jpg", b"other")
    [piece] = slices(STORE, shard, config)
    assert piece.table["reason"].to_pylist() == [None, "missing", "changed", "empty", "too_large"]
    assert piece.table["size"].to_pylist() == [1, 1, 1, 0, 2000]
    assert fates(rows(STORE, config)) == {
        "a.jpg": None, "c.jpg": None, "d.jpg": "empty", "e.jpg": "too_large",
    }  # fmt: skip


def test_one_unreadable_object_is_a_row_and_all_of_them_are_the_store(s3: S3Server, proxy: FaultyProxy) -> None:
    base = f"s3://{s3.bucket()}/x"
    for number in range(3):
        Store(s3.config()).put(f"{base}/{number}.jpg", b"x")
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001, attempts=2, in_flight=1))
    config = ArchiveConfig(uri=base)
    [shard] = shards(store, config)
    proxy.faults.extend(["", "503", "503"])
    [piece] = slices(store, shard, config)
    assert piece.table["reason"].to_pylist() == [None, "unreadable", None]
    assert "SlowDown" in piece.table["detail"][1].as_py()
    proxy.faults.extend(["503"] * 6)
    with pytest.raises(Unreadable):
        slices(store, shard, config, None, None, False)
    proxy.check = lambda request: (403, "InvalidObjectState") if request.command == "GET" else None
    [piece] = slices(store, shard, config)  # an answer that is final is no fault of the store, however many get it
    assert piece.table["reason"].to_pylist() == ["unreadable"] * 3
    assert "restore it first" in piece.table["detail"][0].as_py()


def test_neighbours_that_share_a_fate_are_rows_in_the_end_and_never_where_the_store_is_silent(
    s3: S3Server, proxy: FaultyProxy
) -> None:
    base = f"s3://{s3.bucket()}/x"
    for number in range(2):
        Store(s3.config()).put(f"{base}/{number}.jpg", b"x")
    config, reach = ArchiveConfig(uri=base), s3.config(endpoint=proxy.endpoint, attempts=2, backoff=0.001)
    [shard] = shards(Store(reach), config)
    for fault, kind in (("500", Withheld), ("cut", Withheld), ("403", Denied)):
        proxy.spoiled = {r"^GET .*jpg$": fault}
        with pytest.raises(kind):
            slices(Store(reach), shard, config, None, None, False)
        [piece] = slices(Store(reach), shard, config)
        assert piece.table["reason"].to_pylist() == ["unreadable"] * 2
    proxy.spoiled = {"": "500"}
    with pytest.raises(Unreadable) as raised:
        slices(Store(reach), shard, config)
    assert not isinstance(raised.value, Withheld)


def test_a_reader_leaves_out_what_it_cannot_read_and_asks_once_more(s3: S3Server, proxy: FaultyProxy, tmp_path: Path) -> None:
    base, output = f"s3://{s3.bucket()}/x", str(tmp_path)
    for number in range(12):
        Store(s3.config()).put(f"{base}/{number:02}.jpg", b"x")
    config, reach = ArchiveConfig(uri=base, shard_rows=2), s3.config(endpoint=proxy.endpoint, attempts=2, backoff=0.001)
    run, _ = open_run(Store(), output, method="geotoken", fingerprint="f", archive={})
    frozen = freeze(run, config, Store(), None, source=Store(reach))
    assert frozen is not None
    tasks = pa.concat_tables(run.remaining(frozen))

    def read(fault: str, *bad: int, last: bool = False) -> dict[int, list[str | None]]:
        """Each shard that comes, and the reasons of its rows."""
        proxy.spoiled = {f"^GET .*({'|'.join(f'{number:02}' for number in bad)}).jpg$": fault} if bad else {}
        return {piece.shard: piece.rows["reason"].to_pylist() for piece in Read(config, reach, StoreConfig(), last=last)(tasks)}

    fine: list[str | None] = [None, None]
    assert read("500", 0, 1, 2, 3, 6, 7) == {2: fine, 4: fine, 5: fine}
    assert read("403", 0, 1, 2, 3, 6, 7, last=True) == {
        shard: ["unreadable"] * 2 if shard in (0, 1, 3) else fine for shard in range(6)
    }
    assert read("403", *range(4, 12)) == {0: fine, 1: fine}  # what was read proves the rights
    assert read("403", *range(4)) == {2: fine, 3: fine, 4: fine, 5: fine}
    with pytest.raises(Denied, match=r"grant it to these credentials"):
        read("403", *range(6))
    for bad in (range(6), range(4, 12)):
        with pytest.raises(Withheld):
            read("cut", *bad)


def test_answers_and_their_reasons() -> None:
    reasons = {NotFound: "missing", Changed: "changed", Denied: "unreadable", Unreadable: "unreadable", Withheld: "unreadable"}
    assert {kind: fate_of(kind("x")).reason for kind in reasons} == reasons
