"""Zips: directories of every kind, members that are broken, encrypted, or bombs."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.archive import zip as zips
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import escaped
from geobatch.errors import UserError
from geobatch.store import Store, StoreConfig
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

STORE = Store()
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("in_front", [b"", b"#!/bin/sh\n" * 99])
def test_odd_names_in_every_compression(tmp_path: Path, method: int, in_front: bytes) -> None:
    members = make.images()
    uri = put(tmp_path, "100%.zip", make.zipped(members, method, in_front))
    found = rows(STORE, ArchiveConfig(uri=str(tmp_path), shard_rows=5))
    assert {key: row["bytes"] for key, row in found.items()} == {f"{escaped(uri)}#{escaped(n)}": data for n, data in members}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=9), st.binary(max_size=50)), max_size=12),
    st.sampled_from(METHODS),
    st.binary(max_size=30).filter(lambda data: b"PK" not in data),
    st.binary(max_size=30).filter(lambda data: b"PK" not in data),
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_the_directory_is_what_zipfile_reads(
    members: list[tuple[str, bytes]], method: int, in_front: bytes, comment: bytes
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            try:
                name.encode()
            except UnicodeEncodeError:
                continue
            archive.writestr(zipfile.ZipInfo(name.replace("\0", "0")), data, method)
        archive.comment = comment
    whole = in_front + file.getvalue()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        truth = [(info.orig_filename, info.file_size) for info in archive.infolist()]
    assert [(entry.name, entry.size) for entry in zips.entries(io.BytesIO(whole), len(whole))] == truth


def test_streamed_and_64_bit_members(tmp_path: Path) -> None:
    """Written to a pipe, sizes stand behind the data; forced to 64 bits, they stand in an extra field."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    file = Pipe()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in make.images(["a.jpg", "b.jpg"]):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    put(tmp_path, "x.zip", file.getvalue())
    found = rows(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert [row["bytes"] for row in found.values()] == [data for _, data in make.images(["a.jpg", "b.jpg"])]


def test_a_64_bit_directory(tmp_path: Path) -> None:
    members = make.images(["a.jpg", "b.jpg"])
    whole = make.zipped(members)
    count, _, length, start = struct.unpack("<HHLL", whole[-14:-2] if whole[-2:] == b"\0\0" else b"")
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(whole) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    put(tmp_path, "x.zip", whole[:-22] + end64 + locator + end)
    assert fates(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == {"a.jpg": None, "b.jpg": None}
    assert count == 2


def test_a_broken_encrypted_lying_or_odd_member_costs_no_neighbour(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "crc.jpg",
        "b.jpg",
        "deflate.jpg",
        "secret.jpg",
        "c.jpg",
        "small.jpg",
        "method.jpg",
        "local.jpg",
        "d.jpg",
    ]
    whole = make.zipped(make.images(names))
    _, _, entry = make.zip_fields(whole, "crc.jpg")
    whole = make.damaged(whole, entry + 16)  # the checksum
    _, data, _ = make.zip_fields(whole, "deflate.jpg")
    whole = make.damaged(whole, data, 40)
    whole = make.encrypted(whole, "secret.jpg")
    whole = make.understated(whole, "small.jpg", 20)
    local, _, entry = make.zip_fields(whole, "method.jpg")
    whole = make.damaged(whole, entry + 10, 1)
    local, _, _ = make.zip_fields(whole, "local.jpg")
    whole = make.damaged(whole, local, 4)
    put(tmp_path, "x.zip", whole)
    assert fates(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == {
        "a.jpg": None, "crc.jpg": "broken_archive", "b.jpg": None, "deflate.jpg": "broken_archive",
        "secret.jpg": "unsupported", "c.jpg": None, "small.jpg": "broken_archive", "method.jpg": "unsupported",
        "local.jpg": "broken_archive", "d.jpg": None,
    }  # fmt: skip


@pytest.mark.parametrize("honest", [True, False])
def test_a_bomb_is_not_inflated(tmp_path: Path, honest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make.zipped([("bomb.jpg", b"\0" * (20 << 20)), ("b.jpg", b"b")])
    if not honest:
        whole = make.understated(whole, "bomb.jpg", 1000)
    put(tmp_path, "x.zip", whole)
    largest = 0
    read = zipfile.ZipExtFile.read

    def measured(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal largest
        data = read(self, n)
        largest = max(largest, len(data))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", measured)
    found = fates(rows(STORE, ArchiveConfig(uri=str(tmp_path), max_bytes=1 << 20)))
    assert found == {"bomb.jpg": "too_large" if honest else "broken_archive", "b.jpg": None}
    assert largest <= 1000


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("stated", [1000, 100_000])
def test_a_bomb_takes_no_more_memory_than_it_states(tmp_path: Path, method: int, stated: int) -> None:
    whole = make.zipped([("bomb.jpg", b"\0" * (32 << 20)), ("b.jpg", b"b")], method)
    put(tmp_path, "x.zip", make.understated(whole, "bomb.jpg", stated))
    config = ArchiveConfig(uri=str(tmp_path))
    [shard] = shards(STORE, config)
    tracemalloc.start()
    try:
        [piece] = slices(STORE, shard, config)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert piece.table["reason"].to_pylist() == ["broken_archive", None]
    assert most < 6 << 20  # the blocks of bzip2 itself are of 900,000 bytes, four at a time; the bomb is of 32 MiB


@pytest.mark.parametrize("method", METHODS[2:])
@pytest.mark.parametrize("wrong", ["checksum", "more stated", "cut", "properties"])
def test_bzip2_and_lzma_are_compared_with_what_is_stated(tmp_path: Path, method: int, wrong: str) -> None:
    whole = make.zipped(make.images(["a.jpg", "b.jpg"]), method)
    _, data, entry = make.zip_fields(whole, "a.jpg")
    if wrong == "checksum":
        whole = make.damaged(whole, entry + 16)
    elif wrong == "more stated":
        whole = make.understated(whole, "a.jpg", 100_000)
    elif wrong == "cut":
        whole = whole[: entry + 20] + struct.pack("<L", 9) + whole[entry + 24 :]
    else:
        whole = make.damaged(whole, data, 8)
    put(tmp_path, "x.zip", whole)
    assert fates(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == {"a.jpg": "broken_archive", "b.jpg": None}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_repeated_and_skipped_names_and_folders(tmp_path: Path) -> None:
    put(tmp_path, "x.zip", make.zipped([("d/", b""), ("a.jpg", b"1"), ("a.jpg", b"2"), ("n.txt", b"3"), ("e.jpg", b"")]))
    config = ArchiveConfig(uri=str(tmp_path))
    found = rows(STORE, config)
    assert fates(found) == {"a.jpg": None, "a.jpg~2": None, "e.jpg": "empty"}
    assert [row["bytes"] for row in found.values()] == [b"1", b"2", None]
    [shard] = shards(STORE, config)
    assert [piece.skipped for piece in slices(STORE, shard, config)] == [0]  # they were counted by the planner


def test_what_is_no_zip_is_one_row_and_a_damaged_directory_keeps_what_stands_before(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.zip", b"no zip" * 100)
    assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"x.zip": "broken_archive"}
    whole = make.zipped(make.images(["a.jpg", "b.jpg", "c.jpg"]))
    _, _, entry = make.zip_fields(whole, "b.jpg")
    put(tmp_path, "x.zip", make.damaged(whole, entry))
    assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"a.jpg": None, "x.zip": "broken_archive"}
    put(tmp_path, "x.zip", whole[:-30])
    assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"x.zip": "broken_archive"}
    put(tmp_path, "x.zip", make.zipped([("readme.txt", b"")]))
    with pytest.raises(UserError, match="is an image by its name"):
        rows(STORE, ArchiveConfig(uri=uri))


def test_a_zip_replaced_or_deleted_meanwhile(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.zip", make.zipped(make.images(["a.jpg", "b.jpg"])))
    config = ArchiveConfig(uri=uri)
    [shard] = shards(STORE, config)
    put(tmp_path, "x.zip", make.zipped(make.images(["a.jpg", "c.jpg", "d.jpg"])))
    [piece] = slices(STORE, shard, config)
    assert piece.table["reason"].to_pylist() == ["changed", "changed"]
    (tmp_path / "x.zip").unlink()
    [piece] = slices(STORE, shard, config)
    assert piece.table["reason"].to_pylist() == ["missing", "missing"]


def test_a_shard_of_a_large_zip_reads_its_own_part(s3: S3Server, proxy: FaultyProxy) -> None:
    server, uri = Store(s3.config()), f"s3://{s3.bucket()}/x.zip"
    server.put(uri, make.zipped([(f"{n}.jpg", bytes([n]) * (1 << 20)) for n in range(40)], zipfile.ZIP_STORED))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri, shard_rows=4)
    planned = shards(store, config)
    assert len(planned) == 10 and len(proxy.requests) < 10
    proxy.requests.clear()
    proxy.faults.extend(["cut", "503"])
    [piece] = slices(store, planned[5], config)
    assert [data[0] for data in piece.table["bytes"].to_pylist()] == [20, 21, 22, 23]
    spans = [span.removeprefix("bytes=").split("-") for _, _, span in proxy.requests if span]
    assert sum(int(end) - int(start) + 1 for start, end in spans) < 9 << 20 and len(spans) < 12
