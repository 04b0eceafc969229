"""A tar in byte parts: however it is cut, every member comes exactly once, and what is wrong with a part is said."""

from __future__ import annotations

import random
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from geobatch.archive import cut as cutting
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.cut import cut
from geobatch.archive.shard import NOTHING, read_shard
from geobatch.errors import UserError
from geobatch.store import Object, Store, StoreConfig
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

STORE = Store()


def split(folder: Path, data: bytes, borders: Sequence[int], stem: str = "x.tar.") -> list[str]:
    """Writes the parts between the borders as `STEM00` and on; their URIs."""
    borders = [0, *sorted(borders), len(data)]
    return [put(folder, f"{stem}{n:02}", data[start:end]) for n, (start, end) in enumerate(pairwise(borders))]


def content(found: dict[str, dict[str, Any]]) -> Counter[tuple[str, bytes | None, str | None]]:
    """What was read, by the members' names: which part an image is named by depends on the cut."""
    return Counter((key.partition("#")[2].partition("~")[0], row["bytes"], row["reason"]) for key, row in found.items())


LONG = "folder with a name that no ustar header holds/" * 6
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["a.jpg", "b.jpg", LONG + "c.jpg", "x.json", "d/", "ä.png"]), st.integers(0, 5000)), max_size=14
)


@settings(max_examples=80, deadline=None)
@given(
    members=MEMBERS,
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    limits=st.tuples(st.sampled_from([4096, 8192, 2 << 20]), st.sampled_from([1 << 10, 64 << 20])),
    sizes=st.fixed_dictionaries({"shard_rows": st.integers(1, 9), "shard_bytes": st.integers(1, 9000)}),
    nested=st.booleans(),
    data=st.data(),
)
def test_however_it_is_cut_each_member_comes_once(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[str, int]],
    kind: int,
    places: list[float],
    limits: tuple[int, int],
    sizes: dict[str, int],
    nested: bool,
    data: st.DataObject,
) -> None:
    """And resumed after any of its slices it gives exactly the rest."""
    filled = [(name, b"%d " % n + b"x" * size if size else b"") for n, (name, size) in enumerate(members)]
    if nested:
        filled.insert(len(filled) // 2, ("in.tar", make.tar([(f"{n}.jpg", b"y" * 700) for n in range(9)], kind)))
    whole = make.tar(filled, kind)
    folder = tmp_path_factory.mktemp("cut")
    split(folder / "parts", whole, [round(place * len(whole)) for place in places])
    joined = ArchiveConfig(uri=put(folder, "whole.tar", whole), max_bytes=4000, **sizes)
    config = ArchiveConfig(uri=str(folder / "parts"), max_bytes=4000, **sizes)
    found: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "BACK", limits[0])
        patch.setattr(cutting, "AHEAD", limits[1])
        planned = shards(STORE, ArchiveConfig(uri=config.uri))
        assert len(planned) == len(places) + 1
        event(f"{sum(shard['offset'][0].as_py() < shard['size'][0].as_py() for shard in planned)} readers")
        try:
            for shard in planned:
                pieces = slices(STORE, shard, config)
                done = data.draw(st.sets(st.sampled_from(range(len(pieces)))), label="done")
                seen = {image_id for number in done for image_id in pieces[number].table["image_id"].to_pylist()}
                rest = slices(STORE, shard, config, {number: pieces[number].end for number in done}, seen.copy)
                assert rest == [piece for piece in pieces if piece.number not in done]
                for row in pa.concat_tables([piece.table for piece in pieces]).to_pylist():
                    assert row["image_id"] not in found and row["uri"] == shard["uri"][0].as_py()
                    found[row["image_id"]] = row
        except UserError as error:
            assert nested and "is there a tar within the tar?" in str(error)
            event("refused")
            return
    assert content(found) == content(rows(STORE, joined))


