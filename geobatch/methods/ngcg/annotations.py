"""The texts that describe images, by the images' names.

Names are matched to images as a table of truth is (`geobatch.benchmark.truth`): by the whole image_id or an ending of it that
fits one image only, but never by the last part of a longer name: each of GeoText-1652's buildings has an image-43.jpeg. A name
that comes several times gathers its texts in their order.

Which images show the same place is a `group`; no two of one group may be each other's negatives:

    column     what the file says in a column `group` or `building`
    building   the folder of the image's name (GeoText-1652: 0839/image-43.jpeg)
    name       the file's name (CVG-Text: one panorama, one place), or the whole name where files are named otherwise

`auto` takes the column where there is one, the building where every name is `digits/file`, else the name. The published
code for GeoText-1652 defines batches of different buildings and never uses them, so a batch there holds false negatives.

Where a picture was taken is what the file says, else what its name says (CVG-Text), else unknown (NaN).

A row that is no text is counted; a file that breaks off ends the job, for nobody knows what else it held. 600,000 texts of
200,000 images are gathered in 3.5 s and matched in 2, and hold 0.2 GB.

Not covered: one text for several images (write it once for each), images of one place that different names hide.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.archive.texts import Entry, entries
from geobatch.benchmark.named import building_of, file_of, place_of
from geobatch.benchmark.names import Names
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.point import valid
from geobatch.store import Store

Grouping = Literal["auto", "column", "building", "name"]
Floats = NDArray[np.float64]

#: Entries gathered at once.
_BLOCK = 1 << 16

#: GeoText-1652's names end so: a building's number, an image.
_NUMBERED = re.compile(r"(?:^|/)\d+/[^/]+$")

#: Why a text is none that concern all of its file that follows.
_DAMAGE = ("broken_archive", "missing", "changed", "unreadable")

_ENTRY = pa.schema(
    [
        pa.field("name", pa.large_string()),
        pa.field("text", pa.large_string()),  # null: blank
        pa.field("group", pa.large_string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The texts of N named images.

    Fields:
        truth: their names and places (NaN where unknown), and how images are matched to them.
        texts: `(N,)` lists; empty where all texts of a name are blank.
        groups: `(N,)` names of places.
        grouping: the rule that made them.
        nameless: texts that name no image.
        blank: texts that are none: blanks, no UTF-8, no row of their file's form.
    """

    truth: Truth
    texts: pa.LargeListArray
    groups: pa.LargeStringArray
    grouping: Grouping
    nameless: int
    blank: int

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def names(self) -> Names:
        """The N names."""
        return self.truth.image_id

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """`(M,)` the group of each name that has a text, as a number."""
        described = self.groups.filter(pc.greater(pc.list_value_length(self.texts), 0))
        return described.dictionary_encode().indices.to_numpy().astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, texts, groups and places."""
        total = hashlib.sha256()
        for at in range(0, len(self), _BLOCK):
            block = slice(at, at + _BLOCK)
            said = [list(self.names[block]), self.texts[block].to_pylist(), self.groups[block].to_pylist()]
            total.update(repr(said).encode("utf-8", "surrogatepass"))
            total.update(self.truth.latitude[block].tobytes() + self.truth.longitude[block].tobytes())
        return total.hexdigest()

    def match(self, image_ids: Sequence[str]) -> NDArray[np.intp]:
        """Rows `(M,)` that images belong to, -1 where no name fits.

        Raises:
            UserError: a name fits several images, or an image several names.
        """
        return self.truth.match(image_ids)


def read(store: Store, uri: str, column: str = "auto", grouping: Grouping = "auto") -> Annotations:
    """Annotations from a file, or all files below a prefix, in any form that `geobatch.archive.texts` knows.

    Args:
        column: of the texts.

    Raises:
        UserError: there is no such file or column, it names no image, all texts are blank, or a name has two places.
    """
    return gather(entries(store, uri, column), uri, grouping)


def gather(found: Iterable[Entry], source: str, grouping: Grouping = "auto") -> Annotations:
    """Annotations from entries; `source` is for messages. Errors as `read`."""
    table = pa.Table.from_batches(_batches(iter(found)), _ENTRY)
    known = table.filter(pc.is_valid(table["name"]))
    nameless = len(table) - len(known)
    if not len(known):
        what = f"{nameless:,} texts, none of which names an image" if nameless else "no text"
        raise UserError(f"{source} holds {what}; give a file with a column image_id, id, name or image beside its texts")
    blank = known["text"].null_count
    if blank == len(known):
        raise UserError(f"all {blank:,} texts of {source} are blank; name the column that holds them with --column")
    bounds = [(axis, bound) for axis in ("latitude", "longitude") for bound in ("min", "max")]
    # One thread: only then do texts come in the file's order.
    grouped = known.group_by("name", use_threads=False)
    merged = grouped.aggregate([("text", "list"), ("group", "first"), *bounds]).combine_chunks()
    names = _whole(merged["name"])
    latitude, longitude = (_one_each(merged, axis, names, source) for axis in ("latitude", "longitude"))
    wrong = np.flatnonzero(np.isfinite(latitude) & ~valid(latitude, longitude))
    if wrong.size:
        name, place = names[int(wrong[0])].as_py(), f"{latitude[wrong[0]]:g}, {longitude[wrong[0]]:g}"
        raise UserError(f"{name!r} lies at {place} in {source}, which is nowhere; correct it (are both columns exchanged?)")
    how = _rule(names, merged["group_first"], grouping, source)
    return Annotations(
        truth=Truth(name=source, image_id=Names(names), latitude=latitude, longitude=longitude, loose=False),
        texts=_without_nulls(merged["text_list"]),
        groups=_groups(names, merged["group_first"], how),
        grouping=how,
        nameless=nameless,
        blank=blank,
    )


def _batches(found: Iterator[Entry]) -> Iterator[pa.RecordBatch]:
    while some := list(islice(found, _BLOCK)):
        places = [_place(each) for each in some]
        columns = [
            [each.name or None for each in some],
            [_text(each) for each in some],
            [each.group or None for each in some],
            [place[0] for place in places],
            [place[1] for place in places],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _ENTRY, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_ENTRY)


def _text(entry: Entry) -> str | None:
    """The text, None where there is none.

    Raises:
        UserError: the file breaks off here, and nobody knows what it held.
    """
    if entry.fate is not None and entry.fate.reason in _DAMAGE:
        raise UserError(f"the annotations end early ({entry.fate.detail}); mend that file")
    return entry.text if entry.fate is None and entry.text.strip() else None


def _one_each(merged: pa.Table, axis: str, names: pa.LargeStringArray, source: str) -> Floats:
    """Degrees (N,) of each name, NaN where unknown."""
    least, most = (merged[f"{axis}_{bound}"].to_numpy() for bound in ("min", "max"))
    odd = np.flatnonzero(least < most)
    if odd.size:
        raise UserError(f"{names[int(odd[0])].as_py()!r} has two places in {source}; leave one")
    found: Floats = least.astype(np.float64)
    return found


def _place(entry: Entry) -> tuple[float | None, float | None]:
    if entry.latitude is not None and entry.longitude is not None:
        return entry.latitude, entry.longitude
    return (place_of(entry.name) if entry.name else None) or (None, None)


def _rule(names: pa.LargeStringArray, groups: pa.ChunkedArray, asked: Grouping, source: str) -> Grouping:
    there = groups.null_count < len(groups)
    if asked == "column" and not there:
        raise UserError(f"{source} has no column group; leave --grouping out, or add that column")
    if asked != "auto":
        return asked
    if there:
        return "column"
    return "building" if all(_NUMBERED.search(name) for name in Names(names)) else "name"


def _groups(names: pa.LargeStringArray, column: pa.ChunkedArray, how: Grouping) -> pa.LargeStringArray:
    if how == "column":  # a name without a group is a place of its own
        return _whole(pc.coalesce(column, names))
    if how == "building":
        return pa.array([building_of(name) for name in Names(names)], pa.large_string())
    return pa.array([file_of(name) if place_of(name) else name for name in Names(names)], pa.large_string())


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.LargeStringArray:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.concat_arrays([pa.nulls(0, pa.large_string()), *(chunk.cast(pa.large_string()) for chunk in chunks)])


def _without_nulls(lists: pa.ChunkedArray) -> pa.LargeListArray:
    """The same lists without their nulls."""
    whole = lists.combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    values, owners = whole.flatten(), pc.list_parent_indices(whole).to_numpy()
    valid = pc.is_valid(values)
    counts = np.bincount(owners[valid.to_numpy(zero_copy_only=False)], minlength=len(whole))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, values.filter(valid).cast(pa.large_string()))
