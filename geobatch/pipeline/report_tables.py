"""What a page can be of: a run's table, or a CSV or Parquet file of another system's predictions, read alike.

A file knows names and places and nothing else, so all its other columns are null. It has no archive: its pictures are found
where its names are addresses of loose images, and its names may be shorter than a table's (`IMG_1.jpg` for
`s3://bucket/IMG_1.jpg`), as a truth's may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.named import mark_of, rows_of
from geobatch.benchmark.names import Names
from geobatch.benchmark.places import Places
from geobatch.benchmark.predictions import is_file, load_predictions
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.pipeline.report_records import Said, account_of
from geobatch.progress import say
from geobatch.schema import PLACE, empty_columns
from geobatch.sink import Snapshot, latest
from geobatch.store import Store

Rows = NDArray[np.intp]


class Table(Protocol):
    """Rows of PLACE, a part at a time."""

    @property
    def output(self) -> str:
        """Its address."""

    def tables(self, store: Store, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows in their order, of some columns or of all."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A file of predictions.

    Fields:
        output: its address.
        rows: of PLACE, each image once.
    """

    output: str
    rows: pa.Table

    def tables(self, store: Store, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows at once."""
        yield self.rows if columns is None else self.rows.select(columns)


def table_of(store: Store, uri: str) -> Snapshot | Predicted:
    """The newest version of a run's table, or a file of predictions; what the file's reader left out is said.

    Raises:
        UserError: it is neither, or the file holds an image twice.
    """
    if not is_file(uri):
        return finished(store, uri)
    bare, notes = load_predictions(store, uri)
    for note in notes:
        say(note)
    ids = Places.of(bare).ids(uri)
    failed = pc.is_valid(bare["reason"])
    none = pa.scalar(None, pa.string())
    columns = {
        **empty_columns(list(PLACE), len(bare)),
        **{name: bare[name] for name in ("image_id", "status", "stage", "latitude", "longitude")},
        "uri": pa.array([_object(image_id) for image_id in ids], pa.string()),
        # Not the word that runs have for images without coordinates of their own: its advice would mislead.
        "reason": pc.if_else(failed, "not placed", none),
        "detail": pc.if_else(failed, "the file has no coordinates on Earth for it", none),
    }
    return Predicted(output=uri, rows=pa.table(columns))


def finished(store: Store, output: str) -> Snapshot:
    """The newest version of a table.

    Raises:
        UserError: there is none.
    """
    table = latest(store, output)
    if table is None:
        raise UserError(f"{output} holds no finished table; run the job that makes it until it says so")
    return table


def said_of(store: Store, table: Snapshot | Predicted) -> Said:
    """What is known of where a table came from; a file's archive is the folder that its relative names are read from."""
    if isinstance(table, Snapshot):
        return account_of(store, table)
    facts = (("predictions", f"{table.output}, {len(table.rows):,} images"),)
    return Said(method=last_part(table.output), archive=str(Path.cwd()), facts=facts, on_page=None)


def last_part(uri: str) -> str:
    """Of an address."""
    return uri.rstrip("/").rpartition("/")[2]


def names_of(outputs: Sequence[str]) -> list[str]:
    """Last parts of addresses, whole ones where they are the same."""
    last = [last_part(output) for output in outputs]
    return last if len(set(last)) == len(last) else [f"{number}: {output}" for number, output in enumerate(outputs, 1)]


def addressed(sample: pa.Table) -> pa.Table:
    """The rows of a file whose names are addresses of loose images: nothing else of theirs can be found again."""
    there = pc.match_substring_regex(sample["image_id"], r"^(s3://|file:///|/)[^#]*$")
    return sample.filter(there)


class Named(NamedTuple):
    """The images of a table.

    Fields:
        ids: `(N,)` distinct names.
        rows: `(N,)` of the truth, -1 where there is none.
        file: the table's address where it is a file, whose names may be shorter than others'.
    """

    ids: list[str]
    rows: Rows
    file: str | None = None


def paired(ours: Named, theirs: Named) -> Rows:
    """Rows `(N,)` of theirs that hold our images, -1 where none does.

    By a truth an image is the one of the same name, else the one of the same row and the same text of it, as an evaluation has
    it. Others, and all without a truth, are those that a file's names fit as a truth's do, unless the truth tells them apart.

    Raises:
        UserError: a file's name fits several images.
    """
    pairs = np.full(len(ours.ids), -1, np.intp)
    if np.any(theirs.rows >= 0):
        _join(pairs, ours.ids, theirs.ids)
        _join(pairs, _texts(ours), _texts(theirs))
    their, our = _fitting(theirs, np.setdiff1d(np.arange(len(theirs.ids)), pairs), ours, np.flatnonzero(pairs < 0))
    pairs[our] = their
    our, their = _fitting(ours, np.flatnonzero(pairs < 0), theirs, np.setdiff1d(np.arange(len(theirs.ids)), pairs))
    pairs[our] = their
    return pairs


def _join(pairs: Rows, ours: Sequence[object], theirs: Sequence[object]) -> None:
    """Pairs what has none yet and the same key; None is no key."""
    taken = set(pairs.tolist())
    rows = {key: row for row, key in enumerate(theirs) if key is not None and row not in taken}
    for row in np.flatnonzero(pairs < 0).tolist():
        pairs[row] = rows.get(ours[row], -1)


def _texts(named: Named) -> list[tuple[int, str] | None]:
    """Rows of the truth, with what marks the texts of one row."""
    return [(row, mark_of(one)) if row >= 0 else None for row, one in zip(named.rows.tolist(), named.ids, strict=True)]


def _fitting(known: Named, left: Rows, others: Named, free: Rows) -> tuple[Rows, Rows]:
    """Rows among those `left` in a file, and the rows of others among those `free` whose names fit theirs."""
    if known.file is None or not left.size or not free.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    names, nowhere = Names(pa.array([known.ids[row] for row in left], pa.large_string())), np.zeros(left.size)
    truth = Truth(name=known.file, image_id=names, latitude=nowhere, longitude=nowhere)
    found = rows_of(truth, [others.ids[row] for row in free])
    rows, those = left[found[found >= 0]], free[found >= 0]
    same = (known.rows[rows] < 0) | (others.rows[those] < 0) | (known.rows[rows] == others.rows[those])
    return rows[same], those[same]


def _object(image_id: str) -> str:
    return image_id.split("#", 1)[0].replace("%23", "#").replace("%25", "%")