def test_a_reader_reads_its_part_and_no_more_than_its_last_member_of_the_next(s3: S3Server, proxy: FaultyProxy) -> None:
    """The parts are read from S3, each from where its members begin."""
    whole = make.tar([(f"{n:02}.jpg", random.Random(n).randbytes(300_000)) for n in range(20)])
    server, uri = Store(s3.config()), f"s3://{s3.bucket()}"
    for number in range(3):
        server.put(f"{uri}/big{number:02}", whole[number * 2_100_001 : (number + 1) * 2_100_001])
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri)
    planned = shards(store, config)
    assert [[row["uri"][-5:] for row in shard.to_pylist()] for shard in planned] == [
        ["big00", "big01"], ["big01", "big02"], ["big02"]
    ]  # fmt: skip
    counts = []
    for shard in planned:
        proxy.requests.clear()
        [piece] = slices(store, shard, config)
        counts.append(len(piece.table))
        begin, names = shard["offset"][0].as_py(), [uri[-5:] for uri in shard["uri"].to_pylist()]
        asked = [(path[-5:], span) for method, path, span in proxy.requests if method == "GET" and span != "bytes=0-1"]
        assert asked == [(names[0], f"bytes={begin}-" if begin else None), *((name, None) for name in names[1:])]
    assert sum(counts) == 20 and min(counts) >= 5


def test_a_part_behind_a_closed_tar_is_another_tar(tmp_path: Path) -> None:
    """Tars that are whole each, under the names of parts, with padding of another length behind each."""
    tars = [make.tar(make.images([f"{n}.jpg", f"{n}b.jpg"])) + b"\0" * 512 * n for n in range(4)]
    for number, data in enumerate(tars):
        put(tmp_path, f"x.tar.{number}", data)
    assert list(fates(rows(STORE, ArchiveConfig(uri=str(tmp_path))))) == [
        name for n in range(4) for name in (f"{n}.jpg", f"{n}b.jpg")
    ]


def test_gzipped_parts_are_read_by_one(tmp_path: Path) -> None:
    members = [(f"{n}.jpg", make.picture(n, 64)) for n in range(60)]
    data = make.gz(make.tar(members))
    split(tmp_path, data, [1000, 1001, 20_000], "x.tgz-")
    config = ArchiveConfig(uri=str(tmp_path), shard_rows=25)
    assert [len(shard) for shard in shards(STORE, config)] == [4, 1, 1, 1]
    found = rows(STORE, config)
    assert [row["bytes"] for row in found.values()] == [data for _, data in members]
    assert {row["uri"][-2:] for row in found.values()} == {"00"}


