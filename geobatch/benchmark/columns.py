"""The three columns of a truth file: names, latitudes, longitudes, out of CSV or Parquet of any size.

Every benchmark names its columns differently (`IMG_ID, LAT, LON`; `id, latitude, longitude`; `img_id, gt_lat, gt_long`), so
titles are guessed from a list (`titles`); values never are. Files are read in a stream and by columns, everything but the three
dropped on the way: OSV-5M's 4.9 million rows of 31 columns become 0.2 GB. What Arrow's CSV reader does not read as the csv
module does (rows of too many or too few cells, numbers written oddly) is read again row by row, so that the answer, or the
complaint with its row number, is the same for every file; a test compares both.

Files that were written for people hold more than data: a header again where two files were joined; behind a blank line a second
header and a row of means, or such rows alone; last rows that are called mean, std and the like, a mean among them. Such lines
are left out, and a note says so; anything else that is no number is refused. The few rows behind a blank line are a summary
where each is called by a word for one, or by a number where no other row is (by a fraction where no other is); else they are
images'.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.benchmark.titles import TRUTH, Wanted, plain
from geobatch.benchmark.titles import chosen as chosen_of
from geobatch.errors import UserError

Floats = NDArray[np.float64]

_NOTHING = ("", "nan", "null", "none", "na")
#: What Arrow is to read as no number; other spellings of these it does not read, and the slow way does.
_NULLS = [spelt for word in _NOTHING for spelt in {word, word.upper(), word.title(), "NaN" if word == "nan" else word}]
#: Lines that a second table at a file's end may have, its header among them.
_SUMMARY = 5
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?")
_FRACTION = re.compile(r"[-+]?\d*\.\d+([eE][-+]?\d+)?%?")
_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
#: What the row of a summary is called, wherever a table ends, and behind a blank line; and its percentiles.
_MEANS = {"mean", "average", "avg", "median", "total"}
_SUMMARIES = _MEANS | {"sum", "std", "stdev", "summary", "overall", "all", "count", "min", "max"}
_PERCENTILE = re.compile(r"\d+(\.\d+)?%")
#: A blank line with few lines behind it, at a file's end, and how many bytes of that end are looked at.
_ALONE, _END = re.compile(rb"(?:\n|\r(?!\n))[ \t]*(?:\r\n|\n|\r)(?:[^\r\n]++[\r\n]*+){1,5}\Z"), 1 << 16
#: Bytes of a file's begin in which its titles are looked for, and of a block that is parsed at once.
_HEAD, _BLOCK = 1 << 16, 8 << 20


class Columns(NamedTuple):
    """Names `(N,)` to the letter, "" where there is none, and degrees `(N,)`, NaN where empty."""

    image_id: pa.LargeStringArray
    latitude: Floats
    longitude: Floats
    notes: tuple[str, ...] = ()
    """What of the file was left out, a line each."""


class _Odd(Exception):
    """A file that is to be read row by row."""


def streamed(file: BinaryIO, name: str, wanted: Wanted = TRUTH) -> Columns | None:
    """The columns of a CSV, read once and forwards; None if it must be read by `from_csv`.

    Raises:
        UserError: it has no such columns.
    """
    head = file.read(_HEAD)
    first = head[: head.find(b"\n")] if b"\n" in head else head
    try:
        line = first.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        return None
    if '"' in line or "\r" in line or not line:
        return None
    delimiter = _delimiter(line)
    titles = [plain(title) for title in line.split(delimiter)]
    chosen = chosen_of(titles, name, wanted)
    if len(set(chosen)) < 3:
        return None
    try:
        again = _Again(head, file)
        found = _by_columns(cast(BinaryIO, again), len(titles), delimiter, chosen)
    except (_Odd, pa.ArrowException):
        return None
    return None if _ALONE.search(again.end) else found  # Arrow passes over blank lines, which say what is no image's


def from_csv(data: bytes, name: str, wanted: Wanted = TRUTH) -> Columns:
    """The columns of a CSV, row by row.

    Raises:
        UserError: what is wrong with it, in which row.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is neither Parquet nor UTF-8 text; save it as a UTF-8 CSV") from error
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text[: text.find("\n")] if "\n" in text else text))
    try:
        header = next(rows, [])
        titles = [plain(title) for title in header]
        chosen = chosen_of(titles, name, wanted)
        lines, notes = _data(header, list(rows), name, chosen[0])
    except csv.Error as error:
        raise UserError(f"{name} is no CSV ({error}); save it as a UTF-8 CSV with a header") from error
    for number, row in enumerate(lines, 1):
        if len(row) < len(header):
            raise UserError(f"row {number} of {name} has {len(row)} of {len(header)} columns; complete or drop it")
    ids, latitude, longitude = ([row[at] for row in lines] for at in chosen)
    return of_cells(ids, latitude, longitude, name)._replace(notes=notes)


