"""A CSV or Parquet file that names the images of an archive, one URI a row.

The column is called `uri`. A URI without a scheme is relative to the folder the manifest lies in. The store is asked for
the size and etag of each, many at once; what is not there, what the store does not show and what is no URI keep a row, so that
each ends as a rejection and not in silence. A URI met again is dropped and counted: the same object is one image. What was met
is remembered as 16 bytes of its BLAKE2 digest, in sorted runs that merge as they grow: 160 MB for ten million rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from geobatch.archive.parquet import DAMAGE, image_column, opened
from geobatch.errors import GeobatchError, UserError
from geobatch.store import ALONE, Denied, Object, Store, Unreadable, join, misnamed, split

#: Rows asked of the store and compared with what was met at once.
_BATCH = 1000
#: Objects of which a store that answers says nothing however often it is asked, one behind the other, before it is at fault.
_IN_A_ROW = 100


class Listed(list[tuple[str, Object | GeobatchError | None]]):
    """A page: each URI with what the store says of it, be it why it says nothing; None where nothing is; `passed` counts rows
    left out.
    """

    passed: int = 0


def is_manifest(name: str) -> bool:
    """Whether a file of this name may be one; a Parquet file is one if it has no image column."""
    return name.lower().endswith((".csv", ".parquet"))


def names_images(store: Store, found: Object) -> bool:
    """Whether the file is a manifest, and not an archive.

    Raises:
        UserError: a Parquet file with neither images nor URIs.
    """
    if not found.uri.lower().endswith(".parquet"):
        return True
    try:
        schema = opened(store, found.uri, found.size, found.etag).schema_arrow
    except DAMAGE:
        return False  # a broken archive: the reader will say so in a row
    if image_column(schema) is not None:
        return False
    if "uri" not in schema.names:
        said = ", ".join(schema.names[:10])
        raise UserError(f"{found.uri} has neither an image column nor a column uri, only {said}; rename the one that is meant")
    return True


def pages(store: Store, found: Object) -> Iterator[Listed]:
    """The objects that a manifest names, in its order.

    Raises:
        UserError: it cannot be read, has no column `uri`, or no row is a URI.
        Denied: no row may be looked at.
        Unreadable: the store failed, or said nothing of `_IN_A_ROW` objects.
    """
    folder = found.uri[: found.uri.rindex("/") + 1]
    asked = _Asked(store)
    waiting: list[str] = []
    page = Listed()
    for texts in _columns(store, found):
        for text in texts:
            if not text:
                page.passed += 1
                continue
            waiting.append(_absolute(text, folder))
            if len(waiting) == _BATCH:
                yield asked(waiting, page)
                waiting, page = [], Listed()
    yield asked(waiting, page)
    asked.refuse()


def _absolute(text: str, folder: str) -> str:
    try:
        return split(text if "://" in text or text.startswith("/") else join(folder, text)).uri
    except UserError:
        return text  # of which the store will say that nothing is there


class _Asked:
    """Asks the store about the rows of one manifest."""

    def __init__(self, store: Store) -> None:
        self._store, self._met, self._silent = store, _Met(), 0
        self._fault: UserError | None = None
        self._sound = False

    def __call__(self, uris: list[str], page: Listed) -> Listed:
        new = [uri for uri, again in zip(uris, self._met.again(uris), strict=True) if not again]
        page.passed += len(uris) - len(new)
        for uri, answer in zip(new, self._store.head_many(new), strict=True):
            self._silent = self._silent + 1 if isinstance(answer, Unreadable) and answer.exhausted else 0
            if isinstance(answer, GeobatchError) and (self._silent == _IN_A_ROW or not isinstance(answer, ALONE)):
                raise answer
            page.append((uri, answer))
            self._weigh(uri, answer)
        return page

    def _weigh(self, uri: str, answer: Object | GeobatchError | None) -> None:
        """Remembers why a row is nothing, for as long as none is anything."""
        if self._sound:
            return
        fault = answer if isinstance(answer, Denied) else misnamed(uri) if answer is None else None
        self._sound = fault is None
        self._fault = self._fault or fault

    def refuse(self) -> None:
        """Refuses a manifest of which no row is a URI, or none may be looked at: that is no fault of single rows."""
        if self._fault is not None and not self._sound:
            raise self._fault


def _columns(store: Store, found: Object) -> Iterator[list[str | None]]:
    """The column `uri`, in pieces."""
    try:
        if found.uri.lower().endswith(".parquet"):
            file = opened(store, found.uri, found.size, found.etag)
            for batch in file.iter_batches(batch_size=_BATCH, columns=["uri"], use_threads=False):
                yield batch.column(0).cast(pa.string()).to_pylist()
            return
        with store.stream(found.uri, if_match=found.etag) as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=4 << 20),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(include_columns=["uri"], column_types={"uri": pa.string()}),
            )
            for batch in reader:
                yield batch.column(0).to_pylist()
    except (*DAMAGE, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{found.uri} cannot be read as a manifest ({said}); it must have a column uri") from error


class _Met:
    """Which URIs were met before."""

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.bytes_]] = []

    def again(self, uris: list[str]) -> list[bool]:
        """For each URI whether it was met in an earlier call or earlier in this one."""
        digests = [hashlib.blake2b(uri.encode(), digest_size=16).digest() for uri in uris]
        # NumPy drops zero bytes at the end of a string and would take two digests for one; hence the last byte.
        keys = np.array([digest + b"\x01" for digest in digests], dtype="S17")
        seen = np.zeros(len(keys), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            seen |= run[at] == keys
        again = np.ones(len(keys), bool)
        again[np.unique(keys, return_index=True)[1]] = False
        again |= seen
        self._add(np.sort(keys[~again]))
        return again.tolist()

    def _add(self, run: npt.NDArray[np.bytes_]) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.union1d(self._runs.pop(), run)
        self._runs.append(run)
