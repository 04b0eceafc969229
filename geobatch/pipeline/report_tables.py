"""What a page can be of: a run's table, or a CSV or Parquet file of another system's predictions, read alike.

A file knows names and places and nothing else, so all its other columns are null. It has no archive: its pictures are found
where its names are addresses of loose images, and its names may be shorter than a table's (`IMG_1.jpg` for
`s3://bucket/IMG_1.jpg`), as a truth's may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.named import rows_of
from geobatch.benchmark.places import Places
from geobatch.benchmark.predictions import is_file, load_predictions
from geobatch.benchmark.truth import Truth, truth_of
from geobatch.errors import UserError
from geobatch.pipeline.report_records import Said, account_of
from geobatch.progress import say
from geobatch.schema import PLACE, empty_columns
from geobatch.sink import Snapshot, latest
from geobatch.store import Store


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


def known_by(image_ids: Sequence[str], name: str) -> Truth:
    """Names that other tables' images are found by (`rows_of`) as those of a truth are, row for row; they are distinct."""
    nowhere = np.zeros(len(image_ids))
    return truth_of(image_ids, nowhere, nowhere, name)


def rows_for(images: pa.Array, part: pa.Table, table: Table, page: Truth | None) -> NDArray[np.intp]:
    """Rows `(P,)` of a part that hold the page's images, -1 where it has none.

    Args:
        images: the page's names, `(P,)`.
        part: of `table`, with its image_id.
        page: the same names where they are a file's (`known_by`), so that longer ones are found by them.

    Raises:
        UserError: a file's name fits several images.
    """
    if isinstance(table, Predicted):
        return rows_of(known_by(part["image_id"].to_pylist(), table.output), images.to_pylist())
    if page is None:
        at = pc.index_in(images, value_set=part["image_id"].combine_chunks())
        return pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.intp)
    found, rows = rows_of(page, part["image_id"].to_pylist()), np.full(len(images), -1, np.intp)
    rows[found[found >= 0]] = np.flatnonzero(found >= 0)
    return rows


def _object(image_id: str) -> str:
    return image_id.split("#", 1)[0].replace("%23", "#").replace("%25", "%")