def _data(header: list[str], rows: list[list[str]], name: str, image: int) -> tuple[list[list[str]], tuple[str, ...]]:
    """The rows without repeated headers and without a second table of a few lines at the end, and what was left out.

    Args:
        image: column of the names.
    """
    notes = []
    blank = [not any(cell.strip() for cell in row) for row in rows]
    last = max((at for at in range(len(rows) - 1) if blank[at] and not blank[at + 1]), default=-1)
    tail = [row for row, empty in zip(rows[last + 1 :], blank[last + 1 :], strict=True) if not empty]
    if last >= 0 and 2 <= len(tail) <= _SUMMARY and _titles(tail[0]):
        notes.append(f"{name} ends in another table of {len(tail)} lines, from {tail[0][0].strip()[:40]!r} on; it is left out")
        rows, blank = rows[:last], blank[:last]
    elif last >= 0 and len(tail) <= _SUMMARY and _summaries(*(_cells(some, image) for some in (tail, rows[:last]))):
        called = _cells(tail, image)[0][:40]
        notes.append(f"{name} ends in {len(tail)} lines behind a blank one, from {called!r} on, that are no image's; left out")
        rows, blank = rows[:last], blank[:last]
    rows = [row for row, empty in zip(rows, blank, strict=True) if not empty]
    plain = [cell.strip() for cell in header]
    once = [row for row in rows if [cell.strip() for cell in row] != plain]
    if len(once) < len(rows):
        notes.append(f"{name} repeats its header {len(rows) - len(once)} times; those lines are left out")
    return once, tuple(notes)


def _cells(rows: list[list[str]], at: int) -> list[str]:
    return [row[at].strip() if at < len(row) else "" for row in rows]


def _summaries(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the names of the rows behind a blank line are none of images, by those of all other rows."""
    for one in names:
        kind = _FRACTION if _FRACTION.fullmatch(one) else _NUMBER
        odd = kind.fullmatch(one) and any(others) and not any(kind.fullmatch(other) for other in others)
        if not odd and one.lower().rstrip(":") not in _SUMMARIES:
            return False
    return True


def _titles(row: list[str]) -> bool:
    """Whether a row is words only, three at least, none of them a number, nothing or a file's name."""
    cells = [cell.strip() for cell in row]
    return len(cells) >= 3 and not any(
        cell.lower() in _NOTHING or _NUMBER.fullmatch(cell) or _FILE.search(cell) for cell in cells
    )


def from_parquet(file: BinaryIO, name: str, wanted: Wanted = TRUTH) -> Columns:
    """The columns of a Parquet file, which must be seekable.

    Raises:
        UserError: what is wrong with it.
    """
    try:
        table = pq.ParquetFile(file)
        titles = table.schema_arrow.names
        chosen = [titles[at] for at in chosen_of([plain(title) for title in titles], name, wanted)]
        found = table.read(columns=[*dict.fromkeys(chosen)], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} is a damaged Parquet file ({error}); write it again") from error
    columns = [found[title].combine_chunks() for title in chosen]
    kind = columns[0].type
    if (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)) and all(
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) for column in columns[1:]
    ):
        return Columns(_filled(columns[0].cast(pa.large_string())), _floats(columns[1]), _floats(columns[2]))
    ids = ["" if each is None else str(each) for each in columns[0].to_pylist()]
    return of_cells(ids, columns[1].to_pylist(), columns[2].to_pylist(), name)


