"""The table: which parts are it now, which of their rows count, and how a reader gets them.

`table/N.json` with the largest N is the truth. A part may have rows that a later run superseded (an object whose bytes
changed, a tar that was rebuilt): their positions are listed, and `read` leaves them out. A plain glob over `places/` reads
the same rows after a finished run over a fresh output, but not in general.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.errors import UserError
from geobatch.store import Store, StoreConfig, join


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of the table.

    Fields:
        output: where it lies.
        version: its number, from 1.
        record: the JSON document (`parts`, `run`, `fingerprint`, `empty_sources`, …).
    """

    output: str
    version: int
    record: dict[str, Any]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """`{"path", "rows", "bytes", "run", "removed": [row positions]}` of each part; older parts do not name their run."""
        parts: list[dict[str, Any]] = self.record["parts"]
        return parts

    def of_run(self, run: str) -> Snapshot:
        """The same table with nothing but the parts that may hold rows of a run."""
        return replace(self, record={**self.record, "parts": [part for part in self.parts if part.get("run", run) == run]})

    def uris(self) -> list[str]:
        """Where the parts lie."""
        return [join(self.output, part["path"]) for part in self.parts]

    def tables(self, store: Store, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The live rows, part by part, in the order of the record; many GETs in flight."""
        for part, got in zip(self.parts, store.get_many(self.uris()), strict=True):
            if isinstance(got, BaseException):
                raise got
            table = pq.read_table(pa.BufferReader(got), columns=columns)
            if part.get("removed"):
                keep = np.ones(len(table), dtype=bool)
                keep[part["removed"]] = False
                table = table.filter(pa.array(keep))
            yield table


def latest(store: Store, output: str) -> Snapshot | None:
    """The newest version of the table, or None while no run has finished."""
    names = [item.uri.rsplit("/", 1)[-1] for page in store.objects(join(output, "table")) for item in page]
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"(\d+)\.json", name))]
    if not numbers:
        return None
    version = max(numbers)
    return Snapshot(output=output, version=version, record=json.loads(store.get(join(output, "table", f"{version}.json"))))


def read(output: str, columns: list[str] | None = None, store: StoreConfig | None = None) -> pa.Table:
    """The table at `output` as one Arrow table.

    Raises:
        UserError: no run has finished there yet.
    """
    reach = Store(store or StoreConfig())
    snapshot = latest(reach, output)
    if snapshot is None:
        raise UserError(f"{output} holds no finished table; run geolocate_bucket.py with this --output until it says so")
    tables = list(snapshot.tables(reach, columns))
    if not tables:
        raise UserError(f"the table at {output} has no rows; check that the archive holds images")
    return pa.concat_tables(tables, promote_options="default")  # parts of older versions lack newer columns


class Keys:
    """A compact set of string tuples: 16 bytes a key instead of Python's 100 and more (ten million keys: 160 MB).

    Two different keys are taken for the same with a chance below 1e-24 at ten million.
    """

    def __init__(self, keys: Iterable[tuple[str | None, ...]]) -> None:
        digests = np.frombuffer(b"".join(self._digest(key) for key in keys), dtype=np.uint64).reshape(-1, 2)
        self._sorted = digests[np.lexsort((digests[:, 1], digests[:, 0]))]

    @staticmethod
    def _digest(key: tuple[str | None, ...]) -> bytes:
        text = "\0".join("\1" if part is None else part for part in key)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def __len__(self) -> int:
        return len(self._sorted)

    def holds(self, keys: Iterable[tuple[str | None, ...]]) -> np.ndarray:
        """Boolean array: which of the keys are in the set."""
        wanted = np.frombuffer(b"".join(self._digest(key) for key in keys), dtype=np.uint64).reshape(-1, 2)
        found = np.zeros(len(wanted), dtype=bool)
        left = np.searchsorted(self._sorted[:, 0], wanted[:, 0], side="left")
        right = np.searchsorted(self._sorted[:, 0], wanted[:, 0], side="right")
        for index in np.flatnonzero(right > left):
            found[index] = (self._sorted[left[index] : right[index], 1] == wanted[index, 1]).any()
        return found


def superseding(store: Store, old: Snapshot | None, planned: Iterable[tuple[str]]) -> list[dict[str, Any]]:
    """The old table's parts with every row removed whose object was planned anew; parts without a row left are gone."""
    if old is None or not old.parts:
        return []
    keys = Keys(planned)
    parts = []
    for part, got in zip(old.parts, store.get_many(old.uris()), strict=True):
        if isinstance(got, BaseException):
            raise got
        uris = pq.read_table(pa.BufferReader(got), columns=["uri"])["uri"].to_pylist()
        removed = set(part.get("removed", ())) | set(np.flatnonzero(keys.holds((uri,) for uri in uris)).tolist())
        if len(removed) < len(uris):
            parts.append({**part, "removed": sorted(removed)} if removed else part)
    return parts
