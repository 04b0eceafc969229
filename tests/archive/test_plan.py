"""Planning: what is taken, counted and refused, how it falls into shards, and in how much memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.archive import plan as planning
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import Planned, plan
from geobatch.errors import UserError
from geobatch.store import Denied, Object, Store
from tests.archive.reading import fates, put, rows, shards
from tests.archives import make
from tests.conftest import S3Server

STORE = Store()


class Listing(Store):
    """A store that lists keys it never held, and lets everything be read."""

    def __init__(self, keys: Any) -> None:
        super().__init__()
        self._keys = keys

    def objects(self, prefix: str) -> Iterator[list[Object]]:
        page: list[Object] = []
        for key, size in self._keys:
            page.append(Object(f"s3://bucket/p/{key}", size, f"{size:032x}"))
            if len(page) == 1000:
                yield page
                page = []
        yield page

    def head(self, uri: str) -> Object | None:
        return None

    def get(self, uri: str, start: int | None = None, end: int | None = None, *, if_match: str | None = None) -> bytes:
        return b"x"


def mixed(folder: Path) -> None:
    """Everything an archive can be, below one folder."""
    put(folder, "a.jpg", make.picture(1))
    put(folder, "b/tar.tar", make.tar(make.webdataset(3)))
    put(folder, "b/z.PNG", make.picture(2))
    put(folder, "c.zip", make.zipped([*make.images(["1.jpg", "2.jpg"]), ("notes.txt", b"x")]))
    put(folder, "d.parquet", make.parquet([make.picture(n) for n in range(5)], rows=2))
    put(folder, "e.tgz", make.gz(make.tar(make.images(["in.jpg"]))))
    put(folder, "readme.txt", b"x")
    put(folder, "truth.csv", b"x")


def test_everything_below_one_prefix(tmp_path: Path) -> None:
    mixed(tmp_path)
    config = ArchiveConfig(uri=str(tmp_path))
    pieces = list(plan(STORE, config))
    assert [piece[1:4] for piece in pieces] == [(8 + 3, 3, 0)]  # eight files and three members of a zip; three no images
    kinds = [shard["kind"].to_pylist() for shard in shards(STORE, config)]
    assert kinds == [["tar"], ["zip"] * 2, ["parquet"] * 3, ["tar"], ["object"] * 2]
    assert list(fates(rows(STORE, config))) == [
        "000000.jpg", "000001.jpg", "000002.jpg", "1.jpg", "2.jpg", "row=0", "row=1", "row=2", "row=3", "row=4",
        "in.jpg", "a.jpg", "z.PNG",
    ]  # fmt: skip


def test_the_same_in_a_bucket(tmp_path: Path, s3: S3Server) -> None:
    mixed(tmp_path)
    base, store = f"s3://{s3.bucket()}/all of it", Store(s3.config())
    for path in tmp_path.rglob("*.*"):
        store.put(f"{base}/{path.relative_to(tmp_path)}", path.read_bytes())
    store.put(f"{base}/folder/", b"")
    found, local = rows(store, ArchiveConfig(uri=base)), rows(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert fates(found) == fates(local)
    assert [row["bytes"] for row in found.values()] == [row["bytes"] for row in local.values()]


def test_globs_reach_into_containers(tmp_path: Path) -> None:
    mixed(tmp_path)
    for settings_, names in (
        ({"exclude": ("*.zip", "b/*", "row=*")}, ["row=0", "row=1", "row=2", "row=3", "row=4", "in.jpg", "a.jpg"]),
        ({"include": ("*.txt",), "exclude": ("*.parquet",)}, ["notes.txt", "readme.txt"]),
        ({"include": ("b/*.tar",), "exclude": ("*1.jpg",)}, ["000000.jpg", "000002.jpg"]),
    ):
        assert list(fates(rows(STORE, ArchiveConfig(uri=str(tmp_path), **settings_)))) == names


def test_one_file_is_an_archive(tmp_path: Path) -> None:
    mixed(tmp_path)
    for name, count in (("a.jpg", 1), ("b/tar.tar", 3), ("c.zip", 2), ("d.parquet", 5), ("e.tgz", 1)):
        assert len(rows(STORE, ArchiveConfig(uri=str(tmp_path / name)))) == count
    assert len(rows(STORE, ArchiveConfig(uri=str(tmp_path / "readme.txt"), include=("*",)))) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "nothing lies at .*; check --archive"),
        ("no.tar", "nothing lies at"),
        ("x.txt", "is neither a folder nor a tar"),
        ("texts", "none of the 2 objects .*--include"),
        ("empty", "nothing lies at"),
    ],
)
def test_what_holds_no_images_is_refused_in_one_line(tmp_path: Path, name: str, said: str) -> None:
    put(tmp_path, "x.txt", b"x")
    put(tmp_path, "texts/a.txt", b"x")
    put(tmp_path, "texts/b.txt", b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said) as refused:
        list(plan(STORE, ArchiveConfig(uri=str(tmp_path / name))))
    assert "\n" not in str(refused.value)


def test_a_bucket_or_prefix_that_is_not_there(s3: S3Server) -> None:
    store, bucket = Store(s3.config()), s3.bucket()
    for uri in (f"s3://{bucket}", f"s3://{bucket}/x/", f"s3://{bucket}/x.tar", "s3://no-such-bucket/x"):
        with pytest.raises(UserError, match=r"nothing lies at|no bucket"):
            list(plan(store, ArchiveConfig(uri=uri)))


def test_what_is_known_is_left_out_and_counted(tmp_path: Path) -> None:
    mixed(tmp_path)
    config = ArchiveConfig(uri=str(tmp_path))
    table = pa.concat_tables(shards(STORE, config))
    before = set(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
    asked: list[int] = []

    def known(pairs: list[tuple[str, str]]) -> list[bool]:
        asked.append(len(pairs))
        return [pair in before for pair in pairs]

    assert [(len(piece.table), *piece[1:4]) for piece in plan(STORE, config, known)] == [(0, 8, 2, 6)]
    put(tmp_path, "a.jpg", b"new bytes")
    put(tmp_path, "c.zip", make.zipped(make.images(["3.jpg"])))
    put(tmp_path, "new.jpg", b"x")
    found = shards(STORE, config, known)
    assert [shard["image_id"].to_pylist() for shard in found] == [
        [f"file://{tmp_path}/c.zip#3.jpg"],
        [f"file://{tmp_path}/a.jpg", f"file://{tmp_path}/new.jpg"],
    ]
    assert max(asked) <= 1000


def test_an_archive_that_may_be_listed_and_not_read_is_refused_before_anything_starts() -> None:
    class Closed(Listing):
        def get(self, uri: str, *_: Any, **__: Any) -> bytes:
            if uri.endswith(self.open_to):
                return b"x"
            raise Denied(f"access to {uri} is denied")

        open_to = "nothing"

    store = Closed([(f"{n}.jpg", 1) for n in range(5)])
    with pytest.raises(Denied):
        list(plan(store, ArchiveConfig(uri="s3://bucket/p")))
    store.open_to = "2.jpg"  # a few forbidden ones are rejections
    assert len(shards(store, ArchiveConfig(uri="s3://bucket/p"))[0]) == 5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["jpg", "txt", "tar"]), st.integers(0, 500)), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(1, 900),
    st.integers(7, 20),
)
def test_tables_hold_whole_shards(listed: list[tuple[str, int]], shard_rows: int, shard_bytes: int, table_rows: int) -> None:
    keys = [("0.jpg", 1), *((f"{n:03}.{ending}", size) for n, (ending, size) in enumerate(listed, 1))]
    config = ArchiveConfig(uri="s3://bucket/p", shard_rows=shard_rows, shard_bytes=shard_bytes, max_bytes=400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "TABLE_ROWS", table_rows)
        pieces = list(plan(Listing(keys), config))
    assert all(len(piece.table) <= table_rows for piece in pieces)
    seen: set[int] = set()
    for piece in pieces:
        numbers = set(piece.table["shard"].to_pylist())
        assert not numbers & seen
        seen |= numbers
    found = shards(Listing(keys), config)
    assert pa.concat_tables([piece.table for piece in pieces]) == pa.concat_tables(found)
    objects = [key for key, _ in keys if key.endswith("jpg")]
    assert [uri[14:] for shard in found if shard["kind"][0].as_py() == "object" for uri in shard["uri"].to_pylist()] == objects
    assert (pieces[-1].listed, pieces[-1].skipped) == (len(keys), sum(key.endswith("txt") for key, _ in keys))


def test_a_long_listing_of_known_objects_is_reported_on_the_way() -> None:
    reports: list[Planned] = list(
        plan(
            Listing((f"{n:07}.jpg", 1) for n in range(120_000)),
            ArchiveConfig(uri="s3://b/p"),
            lambda pairs: [True] * len(pairs),
        )
    )
    assert [(len(each.table), each.listed, each.known) for each in reports] == [
        (0, 50_000, 50_000), (0, 100_000, 100_000), (0, 120_000, 120_000),
    ]  # fmt: skip


def test_containers_without_an_image_are_named_and_others_are_not(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", b"x")
    put(tmp_path, "damaged.zip", b"PK\x03\x04 and no more")
    put(tmp_path, "full.zip", make.zipped(make.images(["1.jpg"])))
    put(tmp_path, "notes.zip", make.zipped([("notes.txt", b"n")]))
    put(tmp_path, "none.zip", make.zipped([]))
    pq.write_table(pa.table({"name": ["a.jpg"], "latitude": [1.0]}), tmp_path / "labels.parquet")
    pieces = list(plan(STORE, ArchiveConfig(uri=str(tmp_path))))
    empty = [each for piece in pieces for each in piece.empty]
    assert [uri.rpartition("/")[2] for uri, _ in empty] == ["labels.parquet", "none.zip", "notes.zip"]
    assert all(etag for _, etag in empty) and not {uri for uri, _ in empty} & {*pieces[-1].table["uri"].to_pylist()}


MILLION = """
import re, time
from pathlib import Path
from geobatch.archive.plan import ArchiveConfig, plan
from tests.archive.test_plan import Listing

def highest(name):  # getrusage would also count what the parent had before it forked
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

keys = ((f"2019/07/{n:09}-some-camera.jpg", 500_000 + n) for n in range(1_000_000))
list(plan(Listing([("a.jpg", 1)]), ArchiveConfig(uri="s3://bucket/p")))
before, started, count = highest("VmRSS"), time.process_time(), 0
for piece in plan(Listing(keys), ArchiveConfig(uri="s3://bucket/p")):
    count += len(piece.table)
print(count, highest("VmHWM") - before, round(time.process_time() - started, 1))
"""


def test_a_million_keys_are_planned_in_little_memory() -> None:
    """Ten million differ from one in time only: nothing is kept from one table to the next."""
    ran = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, timeout=200, check=True)
    count, mebibytes, seconds = ran.stdout.split()
    print(f"1,000,000 keys in {seconds} s and {mebibytes} MiB")
    assert int(count) == 1_000_000
    assert int(mebibytes) < 100  # with one tuple and its strings kept for each key it would be 500
