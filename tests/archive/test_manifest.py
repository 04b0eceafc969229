"""Manifests: CSV and Parquet, absolute and relative, with what is missing, repeated or malformed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.archive import manifest
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.errors import UserError
from geobatch.store import Store
from tests.archive.reading import fates, put, rows
from tests.archives import make
from tests.conftest import S3Server

STORE = Store()


def written(folder: Path, kind: str, uris: list[str | None]) -> str:
    """A manifest with another column before the URIs."""
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"caption": ["x"] * len(uris), "uri": uris}), file)
        return put(folder, "m.parquet", file.getvalue())
    lines = ["caption,uri", *(f'"two\nlines, and ""quotes""","{uri or ""}"' for uri in uris)]
    return put(folder, "m.csv", "\r\n".join(lines).encode())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_names_what_is_read(tmp_path: Path, kind: str) -> None:
    first = put(tmp_path, "pictures/a 1%.jpg", b"a")
    second = put(tmp_path, "no ending", b"b")
    put(tmp_path, "pictures/x.tar", make.tar(make.images(["t.jpg"])))
    uris = [first, "no ending", None, "pictures/x.tar", "pictures/../pictures/a 1%.jpg", "/not/there.jpg", "", second]
    found = rows(STORE, ArchiveConfig(uri=written(tmp_path, kind, uris)))
    assert fates(found) == {"t.jpg": None, "a 1%25.jpg": None, "no ending": None, "there.jpg": "missing"}
    assert [row["bytes"] for row in found.values()][1:] == [b"a", b"b", None]
    [piece] = plan(STORE, ArchiveConfig(uri=written(tmp_path, kind, uris)))
    assert (piece.listed, piece.skipped) == (8, 4)  # two named again, two that name nothing


def test_a_manifest_in_a_bucket_reaches_other_buckets_and_the_disk(tmp_path: Path, s3: S3Server) -> None:
    store, here, there = Store(s3.config()), f"s3://{s3.bucket()}", f"s3://{s3.bucket()}"
    local = put(tmp_path, "l.jpg", b"local")
    store.put(f"{here}/lists/r.jpg", b"relative")
    store.put(f"{there}/a b+c.jpg", b"there")
    text = "uri\n" + "\n".join(["r.jpg", f"{there}/a b+c.jpg", local, f"{there}/gone.jpg", "s3://no-such-bucket/x.jpg"])
    store.put(f"{here}/lists/m.csv", text.encode())
    found = rows(store, ArchiveConfig(uri=f"{here}/lists/m.csv"))
    assert [row["bytes"] for row in found.values()] == [b"relative", b"there", b"local", None, None]
    assert list(found) == [f"{here}/lists/r.jpg", f"{there}/a b+c.jpg", local, f"{there}/gone.jpg", "s3://no-such-bucket/x.jpg"]
    assert [row["reason"] for row in found.values()][3:] == ["missing", "missing"]


def test_globs_leave_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        put(tmp_path, name, b"x")
    uri = written(tmp_path, "csv", ["a.jpg", "b.jpg"])
    assert list(fates(rows(STORE, ArchiveConfig(uri=uri, exclude=("b*",))))) == ["a.jpg"]


@pytest.mark.parametrize("content", [b"", b"url\nx.jpg\n", b"uri,b\n1,2,3\n", b"\xff\xfe\x00u\x00r", b"uri\n\xff\xfe\n"])
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"column uri|nothing lies at|is an image by its name") as refused:
        rows(STORE, ArchiveConfig(uri=put(tmp_path, "m.csv", content)))
    assert "\n" not in str(refused.value)


def test_a_damaged_parquet_manifest_is_a_row_or_one_line(tmp_path: Path) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a.jpg"] * 9}), file, write_page_checksum=True, compression="none", use_dictionary=False)
    whole = file.getvalue()
    uri = put(tmp_path, "m.parquet", make.damaged(whole, len(whole) - 60, 40))
    assert fates(rows(STORE, ArchiveConfig(uri=uri))) == {"m.parquet": "broken_archive"}
    put(tmp_path, "m.parquet", make.damaged(whole, whole.index(b"\x05\0\0\0a.jpg") + 4))
    with pytest.raises(UserError, match=r"m.parquet cannot be read as a manifest \(.*checksum.*column uri"):
        rows(STORE, ArchiveConfig(uri=uri))


def test_thousands_of_rows_come_in_pages(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", b"x")
    uri = written(tmp_path, "csv", ["a.jpg", *(f"gone/{n}.jpg" for n in range(2500))] * 2)
    found = STORE.head(uri)
    assert found is not None
    pages = list(manifest.pages(STORE, found))
    assert max(map(len, pages)) <= 1000 and sum(map(len, pages)) == 2501
    assert sum(page.passed for page in pages) == 2501


@given(st.lists(st.lists(st.text("ab\0é", max_size=4), max_size=20), max_size=15))
def test_what_was_met_is_known_again(batches: list[list[str]]) -> None:
    met, before = manifest._Met(), set[str]()
    for batch in batches:
        expected = []
        for uri in batch:
            expected.append(uri in before)
            before.add(uri)
        assert met.again(batch) == expected
    runs = [len(run) for run in met._runs]
    assert sum(runs) == len(before) and all(np.diff(runs) < 0)
