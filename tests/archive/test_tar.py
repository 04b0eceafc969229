"""Tars: plain, gzipped, awkwardly named, damaged, resumed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import escaped
from geobatch.archive.shard import NOTHING, read_shard
from geobatch.errors import MachineError
from geobatch.store import Store, StoreConfig, Unreadable
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

STORE = Store()


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_odd_names_are_only_names(tmp_path: Path, kind: int, ending: str) -> None:
    members = make.images()
    data = make.tar(members, kind)
    uri = put(tmp_path, f"a #1.{ending}", data if ending == "tar" else make.gz(data))
    found = rows(STORE, ArchiveConfig(uri=str(tmp_path), shard_rows=4))
    numbered = {"tilde~2.jpg": "tilde~2.jpg", "~2.jpg": "~2.jpg"}
    assert {key: row["bytes"] for key, row in found.items()} == {
        f"{escaped(uri)}#{escaped(numbered.get(name, name))}": data for name, data in members
    }
    assert {row["uri"] for row in found.values()} == {uri}
    assert {row["etag"] for row in found.values()} == {STORE.head(uri).etag}  # type: ignore[union-attr]
    assert len(list(tmp_path.rglob("*"))) == 1 and not (tmp_path.parent / "escape.jpg").exists()


def test_ustar_and_names_that_are_no_utf8(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        for name in ("café.jpg", "caf\\xe9.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    put(tmp_path, "x.tar", file.getvalue())
    assert list(fates(rows(STORE, ArchiveConfig(uri=str(tmp_path))))) == ["caf\\xe9.jpg", "caf\\xe9.jpg~2"]


def test_a_webdataset_samples_images_are_its_images_and_sidecars_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "x.tar", make.tar(make.webdataset(10)))
    config = ArchiveConfig(uri=str(tmp_path), shard_rows=4)
    [shard] = shards(STORE, config)
    pieces = slices(STORE, shard, config)
    assert [len(piece.table) for piece in pieces] == [4, 4, 2]
    assert sum(piece.skipped for piece in pieces) == 21  # two sidecars each, and a folder called folder.jpg
    sidecars = ArchiveConfig(uri=str(tmp_path), include=("*.json", "*.jpg"), exclude=("00000[0-4]*",))
    assert set(fates(rows(STORE, sidecars))) == {f"00000{n}.{ending}" for n in range(5, 10) for ending in ("jpg", "json")}


def test_slices_are_bounded_in_bytes_and_one_large_image_stands_alone(tmp_path: Path) -> None:
    put(
        tmp_path,
        "x.tar",
        make.tar([(f"{n}.jpg", b"x" * size) for n, size in enumerate([400, 500, 200, 3000, 10, 5000, 20])]),
    )
    config = ArchiveConfig(uri=str(tmp_path), shard_bytes=1000, max_bytes=4000)
    [shard] = shards(STORE, config)
    pieces = slices(STORE, shard, config)
    assert [piece.table["size"].to_pylist() for piece in pieces] == [[400, 500], [200], [3000], [10, 5000, 20]]
    assert pieces[-1].table["reason"].to_pylist() == [None, "too_large", None]


def test_repeated_names_links_and_empty_members(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("a.jpg~2", b"no image by name"), ("a.jpg", b"2"), ("e.jpg", b""), ("a.jpg", b"3")]
    put(tmp_path, "x.tar", make.tar(members, links=[("link.jpg", "a.jpg")]))
    found = rows(STORE, ArchiveConfig(uri=str(tmp_path), include=("a.jpg*", "*.jpg")))
    assert fates(found) == {
        "a.jpg": None, "a.jpg%7E2": None, "a.jpg~2": None, "e.jpg": "empty", "a.jpg~3": None, "link.jpg": "empty",
    }  # fmt: skip
    assert [row["bytes"] for key, row in found.items() if key.endswith("a.jpg~3")] == [b"3"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_tar_gives_what_was_before(tmp_path: Path, zipped: bool) -> None:
    members = make.images([f"{n}.jpg" for n in range(10)])
    data = make.tar(members)
    for cut in (make.header_at(data, "5.jpg") + 600, make.header_at(data, "5.jpg") + 100):
        whole = data[:cut]
        uri = put(tmp_path, "x.tar.gz" if zipped else "x.tar", make.gz(whole) if zipped else whole)
        found = rows(STORE, ArchiveConfig(uri=str(tmp_path), shard_rows=3))
        assert fates(found) == {**{f"{n}.jpg": None for n in range(5)}, uri.rpartition("/")[2]: "broken_archive"}
        assert found[uri]["size"] is None and "byte" in found[uri]["detail"]


def test_a_broken_gzip_stream_gives_what_was_before(tmp_path: Path) -> None:
    data = make.gz(make.tar([(f"{n}.jpg", make.picture(n, 64)) for n in range(60)]))
    for broken in (data[:-700], make.damaged(data, len(data) - 700, 300)):
        uri = put(tmp_path, "x.tgz", broken)
        found = list(rows(STORE, ArchiveConfig(uri=uri)).values())
        assert len(found) > 10 and found[-1]["image_id"] == uri and found[-1]["reason"] == "broken_archive"
        assert all(row["reason"] is None for row in found[:-1])


def test_a_damaged_header_is_not_an_end(tmp_path: Path) -> None:
    """The standard library would stop here as if the archive were over."""
    data = make.tar(make.images([f"{n}.jpg" for n in range(10)]))
    broken = make.damaged(data, make.header_at(data, "7.jpg") + 20)
    with tarfile.open(fileobj=io.BytesIO(broken)) as archive:
        assert len(archive.getnames()) == 8  # a folder and seven images, and not a word
    uri = put(tmp_path, "x.tar", broken)
    found = rows(STORE, ArchiveConfig(uri=uri, shard_rows=7))
    assert fates(found) == {**{f"{n}.jpg": None for n in range(7)}, "x.tar": "broken_archive"}


@pytest.mark.parametrize("junk", [b"no tar at all" * 100, b"\x1f\x8bno gzip", b"short", b"\xff" * 2048])
def test_what_is_no_tar_is_one_row(tmp_path: Path, junk: bytes) -> None:
    uri = put(tmp_path, "x.tar", junk)
    assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"x.tar": "broken_archive"}


def test_an_empty_file_and_a_tar_of_nothing(tmp_path: Path) -> None:
    put(tmp_path, "empty.tar", b"")
    put(tmp_path, "nothing.tar", b"\0" * 10240)
    assert fates(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == {"empty.tar": "empty"}


def test_tars_without_an_end_behind_one_another_and_with_junk_behind(tmp_path: Path) -> None:
    one, two = (make.tar(make.images([f"{n}.jpg"])) for n in (1, 2))
    put(tmp_path, "open.tar", one[: len(one.rstrip(b"\0")) // 512 * 512 + 512])
    put(tmp_path, "both.tar", one + two)
    put(tmp_path, "junk.tar", one + b"\xffjunk" * 1000)
    put(tmp_path, "zipped.tgz", make.gz(one) + b"junk behind gzip")
    found = rows(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert [key.rpartition("/")[2] for key in found] == [
        "both.tar#1.jpg",
        "both.tar#2.jpg",
        "junk.tar#1.jpg",
        "open.tar#1.jpg",
        "zipped.tgz#1.jpg",
    ]


def test_headers_that_lie_are_damage(tmp_path: Path) -> None:
    """A header of a gigabyte, and one whose size points backwards, neither read into memory nor for ever."""
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    back = bytearray(tarfile.TarInfo("x.jpg").tobuf())
    back[124:136] = (-(1 << 20)).to_bytes(12, "big", signed=True)
    back[148:156] = b"%06o\0 " % (sum(back[:148]) + 8 * 32 + sum(back[156:512]))
    for header in (huge.tobuf(), bytes(back)):
        uri = put(tmp_path, "x.tar", header + b"\0" * 4096)
        assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"x.tar": "broken_archive"}


def test_sparse_members_come_whole(tmp_path: Path) -> None:
    """An old GNU sparse header: 512 bytes of data in the middle of 2048."""
    info = tarfile.TarInfo("s.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[124:136] = b"%011o\0" % 512
    header[386:410] = b"%011o\0%011o\0" % (1024, 512)
    header[483:495] = b"%011o\0" % 2048
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    uri = put(tmp_path, "x.tar", bytes(header) + b"d" * 512 + b"\0" * 1024)
    [row] = rows(STORE, ArchiveConfig(uri=uri)).values()
    assert row["bytes"] == b"\0" * 1024 + b"d" * 512 + b"\0" * 512


def test_what_is_too_large_is_not_downloaded(s3: S3Server, proxy: FaultyProxy) -> None:
    server, uri = Store(s3.config()), f"s3://{s3.bucket()}/x.tar"
    large = 18 << 20
    server.put(uri, make.tar([("a.jpg", b"a"), ("b.jpg", b"b" * large), ("c.npy", b"c" * large), ("d.jpg", b"d")]))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri, max_bytes=1 << 20)
    assert fates(rows(store, config)) == {"a.jpg": None, "b.jpg": "too_large", "d.jpg": None}
    starts = [span for method, _, span in proxy.requests if method == "GET" and span not in (None, "bytes=0-0", "bytes=0-1")]
    assert len(starts) == 2 and starts[1] > f"bytes={2 * large}"


def test_a_resumed_read_begins_at_the_slice(s3: S3Server, proxy: FaultyProxy) -> None:
    server, uri = Store(s3.config()), f"s3://{s3.bucket()}/x.tar"
    server.put(uri, make.tar([(f"{n}.jpg", make.picture(n)) for n in range(12)]))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri, shard_rows=3)
    [shard] = shards(store, config)
    whole = slices(store, shard, config)
    proxy.requests.clear()
    done = {0: whole[0].end, 2: whole[2].end}
    rest = slices(store, shard, config, done, set)
    assert rest == [whole[1], whole[3]]
    spans = [span for method, _, span in proxy.requests if span != "bytes=0-1"]
    assert spans == [f"bytes={whole[0].end}-", f"bytes={whole[2].end}-"]
    assert slices(store, shard, config, {n: piece.end for n, piece in enumerate(whole)}) == []


def test_a_tar_replaced_or_deleted_meanwhile_is_a_row(tmp_path: Path) -> None:
    data = make.tar(make.images([f"{n}.jpg" for n in range(9)]))
    uri = put(tmp_path, "x.tar", data)
    config = ArchiveConfig(uri=uri, shard_rows=2)
    [shard] = shards(STORE, config)
    whole = slices(STORE, shard, config)
    for change, reason in (
        (lambda: put(tmp_path, "x.tar", data + b"\0"), "changed"),
        ((tmp_path / "x.tar").unlink, "missing"),
    ):
        change()
        [piece] = slices(STORE, shard, config)
        assert piece.last and piece.table["reason"].to_pylist() == [reason] and piece.table["image_id"].to_pylist() == [uri]
        # Slices 1 and 3 of five were committed: the row stands in the first that is not, the others close the gaps.
        done = {1: whole[1].end, 3: whole[3].end}
        rest = list(read_shard(STORE, shard, config, done))
        assert [(piece.number, piece.last, len(piece.table)) for piece in rest] == [
            (0, False, 1),
            (2, False, 0),
            (4, True, 0),
        ]
        rest = list(read_shard(STORE, shard, config, {1: whole[1].end, 4: NOTHING}))
        assert [(piece.number, piece.last, len(piece.table)) for piece in rest] == [
            (0, False, 1),
            (2, False, 0),
            (3, False, 0),
        ]


def test_a_store_that_fails_in_the_middle_is_raised_and_what_was_yielded_stands(s3: S3Server, proxy: FaultyProxy) -> None:
    uri = f"s3://{s3.bucket()}/x.tar"
    Store(s3.config()).put(uri, make.tar([(f"{n}.jpg", b"x" * (1 << 20)) for n in range(8)]))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001, attempts=3))
    config = ArchiveConfig(uri=uri, shard_rows=1)
    [shard] = shards(store, config)
    proxy.method = ""
    proxy.faults.extend(["", "cut", *["503"] * 20])
    yielded = []
    with pytest.raises(Unreadable):
        for piece in read_shard(store, shard, config):
            yielded.append(piece.number)
    assert yielded == [0, 1, 2, 3]  # half of it came


def test_a_tar_that_alone_is_withheld_ends_with_a_row_that_says_so(s3: S3Server, proxy: FaultyProxy) -> None:
    uri = f"s3://{s3.bucket()}/x.tar"
    Store(s3.config()).put(uri, make.tar([(f"{n}.jpg", b"x" * (1 << 20)) for n in range(8)]))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.001, attempts=3))
    config = ArchiveConfig(uri=uri)
    [shard] = shards(store, config)
    proxy.faults.extend(["", "cut", *["503"] * 20])  # of GETs only: the bucket answers
    [piece] = read_shard(store, shard, config)
    assert piece.table["image_id"].to_pylist() == [*(f"{uri}#{n}.jpg" for n in range(4)), uri]
    assert piece.table["reason"].to_pylist() == [None] * 4 + ["unreadable"]


def test_real_shards_of_others(realdata: Path) -> None:
    folder = realdata / "archives"
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        with tarfile.open(folder / name) as archive:
            truth = {
                member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isreg() and member.name.endswith((".jpg", ".png"))
            }
        config = ArchiveConfig(uri=str(folder / name), shard_rows=7)
        [shard] = shards(STORE, config)
        pieces = slices(STORE, shard, config)
        found = {row["image_id"].partition("#")[2]: row["bytes"] for piece in pieces for row in piece.table.to_pylist()}
        assert found == truth
    assert len(names) == 7


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_headers_upon_headers_are_damage(tmp_path: Path, kind: bytes) -> None:
    """The library goes one deeper for each header that only says how the next is called."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 512
    chained = (info.tobuf() + b"13 path=x.jpg".ljust(511) + b"\n") * 2000
    whole = make.tar(make.images(["a.jpg"]))
    at = make.header_at(whole, "a.jpg") + 512
    at += -(-len(make.picture(0)) // 512) * 512
    uri = put(tmp_path, "x.tar", whole[:at] + chained)
    found = rows(STORE, ArchiveConfig(uri=uri))
    assert fates(found) == {"a.jpg": None, "x.tar": "broken_archive"} and "RecursionError" in found[uri]["detail"]


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.tar", make.tar([]))
    [shard] = shards(STORE, ArchiveConfig(uri=uri))
    odd = shard.set_column(1, shard.schema.field("kind"), [["7z"]])
    with pytest.raises(MachineError, match="another version"):
        list(read_shard(STORE, odd, ArchiveConfig(uri=uri)))
