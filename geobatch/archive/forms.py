"""The forms that texts come in, row by row: CSV and TSV, JSON lines, JSON lists, JSON mappings, Parquet.

    csv      a header, then rows; comma, semicolon or tab, whichever the header has most of
    jsonl    an object a line, or a text
    json     a list of objects (GeoText-1652: `[{"image_id": …, "caption": …}, …]`), of texts, or a mapping of names to texts
             (CVG-Text: `{"40.7,-73.9_….png": …}`), to lists of texts, or to objects; a file of objects line by line, or of one
             object that has the column, is read as jsonl
    parquet  a column of strings, of lists of strings, or of bytes

A row that is broken is one rejection: a CSV row of other than the header's number of cells, with quotes where none belong or a
cell of more than 128 KiB, a line that is no JSON, an object without the column. Damage that leaves no way to the next row (a
JSON list or mapping that breaks off, a gzip stream that does not inflate) is one row at the file's early end. Of a quote in a
CSV that does not close, each line up to where that shows is a rejection, so that what it swallowed is counted: where rows begin
in there nobody knows, and 128 KiB is where it shows at the latest. Blank lines are no rows.

Every row is met once and in the file's order; only what is read is in memory: a chunk of 1 MiB, a row, a batch of Parquet.
What it does not cover: UTF-16; JSON in which the rows are deeper than in the outermost list; Parquet's lists that are views, of
which pyarrow 26 loses some behind a null when it casts them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.archive import parquet
from geobatch.archive.fields import Fields, Row, contents, fields, missing, row
from geobatch.archive.names import text_form
from geobatch.archive.prefix import fate_of
from geobatch.archive.scan import DAMAGE, GONE, Scan, printable
from geobatch.errors import GeobatchError, Rejection
from geobatch.store import NotFound, Store

if TYPE_CHECKING:
    from _csv import Reader  # csv has no public name for it

#: Rows of Parquet that are decoded at once, and bytes in which a file's titles are looked for first.
_BATCH, _HEAD = 1024, 1 << 16
_DAMAGE = (*DAMAGE, pa.ArrowException)


def titles(store: Store, uri: str, etag: str | None, column: str) -> list[str] | None:
    """The titles of a file that has no such column; None of one that has it, or shows only when it is read.

    Raises:
        Unreadable: the store failed.
    """
    try:
        found = _titles(store, uri, etag, column)
    except (*_DAMAGE, *GONE):
        return None
    sole = text_form(uri) in ("csv", "parquet")
    return found if found is not None and fields(found, column, sole=sole) is None else None


def rows(store: Store, uri: str, etag: str | None, column: str) -> Iterator[Row]:
    """The rows of a file of texts; what makes the rest unreadable comes as the last, with `ends`.

    Args:
        store: reaches the file.
        uri: of the file, whose ending tells its form.
        etag: that it must have.
        column: as in `fields`.

    Raises:
        Unreadable: the store failed, which says nothing about the file.
    """
    try:
        if text_form(uri) == "parquet":
            yield from _parquet(store, uri, etag, column)
            return
        with Scan(store, uri, etag) as scan:
            if text_form(uri) == "csv":
                yield from _csv(scan, column)
            elif not scan.peek():
                yield _end(Rejection("empty", "the file has no rows"))
            elif text_form(uri) == "jsonl" or _objects(scan, column):
                yield from _lines(scan, column)
            else:
                yield from _json(scan, column)
    except (*_DAMAGE, *GONE) as error:
        yield _end(fate_of(error) if isinstance(error, GeobatchError) else _damaged(error))


def _end(fate: Rejection) -> Row:
    return Row(None, (fate,), ends=True)


def _damaged(error: Exception) -> Rejection:
    return Rejection("broken_archive", _in_a_line(f"{type(error).__name__}: {error}"))


def _broken(words: str) -> Row:
    return Row(None, (Rejection("not_a_text", _in_a_line(words)),))


def _in_a_line(words: str) -> str:
    return " ".join(printable(words).split())


def _objects(scan: Scan, column: str) -> bool:
    """Whether a JSON file that begins with a brace holds objects, one or a line each, and is no mapping of names."""
    if scan.peek() != "{":
        return False
    first, followed = scan.ahead()
    return followed or (isinstance(first, dict) and _fields(tuple(first), column) is not None)


def _titles(store: Store, uri: str, etag: str | None, column: str) -> list[str] | None:
    if text_form(uri) == "parquet":
        return _text_columns(_opened(store, uri, etag))
    with Scan(store, uri, etag, _HEAD) as scan:
        if text_form(uri) == "csv":
            return _header(scan)[0] or None
        if text_form(uri) == "json" and scan.peek() == "{" and not _objects(scan, column):
            return None  # a mapping, whose names are titles of nothing
        scan.skip("[")
        first = scan.value()
        return list(first) if isinstance(first, dict) else None


def _header(scan: Scan) -> tuple[list[str], Reader]:
    """A CSV's titles, none of an empty file, and what reads its other rows."""
    line = scan.line()
    while line and not line.strip("\r\n "):
        line = scan.line()
    delimiter = max(",;\t", key=line.count)
    cells = csv.reader(chain([line], iter(scan.line, "")), delimiter=delimiter, strict=True)
    try:
        return next(cells, []), cells
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error


