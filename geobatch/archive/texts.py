"""Texts in the place of images: the rows of CSV, TSV, JSON lines, JSON and Parquet files.

An archive of texts is read as one of images is, the `bytes` of a row being a text in UTF-8. A file is a shard: it is read by
one reader, from its begin, and falls into slices of texts; a resumed reader reads again what is committed and keeps nothing
of it. A core reads 90,000 captions a second, which an encoder of texts is far from, so that one reader of a file is enough.

A text is called by its row's name, in a column `image_id`, `id`, `name` or `image`, or as a mapping names it:

    URI#NAME        the only text of its row; `%` and `#` are escaped as everywhere
    URI#NAME@2      the second of several texts of one row, counted from 1
    URI#NAME~2      the text of the second row of this name; of several texts, URI#NAME~2@1
    URI#row=17      of a row without a name, its number from 0

A name that itself ends like `~2` or `@2`, or is `row=17`, has that character escaped, so that no two texts share an id. To
know that a name was met before costs 8 bytes a row.

What it does not cover: names of the parts of a table that was split over several files (each file is its own); texts inside
tars and zips; loose text files, unless a glob of `include` names them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as naturals
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geobatch.archive import parquet
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.fields import Content, Row, missing
from geobatch.archive.forms import rows, titles
from geobatch.archive.names import Names, container, escaped, named_like_an_image, text_form
from geobatch.archive.prefix import too_large
from geobatch.archive.slice import NOTHING, Rows, Slice, close
from geobatch.errors import Rejection, UserError
from geobatch.store import Object, Store, split

__all__ = ["Entry", "complaint", "entries", "holds_texts", "read"]

#: Rows that are named at once, and files that are opened to learn what an archive is of.
_NAMED, _JUDGED = 1024, 10
#: How ids end that are made here, and with what a name is escaped that looks like one.
_MADE = tuple(
    (re.compile(pattern), escape)
    for pattern, escape in ((r"~(?=\d+$)", "%7E"), (r"@(?=\d+$)", "%40"), (r"^row=(?=\d+$)", "row%3D"))
)


class Entry(NamedTuple):
    """One text of a file of annotations.

    Attributes:
        name: of its row, as the file has it; None where it has none.
        text: empty where `fate` says why there is none.
        row: number of its row in the file, from 0; texts of one row share it.
        latitude, longitude: degrees, where the file tells them.
        group: from a column `group` or `building`, where there is one.
        fate: why this is no text.
    """

    name: str | None
    text: str
    row: int
    latitude: float | None = None
    longitude: float | None = None
    group: str | None = None
    fate: Rejection | None = None


def entries(store: Store, uri: str, column: str = "auto") -> Iterator[Entry]:
    """Every text of a file, or of all files of texts below a prefix, in order.

    Args:
        store: reaches it.
        uri: of a file in any form of `geobatch.archive.forms`, or of a prefix.
        column: title of the column of texts; "auto" looks for it.

    Raises:
        UserError: nothing is there, or no file has such a column; the line names the columns of the first.
        Unreadable: the store failed.
    """
    for found in _files(store, uri, column):
        for number, each in enumerate(rows(store, found.uri, found.etag, column)):
            for content in each.texts:
                text, fate = _said(content)
                yield Entry(each.name, text, number, each.latitude, each.longitude, each.group, fate)


def _said(content: Content) -> tuple[str, Rejection | None]:
    if isinstance(content, Rejection):
        return "", content
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return "", Rejection("not_a_text", f"no UTF-8: {error}")
    return (text, None) if text.strip() else ("", Rejection("empty", "blanks only"))


def _files(store: Store, uri: str, column: str) -> list[Object]:
    whole = split(uri).uri
    single = store.head(whole) if text_form(whole) else None
    if single is not None:
        listed = [single]
    else:
        listed = [each for page in store.objects(whole) for each in page if text_form(each.uri)]
    if not listed:
        raise UserError(f"no file of texts lies at {uri}; give a CSV, TSV, JSONL, JSON or Parquet file")
    said = [complaint(store, each, column) for each in listed]
    if all(said):
        raise UserError(str(said[0]))
    return [each for each, wrong in zip(listed, said, strict=True) if not wrong]


def complaint(store: Store, found: Object, column: str) -> str | None:
    """What is wrong with a file that has no such column, in a line; None where nothing is, or where reading will tell."""
    heads = titles(store, found.uri, found.etag or None, column)
    return None if heads is None else f"{found.uri} has {missing(heads, column)}; name the one that holds texts"


def holds_texts(store: Store, uri: str, exclude: Sequence[str] = ()) -> bool:
    """Whether an archive is one of texts: it, or one of the first ten files of texts below it, has a column of texts, and there
    is nothing of images: no such files, tars or zips among the first 1000 objects, no columns of images or URIs in those ten.
    What the globs of `exclude` fit is passed over.
    """
    whole = split(uri).uri
    single = store.head(whole) if text_form(whole) else None
    page = [single] if single is not None else next(iter(store.objects(whole)), [])
    names, below = Names(ArchiveConfig(uri=uri, exclude=tuple(exclude))), whole.rstrip("/") + "/"
    page = [each for each in page if not names.excludes(each.uri.removeprefix(below))]
    if any(named_like_an_image(each.uri) or container(each.uri) in ("tar", "zip") for each in page):
        return False
    files = [each for each in page if text_form(each.uri)][:_JUDGED]
    if any(_names_images(store, each) for each in files):
        return False
    return any(complaint(store, each, "auto") is None for each in files)


def _names_images(store: Store, found: Object) -> bool:
    """Whether a file of texts is a manifest, or an archive of images that are described."""
    if titles(store, found.uri, found.etag or None, "uri") is None and text_form(found.uri) == "csv":
        return True
    if text_form(found.uri) != "parquet":
        return False
    try:
        schema = parquet.opened(store, found.uri, found.size, found.etag).schema_arrow
    except parquet.DAMAGE:
        return True  # what it holds nobody knows: the reader of images says so in a row
    return "uri" in schema.names or parquet.image_column(schema) is not None


def read(store: Store, plan: pa.Table, config: ArchiveConfig, done: Mapping[int, int]) -> Iterator[Slice]:
    """The slices of a shard of kind "text" that are not done; `Slice.end` counts texts.

    Raises:
        Unreadable: the store failed.
    """
    if NOTHING in done.values() and len(done) == max(done) + 1:
        return
    uri, etag = plan["uri"][0].as_py(), plan["etag"][0].as_py()
    number, count, weight, kept = 0, 0, 0, Rows()
    for at, (image_id, content, ends) in enumerate(_texts(uri, rows(store, uri, etag, config.texts), config)):
        cost = len(content) if isinstance(content, bytes) else 0
        if count and (count == config.shard_rows or weight + cost > config.shard_bytes):
            if number not in done:
                yield Slice(number, False, at, 0, kept.take())
            number, count, weight = number + 1, 0, 0
        count, weight = count + 1, weight + cost
        if ends and number in done:
            number = _free(number, done)
        if number in done:
            continue
        if isinstance(content, bytes):
            kept.add(image_id, uri, etag, content)
        else:
            kept.reject(image_id, uri, etag, None, content)
    yield from (piece for piece in close(number, done, 0, kept) if piece.number not in done)


def _free(number: int, done: Mapping[int, int]) -> int:
    """The slice that says that a file ends early within `number`, which is done: the first that is missing, for which nothing
    else would say where its rows went. `number` itself where none is missing.
    """
    free = next(each for each in naturals(number) if each not in done)
    return number if NOTHING in done.values() and free > max(done) else free


def _texts(uri: str, source: Iterator[Row], config: ArchiveConfig) -> Iterator[tuple[str, Content, bool]]:
    """Every text with its image_id, and whether it is none but the file's early end."""
    ids, first = _Ids(uri), 0
    while batch := list(islice(source, _NAMED)):
        given = iter(ids.give([each.name for each in batch if each.name is not None]))
        for at, each in enumerate(batch, first):
            called = escaped(uri) if each.ends else next(given) if each.name is not None else ids.numbered(at)
            for count, content in enumerate(each.texts, 1):
                yield (f"{called}@{count}" if len(each.texts) > 1 else called), _judged(content, config), each.ends
        first += len(batch)


