"""What a run could not read, and what the table knows of it all the same.

A store or a policy that refuses bytes tonight says nothing about them. What the table holds of the same bytes (the same
etag) stays true, and a rejection must not take its place: else one archived object would cost the ten thousand places of its
members, for good, since the next night knows the etag.

- An image that came out unread does not supersede its own place: the new row is left out of the table.
- Of a container whose reading broke off, which its own row says (an image_id without a member), the images that did not come
  out keep their rows.

Only slices that rejected something for one of `UNREAD` are read for this. In memory are 16 bytes an image of theirs, and 16
more where a place stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.sink.keys import Keys
from geobatch.sink.table import Piece, Snapshot, live_rows, with_removed
from geobatch.store import Store

#: Reasons of the store, which pass, and all that an image is rejected for whose bytes nobody saw whole.
PASSING = ("missing", "changed", "unreadable")
UNREAD = (*PASSING, "broken_archive")


class Unread(NamedTuple):
    """What of a run was not read.

    Attributes:
        images: (image_id, etag) of the rows.
        cut: etag of each container whose reading broke off.
        waiting: those of them for which it was the store that failed.
        parts: which of the run's parts hold such rows, by index.
    """

    images: Keys
    cut: dict[str, str | None]
    waiting: frozenset[str]
    parts: frozenset[int]


def unread(store: Store, output: str, plan: dict[str, Any], commits: list[dict[str, Any]]) -> Unread:
    """Looks through the parts of those commits that rejected for such reasons.

    Args:
        store: reaches the output.
        output: of the table.
        plan: what `plan.json` says.
        commits: those with a part.
    """
    found = frozenset(index for index, commit in enumerate(commits) if any(map(commit["reasons"].get, UNREAD)))
    shards = {commits[index]["shard"] for index in found}
    loose = {
        file["first"] + at
        for file in plan["files"]
        for at, kind in enumerate(file["kinds"])
        if kind == "object" and file["first"] + at in shards
    }
    cut: dict[str, str | None] = {}
    waiting: set[str] = set()

    def images() -> Iterator[tuple[str, str | None]]:
        for piece in _pieces(store, output, [commit["part"] for commit in commits], found):
            for row in piece.rows.to_pylist():
                if commits[piece.part]["shard"] not in loose and "#" not in row["image_id"]:
                    cut[row["uri"]] = row["etag"]
                    if row["reason"] in PASSING:
                        waiting.add(row["uri"])
                yield row["image_id"], row["etag"]

    return Unread(Keys(images()), cut, frozenset(waiting), found)


def without(store: Store, output: str, parts: list[dict[str, Any]], found: Unread, stays: Keys) -> list[dict[str, Any]]:
    """The run's parts without the unread rows of images that keep their place; parts without a row left are gone.

    Args:
        store: reaches the output.
        output: of the table.
        parts: of the run, in the order in which `unread` met them.
        found: what it found.
        stays: (image_id, etag) of those images.
    """
    if not len(stays):
        return parts
    gone: dict[int, list[int]] = {}
    for piece in _pieces(store, output, parts, found.parts):
        again = stays.holds(zip(piece.rows["image_id"].to_pylist(), piece.rows["etag"].to_pylist(), strict=True))
        gone[piece.part] = [*gone.get(piece.part, ()), *piece.positions[again].tolist()]
    parts = [with_removed(part, np.sort(gone[at])) if gone.get(at) else part for at, part in enumerate(parts)]
    return [part for part in parts if live_rows(part)]


def places(rows: pa.Table, images: Keys) -> npt.NDArray[np.bool_]:
    """Which rows of an old table (image_id, etag, status) are places of these images, by the same bytes."""
    held = images.holds(zip(rows["image_id"].to_pylist(), rows["etag"].to_pylist(), strict=True))
    return held & np.asarray(pc.equal(rows["status"], "placed"))


def _pieces(store: Store, output: str, parts: list[dict[str, Any]], only: frozenset[int]) -> Iterator[Piece]:
    """The unread rows of these parts."""
    columns = ["image_id", "uri", "etag", "reason"]
    for piece in Snapshot(output=output, version=0, record={"parts": parts}).pieces(store, columns, set(only)):
        rows = np.asarray(pc.is_in(piece.rows["reason"], pa.array(UNREAD)))
        yield Piece(piece.part, piece.positions[rows], piece.rows.filter(pa.array(rows)))
