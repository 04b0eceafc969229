"""Images in a column of a Parquet file, as Hugging Face and others ship them.

The column is of bytes (plain, large, views, or a dictionary's), or of structs with a field `bytes` beside the `path` that the
image once had. Rows are called by their number in the file, `…parquet#row=17`: names in other columns are neither unique nor
fixed. A shard is a run of row groups of one file; it falls into slices like a tar, and `Slice.end` is the row of the shard
where the next begins. Rows are decoded a few at a time; what is whole in memory is a page, twice and a half, or a row group's
dictionary, four times. Writers end pages at 1 MiB, but many look only every 1024 rows, so that a row group of fewer rows is
often one page: those of Hugging Face have 100.

A table that geobatch wrote is no archive, and a geometry (GeoParquet's) no image: an output that lies in an archive, today's or
one of last year, would else be read as images of 21 bytes.

What it does not cover: Parquet that is encrypted; images that the file only names (a struct whose bytes are null is
rejected as empty); a row's size before it is decoded, so that `max_bytes` rejects but does not save the download.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import repeat
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import escaped
from geobatch.archive.prefix import fate_of, too_large, unopened
from geobatch.archive.slice import NOTHING, Rows, Slice, close
from geobatch.errors import Rejection
from geobatch.schema import UNOPENED
from geobatch.store import ALONE, NotFound, Store

#: Names an image column is looked for under, first come first taken; failing these, a sole column of a fitting type.
_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "picture", "photo", "content", "data")
#: Columns that every table has that geobatch writes, and hardly another.
_OWN = frozenset({"image_id", "uri", "etag", "status", "stage", "reason", "detail"})
#: Bytes that decoding a batch of rows may come to.
_BATCH = 4 << 20

DAMAGE = (pa.ArrowException, OSError, ValueError)


class Group(NamedTuple):
    """A row group: how many rows, and how many bytes they are when inflated."""

    rows: int
    size: int


def opened(store: Store, uri: str, size: int, etag: str | None) -> pq.ParquetFile:
    """The file, read by ranges.

    Raises:
        pa.ArrowException: it is no Parquet file, or damaged.
    """
    file = pa.PythonFile(store.seekable(uri, size, if_match=etag), mode="r")
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def is_own(schema: pa.Schema) -> bool:
    """Whether a file is a part of a table that geobatch wrote."""
    return set(schema.names) >= _OWN


def image_column(schema: pa.Schema) -> str | None:
    """The name of the column that holds images, or None."""
    if is_own(schema):
        return None
    shapes = _geometries(schema)
    fitting = [field.name for field in schema if _holds_bytes(field.type) and field.name not in shapes]
    named = [name for name in _COLUMNS for each in fitting if each.lower() == name]
    if named:
        return next(each for each in fitting if each.lower() == named[0])
    return fitting[0] if len(fitting) == 1 else None


def _geometries(schema: pa.Schema) -> set[str]:
    """Names of the columns that GeoParquet's metadata says are geometries."""
    with suppress(ValueError, KeyError, TypeError):
        return set(json.loads((schema.metadata or {})[b"geo"])["columns"])
    return set()


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return are_bytes(kind)


def are_bytes(kind: pa.DataType) -> bool:
    """Whether a column's values are bytes, however they are laid out."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def runs(file: pq.ParquetFile, config: ArchiveConfig) -> Iterator[list[tuple[int, Group]]]:
    """The file's row groups with their numbers, as many as make a shard at a time."""
    run: list[tuple[int, Group]] = []
    rows = size = 0
    for index, group in enumerate(groups(file)):
        if run and (rows + group.rows > config.shard_rows or size + group.size > config.shard_bytes):
            yield run
            run, rows, size = [], 0, 0
        run.append((index, group))
        rows, size = rows + group.rows, size + group.size
    if run:
        yield run