def _csv(scan: Scan, column: str) -> Iterator[Row]:
    heads, cells = _header(scan)
    found = fields(heads, column, sole=True)
    if found is None:
        broken = Rejection("broken_archive", missing(heads, column))
        yield _end(broken if heads else Rejection("empty", "the file has no rows"))
        return
    while True:
        before = cells.line_num
        try:
            values = next(cells, None)
        except csv.Error as error:
            first, last = before + 1, cells.line_num
            where = f"lines {first} to {last}, from a quote that does not close" if last > first else f"line {first}"
            yield from (_broken(f"no row of a CSV, {where}: {error}") for _ in range(max(1, last - before)))
            continue
        if values is None:
            return
        if len(values) == len(heads):
            yield row(dict(zip(heads, values, strict=True)), found)
        elif values:
            yield _broken(f"{len(values)} of {len(heads)} cells, beginning with {values[0][:60]!r}")


def _lines(scan: Scan, column: str) -> Iterator[Row]:
    while line := scan.line():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _broken(f"no JSON: {error}")
            continue
        yield _of(value, column)


def _json(scan: Scan, column: str) -> Iterator[Row]:
    if scan.skip("["):
        more = not scan.skip("]")
        while more:
            yield _of(scan.value(), column)
            more = scan.skip(",")
            if not more and not scan.skip("]"):
                raise ValueError("neither a comma nor a bracket behind a row")
    elif scan.skip("{"):
        more = not scan.skip("}")
        while more:
            name = scan.value()
            if not isinstance(name, str) or not scan.skip(":"):
                raise ValueError("no name and colon where a row begins")
            yield _of(scan.value(), column, name)
            more = scan.skip(",")
            if not more and not scan.skip("}"):
                raise ValueError("neither a comma nor a brace behind a row")
    if scan.peek():
        raise ValueError(f"{scan.peek()!r} where nothing belongs")


def _of(value: Any, column: str, name: str | None = None) -> Row:
    """The row that a JSON value is, under the name that a mapping gives it."""
    called = None if name is None else printable(name).strip() or None
    if isinstance(value, dict):
        found = _fields(tuple(value), column)
        read = _broken(missing(list(value), column)) if found is None else row(value, found)
        return read if name is None else read._replace(name=called)
    if name is None and not isinstance(value, str):  # a bare list in a list is no row
        return _broken(f"{type(value).__name__} where an object belongs")
    return Row(called, contents(value))


@lru_cache(maxsize=256)
def _fields(keys: tuple[str, ...], column: str) -> Fields | None:
    return fields(keys, column)


def _opened(store: Store, uri: str, etag: str | None) -> pq.ParquetFile:
    found = store.head(uri)
    if found is None:
        raise NotFound(f"{uri} does not exist")
    return parquet.opened(store, uri, found.size, etag or found.etag)


def _text_columns(file: pq.ParquetFile) -> list[str]:
    return [field.name for field in file.schema_arrow if _holds_texts(field.type)]


def _holds_texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if _is_list(kind) else kind
    return _is_text(kind) or parquet.are_bytes(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _names(kind: pa.DataType) -> bool:
    """Whether a column may hold names or numbers: what is nested or binary is an image, and long."""
    return not pa.types.is_nested(kind) and not parquet.are_bytes(kind)


def _parquet(store: Store, uri: str, etag: str | None, column: str) -> Iterator[Row]:
    file = _opened(store, uri, etag)
    texts = _text_columns(file)
    chosen = fields(texts, column, sole=True)
    if chosen is None:
        yield _end(Rejection("broken_archive", missing(texts, column)))
        return
    others = [field.name for field in file.schema_arrow if field.name != chosen.text and _names(field.type)]
    found = fields([chosen.text, *others], chosen.text)
    assert found is not None
    wanted = [name for name in dict.fromkeys(found) if name is not None]
    for group in range(file.num_row_groups):
        given, size = 0, file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=wanted, use_threads=False):
                values = {name: _plain_values(batch.column(name)) for name in wanted}
                for at in range(len(batch)):
                    given += 1
                    yield row({name: values[name][at] for name in wanted}, found)
        except _DAMAGE as error:
            yield from (Row(None, (_damaged(error),)) for _ in range(size - given))


def _plain_values(values: pa.Array) -> list[Any]:
    """Python values; texts as bytes, since Parquet's need not be UTF-8."""
    kind = values.type
    if _is_list(kind) and _is_text(kind.value_type):
        values = values.cast(pa.large_list(pa.large_binary()))
    elif _is_text(kind):
        values = values.cast(pa.large_binary())
    elif pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
    found: list[Any] = values.to_pylist()
    return found