def _plain(name: str) -> str:
    name = escaped(name)
    if name[-1:].isdigit():  # all that is made here ends in a digit, and few names do
        for pattern, escape in _MADE:
            name = pattern.sub(escape, name)
    return name


def _judged(content: Content, config: ArchiveConfig) -> Content:
    if isinstance(content, bytes) and len(content) > config.max_bytes:
        return too_large(len(content), config)
    return content


class _Ids:
    """The image_ids of one file's rows, in their order."""

    def __init__(self, uri: str) -> None:
        self._prefix = f"{escaped(uri)}#"
        self._met: list[npt.NDArray[np.uint64]] = []  # digests of names, sorted, in runs that merge as they grow
        self._again: dict[int, int] = {}

    def give(self, names: list[str]) -> list[str]:
        """The ids of the next rows that have names."""
        plain = [_plain(name) for name in names]
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in plain)
        keys = np.frombuffer(digests, np.uint64)
        new = np.zeros(len(keys), bool)
        new[np.unique(keys, return_index=True)[1]] = True
        for run in self._met:
            new &= run[np.minimum(np.searchsorted(run, keys), len(run) - 1)] != keys
        given = []
        for name, key, first in zip(plain, keys.tolist(), new.tolist(), strict=True):
            if not first:
                self._again[key] = self._again.get(key, 1) + 1
            given.append(f"{self._prefix}{name}" if first else f"{self._prefix}{name}~{self._again[key]}")
        self._add(np.sort(keys[new]))
        return given

    def numbered(self, row: int) -> str:
        """The id of a row without a name."""
        return f"{self._prefix}row={row}"

    def _add(self, run: npt.NDArray[np.uint64]) -> None:
        while len(run) and self._met and len(self._met[-1]) <= 2 * len(run):
            run = np.union1d(self._met.pop(), run)
        if len(run):
            self._met.append(run)