def groups(file: pq.ParquetFile) -> list[Group]:
    """The file's row groups."""
    metadata = file.metadata
    found = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return [Group(each.num_rows, each.total_byte_size) for each in found]


def read(store: Store, plan: pa.Table, config: ArchiveConfig, done: Mapping[int, int]) -> Iterator[Slice]:
    """The slices of a shard of kind "parquet" that are not done.

    Raises:
        Unreadable: the store failed.
    """
    uri, etag = plan["uri"][0].as_py(), plan["etag"][0].as_py()
    number, skip = 0, 0
    while number in done:
        number, skip = number + 1, done[number]
    if skip == NOTHING:
        return
    rows, count, weight = Rows(), 0, 0
    for row, image_id, content in _contents(store, plan, skip, config):
        cost = len(content) if isinstance(content, bytes) else 0
        if count and (count == config.shard_rows or weight + cost > config.shard_bytes):
            if number not in done:
                yield Slice(number, False, row, 0, rows.take())
            number, count, weight = number + 1, 0, 0
        count, weight = count + 1, weight + cost
        if number in done:
            continue
        if isinstance(content, bytes):
            rows.add(image_id, uri, etag, content)
        else:
            rows.reject(image_id, uri, etag, None, content)
    yield from (piece for piece in close(number, done, 0, rows) if piece.number not in done)


class _Row(NamedTuple):
    """One image of a shard."""

    row: int  # of the shard
    image_id: str
    content: bytes | Rejection


def _contents(store: Store, plan: pa.Table, skip: int, config: ArchiveConfig) -> Iterator[_Row]:
    """The images from row `skip` of the shard on; what makes the rest unreadable comes as the last."""
    uri, etag = plan["uri"][0].as_py(), plan["etag"][0].as_py()
    row = 0
    try:
        found = store.head(uri)
        if found is None:
            raise NotFound(f"{uri} does not exist")
        file = opened(store, uri, found.size, etag or found.etag)
        if UNOPENED in plan["offset"].to_pylist():
            yield _Row(max(row, skip), escaped(uri), unopened())
            return
        column = image_column(file.schema_arrow)
        if column is None or None in plan["offset"].to_pylist():
            raise pa.ArrowInvalid("its footer tells of no image column")
        sizes = groups(file)
        for group in plan["offset"].to_pylist():
            first = sum(each.rows for each in sizes[:group]) - row
            if row + sizes[group].rows > skip:
                for number, value in enumerate(_values(file, group, column, sizes[group]), row):
                    if number >= skip:
                        yield _Row(number, f"{escaped(uri)}#row={first + number}", _judged(value, config))
            row += sizes[group].rows
    except ALONE as error:
        yield _Row(max(row, skip), escaped(uri), fate_of(error))
    except DAMAGE as error:
        yield _Row(max(row, skip), escaped(uri), _broken(error))


def _values(file: pq.ParquetFile, group: int, column: str, size: Group) -> Iterator[bytes | Rejection | None]:
    """The column's values in a row group, decoded a few at a time; damage costs the rest of the group, row by row."""
    batch = max(1, min(256, _BATCH * size.rows // max(1, size.size)))
    given = 0
    try:
        for rows in file.iter_batches(batch_size=batch, row_groups=[group], columns=[column], use_threads=False):
            values: Any = rows.column(0)
            valid = values.is_valid()
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            for index in range(len(values)):
                given += 1
                yield cast("bytes | None", values[index].as_py() if valid[index].as_py() else None)
    except DAMAGE as error:
        yield from repeat(_broken(error), size.rows - given)


def _broken(error: Exception) -> Rejection:
    return Rejection("broken_archive", f"{type(error).__name__}: {error}")


def _judged(value: bytes | Rejection | None, config: ArchiveConfig) -> bytes | Rejection:
    if isinstance(value, Rejection):
        return value
    if not value:
        return Rejection("empty", "the row has no bytes")
    return too_large(len(value), config) if len(value) > config.max_bytes else value
