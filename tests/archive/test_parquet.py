"""Parquet with images in a column: every way they are written, damaged, resumed."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.archive import parquet
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.errors import UserError
from geobatch.schema import LAYOUTS, PLACE
from geobatch.store import Store, StoreConfig
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.sink.test_run import whole_run
from tests.store.proxy import FaultyProxy

STORE = Store()
VALUES = [make.picture(n) for n in range(10)]


@pytest.mark.parametrize("style", ["struct", "binary", "large", "view", "dictionary"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_every_row_is_called_by_its_number(tmp_path: Path, style: str, compression: str) -> None:
    uri = put(tmp_path, "a#b.parquet", make.parquet(VALUES, style=style, compression=compression))
    for sizes in ({"shard_rows": 3}, {"shard_rows": 9}, {"shard_bytes": 1500}, {}):
        found = rows(STORE, ArchiveConfig(uri=str(tmp_path), **sizes))  # type: ignore[arg-type]
        assert [(key, row["bytes"]) for key, row in found.items()] == [
            (f"{uri.replace('#', '%23')}#row={n}", value) for n, value in enumerate(VALUES)
        ]


def test_nulls_empties_and_what_is_too_large(tmp_path: Path) -> None:
    for style in ("struct", "binary", "view", "dictionary"):
        uri = put(tmp_path, "x.parquet", make.parquet([b"a", None, b"", b"x" * 2000, b"b"], style=style))
        found = rows(STORE, ArchiveConfig(uri=uri, max_bytes=1000))
        assert fates(found) == {"row=0": None, "row=1": "empty", "row=2": "empty", "row=3": "too_large", "row=4": None}


def test_the_image_column_is_found_by_name_or_by_being_the_only_one() -> None:
    binary, struct = pa.binary(), pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    for fields, column in (
        ([("mask", binary), ("Image", struct)], "Image"),
        ([("jpg", binary), ("image", binary)], "image"),
        ([("label", pa.int64()), ("pixels", binary)], "pixels"),
        ([("one", binary), ("two", binary)], None),
        ([("image", pa.string())], None),
        ([("image", pa.dictionary(pa.int32(), pa.string()))], None),
        ([("one", pa.binary_view()), ("image", pa.dictionary(pa.int32(), binary))], "image"),
        ([("image", pa.struct([("bytes", pa.binary_view())]))], "image"),
        ([("image", pa.struct([("path", pa.string())]))], None),
    ):
        assert parquet.image_column(pa.schema(fields)) == column


def test_geometries_are_no_images_and_tables_of_our_own_no_archives(tmp_path: Path) -> None:
    geo = {b"geo": b'{"columns": {"shape": {"encoding": "WKB"}}}'}
    shape, image, other = ("shape", pa.binary()), ("image", pa.binary()), ("other", pa.binary())
    assert parquet.image_column(pa.schema([shape], metadata=geo)) is None
    assert parquet.image_column(pa.schema([shape, image], metadata=geo)) == "image"
    assert parquet.image_column(pa.schema([shape, other], metadata=geo)) == "other"
    for torn in (b"{", b"[]", b"{}", b"1"):
        assert parquet.image_column(pa.schema([shape], metadata={b"geo": torn})) == "shape"
    for layout in (PLACE, *LAYOUTS.values()):
        assert parquet.is_own(layout) and parquet.image_column(layout) is None
    whole_run(tmp_path / "old", [("object", ["a", "b"]), ("object", ["c"])])
    put(tmp_path, "images.parquet", make.parquet(VALUES))
    [piece] = plan(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert {row["uri"].rpartition("/")[2] for row in piece.table.to_pylist()} == {"images.parquet"}
    [note] = piece.notes
    assert "old/places/000001-" in note and "its like are passed over" in note


def test_parquet_without_images_is_skipped_below_a_prefix_and_refused_by_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"label": [1]}), file)
    uri = put(tmp_path, "labels.parquet", file.getvalue())
    put(tmp_path, "images.parquet", make.parquet(VALUES))
    assert len(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == 10
    with pytest.raises(UserError, match=r"neither an image column.*only label"):
        rows(STORE, ArchiveConfig(uri=uri))


def test_a_damaged_page_costs_the_rest_of_its_row_group_row_by_row(tmp_path: Path) -> None:
    values = [bytes([n]) * 3000 for n in range(12)]
    data = make.parquet(values, style="binary", compression="zstd", rows=4)
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    uri = put(tmp_path, "x.parquet", make.damaged(data, start, 20))
    found = rows(STORE, ArchiveConfig(uri=uri))
    assert fates(found) == {f"row={n}": "broken_archive" if 4 <= n < 8 else None for n in range(12)}
    assert [row["bytes"] for row in found.values()] == [None if 4 <= n < 8 else value for n, value in enumerate(values)]


@pytest.mark.parametrize("junk", [b"", b"no parquet" * 50, make.parquet(VALUES)[:-20]])
def test_what_is_no_parquet_is_one_row(tmp_path: Path, junk: bytes) -> None:
    put(tmp_path, "x.parquet", junk)
    assert fates(rows(STORE, ArchiveConfig(uri=str(tmp_path)))) == {"x.parquet": "broken_archive"}


def test_a_file_replaced_or_deleted_meanwhile_is_a_row(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.parquet", make.parquet(VALUES))
    config = ArchiveConfig(uri=uri)
    [shard] = shards(STORE, config)
    put(tmp_path, "x.parquet", make.parquet(VALUES[:3]))
    assert [piece.table["reason"].to_pylist() for piece in slices(STORE, shard, config)] == [["changed"]]
    (tmp_path / "x.parquet").unlink()
    assert [piece.table["reason"].to_pylist() for piece in slices(STORE, shard, config)] == [["missing"]]


def test_a_shard_reads_its_own_row_groups_through_faults(s3: S3Server, proxy: FaultyProxy) -> None:
    uri = f"s3://{s3.bucket()}/x.parquet"
    values = [bytes([n]) * (1 << 20) for n in range(32)]
    Store(s3.config()).put(uri, make.parquet(values, style="binary"))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri, shard_rows=4)
    planned = shards(store, config)
    assert len(planned) == 8
    proxy.requests.clear()
    proxy.faults.extend(["reset", "cut"])
    [piece] = slices(store, planned[3], config)
    assert piece.table["bytes"].to_pylist() == values[12:16]
    spans = [span.removeprefix("bytes=").split("-") for _, _, span in proxy.requests if span]
    assert sum(int(end) - int(start) + 1 for start, end in spans) < 9 << 20 and len(spans) < 12