def _by_columns(file: BinaryIO, width: int, delimiter: str, chosen: list[int]) -> Columns:
    names = [str(at) for at in range(width)]
    wanted = [names[at] for at in chosen]
    reader = pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK, use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            include_columns=wanted,
            column_types=dict(zip(wanted, (pa.large_string(), pa.float64(), pa.float64()), strict=True)),
            null_values=_NULLS,
            strings_can_be_null=False,
        ),
    )
    image_id, latitude, longitude = [], [], []
    for batch in reader:
        if (pc.max(pc.binary_length(batch.column(0))).as_py() or 0) > csv.field_size_limit():
            raise _Odd
        image_id.append(batch.column(0))
        latitude.append(_floats(batch.column(1)))
        longitude.append(_floats(batch.column(2)))
        nameless = np.isnan(latitude[-1]) & np.isnan(longitude[-1])
        if nameless.any() and "" in pc.utf8_trim_whitespace(batch.column(0).filter(pa.array(nameless))).to_pylist():
            raise _Odd  # perhaps a line of nothing but delimiters
    return Columns(
        pa.concat_arrays(image_id) if image_id else pa.array([], pa.large_string()),
        np.concatenate([np.zeros(0), *latitude]),
        np.concatenate([np.zeros(0), *longitude]),
    )


class _Again(io.RawIOBase):
    """A file whose first bytes were read already, read from its begin."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file
        self.end = b""  # the last that was read

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = -1 if size is None else size
        taken = self._head if wanted < 0 else self._head[:wanted]
        self._head = self._head[len(taken) :]
        if wanted < 0 or not taken:
            taken += self._file.read(wanted)
        self.end = (self.end + taken[-_END:])[-_END:]
        return taken


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def of_cells(ids: Sequence[str], latitude: Sequence[object], longitude: Sequence[object], name: str) -> Columns:
    """Columns of names and of degrees as a file has them, in words or numbers.

    Raises:
        UserError: a word that is no number.
    """
    north, east = (_numbers(cells, what, name) for cells, what in ((latitude, "latitude"), (longitude, "longitude")))
    return Columns(_filled(pa.array(ids, pa.large_string())), north, east)


def _filled(ids: pa.Array) -> pa.LargeStringArray:
    return pc.fill_null(ids, "")


def named(columns: Columns, name: str) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which rows `(N,)` have an image's name, and the notes with what is to be said of those that have none."""
    there = np.array(pc.not_equal(columns.image_id, "").to_numpy(zero_copy_only=False))
    without = int(np.sum(~there))
    notes = list(columns.notes)
    if without:
        notes.append(f"{without} rows of {name} have no image id; they are left out")
    if last := _summary(columns.image_id):
        there[-last:], first = False, columns.image_id[-last].as_py().strip()
        one = f"the last row of {name} is called {first!r}, which no image is; it is left out"
        many = f"the last {last} rows of {name}, from {first!r} on, are called as no image is; they are left out"
        notes.append(one if last == 1 else many)
    return there, tuple(notes)


def _summary(image_id: pa.LargeStringArray) -> int:
    """How many of the last rows, never all, are called by words for a summary, where one of these is a mean; else 0."""
    words = (image_id[at].as_py().strip().lower().rstrip(":") for at in range(len(image_id) - 1, 0, -1))
    found = list(takewhile(lambda word: word in _SUMMARIES or _PERCENTILE.fullmatch(word), words))
    return len(found) if _MEANS.intersection(found) else 0


def _floats(column: pa.Array) -> Floats:
    return cast(Floats, pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False))


def _numbers(cells: Sequence[object], what: str, name: str) -> Floats:
    """Degrees `(N,)`, NaN where empty."""
    out = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        text = "" if cell is None else str(cell).strip()
        if text.lower() in _NOTHING:
            continue
        try:
            out[row] = float(text)
        except ValueError as error:
            raise UserError(f"row {row + 1} of {name}: {text[:40]!r} is no {what}; give decimal degrees") from error
    return out