def test_a_damaged_header_costs_the_rest_of_its_part_only(tmp_path: Path) -> None:
    data = make.tar([(f"{n:02}.jpg", bytes([n]) * 3000) for n in range(30)])
    broken = make.damaged(data, make.header_at(data, "04.jpg") + 20)
    split(tmp_path, broken, [35_000, 70_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "BACK", 4096)
        found = fates(rows(STORE, ArchiveConfig(uri=str(tmp_path))))
    assert found == {**{f"{n:02}.jpg": None for n in (*range(4), *range(10, 30))}, "x.tar.00": "broken_archive"}


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_a_part_replaced_or_deleted_meanwhile_is_a_row_for_each_reader_that_meets_it(tmp_path: Path, change: str) -> None:
    data = make.tar([(f"{n:02}.jpg", bytes([n]) * 3000) for n in range(30)])
    uris = split(tmp_path, data, [35_000, 70_000])
    config = ArchiveConfig(uri=str(tmp_path))
    planned = shards(STORE, config)
    (tmp_path / "x.tar.01").unlink()
    if change == "changed":
        put(tmp_path, "x.tar.01", data[35_000:69_999] + b"\0")
    found = [slices(STORE, shard, config) for shard in planned]
    assert [piece.table["reason"].to_pylist()[-1] for [piece] in found] == [change, change, None]
    assert [piece.table["image_id"].to_pylist()[-1] for [piece] in found[:2]] == uris[:2]
    assert [len(piece.table) for [piece] in found] == [9 + 1, 1, 10]


def test_a_part_that_vanishes_while_it_is_cut_is_its_readers_to_report(tmp_path: Path) -> None:
    data = make.tar([(f"{n:02}.jpg", bytes([n]) * 3000) for n in range(30)])
    uris = split(tmp_path, data, [35_000, 70_000])
    parts = [found for uri in uris if (found := STORE.head(uri)) is not None]
    (tmp_path / "x.tar.01").unlink()
    needed = list(cut(STORE, parts))
    assert [[part.uri for part, _ in each] for each in needed] == [uris[:3], uris[1:2], uris[2:]]
    assert needed[1][0] == (parts[1], parts[1].size) and needed[0][0] == (parts[0], 0)


def test_parts_in_which_no_member_begins(tmp_path: Path) -> None:
    """One member over three parts, an empty part, and one that holds closing zeros only."""
    data = make.tar([("a.jpg", b"a"), ("b.jpg", b"b" * 50_000), ("c.jpg", b"c")])
    split(tmp_path, data, [5000, 20_000, 20_000, 30_000, len(data) - 600])
    config = ArchiveConfig(uri=str(tmp_path))
    planned = shards(STORE, config)
    firsts = [(shard["offset"][0].as_py(), shard["size"][0].as_py()) for shard in planned]
    assert [first < size for first, size in firsts] == [True, False, False, False, True, False]
    assert fates(rows(STORE, config)) == {"a.jpg": None, "b.jpg": None, "c.jpg": None}
    [hollow] = slices(STORE, planned[1], config)
    assert (hollow.last, hollow.end, len(hollow.table)) == (True, NOTHING, 0)
    assert list(read_shard(STORE, planned[1], config, {0: NOTHING})) == []


def test_the_last_part_was_never_fetched(tmp_path: Path) -> None:
    data = make.tar([(f"{n:02}.jpg", bytes([n]) * 3000) for n in range(30)])
    uris = split(tmp_path, data, [35_000, 70_000])
    Path(uris[2].removeprefix("file://")).unlink()
    found = fates(rows(STORE, ArchiveConfig(uri=str(tmp_path))))
    assert found == {**{f"{n:02}.jpg": None for n in range(19)}, "x.tar.01": "broken_archive"}


def test_a_tar_without_magic_is_read_by_one(tmp_path: Path) -> None:
    """As tar wrote them before ustar: a checksum, and nothing that says what it is."""
    data = bytearray(make.tar([(f"{n:02}.jpg", bytes([n]) * 3000) for n in range(30)], tarfile.USTAR_FORMAT))
    at = data.find(b"ustar")
    while at >= 0:
        start = at - 257
        data[start + 148 : start + 156], data[at : at + 8] = b" " * 8, bytes(8)
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        at = data.find(b"ustar", at)
    split(tmp_path, bytes(data), [35_000])
    config = ArchiveConfig(uri=str(tmp_path))
    assert [len(shard) for shard in shards(STORE, config)] == [2, 1]
    assert list(fates(rows(STORE, config))) == [f"{n:02}.jpg" for n in range(30)]


def test_no_part_is_read_to_find_where_it_begins() -> None:
    """What planning costs: the window before the border, and the members up to the third behind it."""

    class Counted(Store):
        read = 0

        def stream(self, uri: str, start: int = 0, *, if_match: str | None = None) -> Any:
            return _Measured(self, start)

        def get(self, uri: str, *_: Any, **__: Any) -> bytes:
            return b"im"

    class _Measured:
        def __init__(self, store: Counted, start: int) -> None:
            self.store, self.at = store, start

        def read(self, size: int) -> bytes:
            got = whole[self.at : self.at + size]
            self.at, self.store.read = self.at + len(got), self.store.read + len(got)
            return got

        def close(self) -> None:
            pass

    whole = make.tar([(f"{n:04}.jpg", bytes(90_000)) for n in range(400)])
    store = Counted()
    [first, second] = cut(store, [Object("a", 18 << 20, ""), Object("a", len(whole) - (18 << 20), "")])
    assert len(first) == 2 and len(second) == 1
    assert store.read < 5 << 20
