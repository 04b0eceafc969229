"""Where images really were taken: a table of truth, read forgivingly (`columns`) and matched strictly.

Values are never guessed. One published list has LAT and LON exchanged, which shows when many latitudes pass 90 and no longitude
does: such columns are read the other way round, and a line names it. Any other number out of range or unreadable, an id given
twice with different places, or a name that fits several images ends in one line that says what to do.

An image is looked up by its whole `image_id` first, then by

    ever shorter endings of it, cut after `/` or `#`    s3://b/a.tar#x/1.jpg, b/a.tar#x/1.jpg, …, 1.jpg
    its last part, slashes of the truth as underscores  39/19/3845.jpg is images/39_19_3845.jpg (MP16-Pro)
    the same endings without their extension            3859149887465501 is 00.zip#3859149887465501.jpg (OSV-5M)
    the last part of both                               a/1.jpg is b/1.jpg

Anything but the whole id may belong to one image only; the last is asked of rows alone that no image has by the others, so that
test/1.jpg is not train/1.jpg where that is there itself. MP16-Pro's 4.7 million rows are read in 10 s and
hold 0.5 GB, where lists and dictionaries of strings took 33 s and 8 GB.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.annotated import from_json, is_annotations
from geobatch.benchmark.columns import Columns, Floats, from_csv, from_parquet, named, streamed
from geobatch.benchmark.lookup import Lookup
from geobatch.benchmark.names import BLOCK, Names
from geobatch.benchmark.titles import turned
from geobatch.errors import UserError
from geobatch.geo.point import valid
from geobatch.progress import say
from geobatch.store import NotFound, Store


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Places known to be true.

    Attributes:
        name: where they come from, for messages.
        image_id: `(N,)` unique names.
        latitude, longitude: `(N,)` degrees.
        without_place: rows of the source whose coordinates were empty.
        loose: whether a/1.jpg is b/1.jpg; not where folders say what a picture shows and many have a 1.jpg.
        notes: what of the source was read otherwise than it says, a line each.
    """

    name: str
    image_id: Names
    latitude: Floats
    longitude: Floats
    without_place: int = 0
    loose: bool = True
    notes: tuple[str, ...] = ()

    def match(self, image_ids: Sequence[str]) -> NDArray[np.intp]:
        """Rows `(M,)` of the truth that images belong to, -1 where there is none.

        Raises:
            UserError: a shortened name fits several rows, or several images.
        """
        found = np.full(len(image_ids), -1, np.intp)
        for at in range(0, len(image_ids), BLOCK):
            self._match(found[at : at + BLOCK], image_ids[at : at + BLOCK])
        if self.loose and (found < 0).any():
            taken = np.zeros(len(self.image_id), bool)
            taken[found[found >= 0]] = True
            for at in range(0, len(image_ids), BLOCK):
                some = image_ids[at : at + BLOCK]
                self._fill(found[at : at + BLOCK], some, lambda: self._by_last, _lasts(some), taken)
        rows, firsts, counts = np.unique(found, return_index=True, return_counts=True)
        twice = (rows >= 0) & (counts > 1)
        if twice.any():
            row, first = rows[twice][0], firsts[twice][0]
            second = int(np.flatnonzero(found == row)[1])
            raise UserError(
                f"{self.image_id[row]!r} in {self.name} fits both {image_ids[first]!r} and {image_ids[second]!r}; "
                "write whole image ids there"
            )
        return found

    def _match(self, found: NDArray[np.intp], image_ids: Sequence[str]) -> None:
        """By all but the last part of both."""
        endings = [[image_id, *filter(None, _endings(image_id))] for image_id in image_ids]
        self._fill(found, image_ids, lambda: self._whole, endings)
        self._fill(found, image_ids, lambda: self._flat, _lasts(image_ids))
        self._fill(found, image_ids, lambda: self._whole, [[_EXTENSION.sub("", each) for each in names] for names in endings])

    def _fill(
        self,
        found: NDArray[np.intp],
        image_ids: Sequence[str],
        made: Callable[[], Lookup | None],
        tried: list[list[str]],
        taken: NDArray[np.bool_] | None = None,
    ) -> None:
        """Rows of the images that have none yet, by the first of their names that a lookup, made if it is needed, knows."""
        missing = np.flatnonzero(found < 0)
        lookup = made() if missing.size else None
        if lookup is None:
            return
        owner = np.repeat(missing, [len(tried[at]) for at in missing])
        first, second = lookup.find(pa.array([name for at in missing for name in tried[at]], pa.large_string()), taken)
        known = np.flatnonzero(first >= 0)
        images, at = np.unique(owner[known], return_index=True)
        found[images] = first[known[at]]
        several = np.flatnonzero(second[known[at]] >= 0)
        if several.size:
            image, name = image_ids[images[several[0]]], known[at[several[0]]]
            one, other = (self.image_id[row] for row in (first[name], second[name]))
            raise UserError(f"{image!r} fits both {one!r} and {other!r} in {self.name}; write whole image ids there")

    @cached_property
    def _whole(self) -> Lookup:
        return Lookup(self.image_id.values)

    @cached_property
    def _flat(self) -> Lookup | None:
        """By the names with underscores for slashes; names without slashes are not asked for so."""
        if not pc.any(pc.match_substring(self.image_id.values, "/")).as_py():
            return None
        return Lookup(self.image_id.values, _flattened)

    @cached_property
    def _by_last(self) -> Lookup:
        return Lookup(self.image_id.values, _last_parts)


def _flattened(names: pa.LargeStringArray) -> pa.LargeStringArray:
    """Underscores for slashes; nothing where there is no slash, and an empty name is never asked for."""
    slashed = pc.match_substring(names, "/")
    return pc.if_else(slashed, pc.replace_substring(names, "/", "_"), pa.scalar("", pa.large_string()))


def _last_parts(names: pa.LargeStringArray) -> pa.LargeStringArray:
    return pc.replace_substring_regex(names, r"(?s)^.*[/#]", "")


def load_truth(store: Store, uri: str) -> Truth:
    """Truth from a CSV (comma, semicolon or tab) or Parquet file in any store, read in a stream, or from published annotations
    (`annotated`); its notes are said.

    Raises:
        UserError: no such file, no such columns, an unreadable value; the line says which row and what to do.
    """
    found = store.head(uri)
    if found is None:
        raise NotFound(f"{uri} does not exist")
    if is_annotations(uri):
        columns = from_json(store.get(uri, if_match=found.etag), uri)
    elif store.get(uri, 0, 4) == b"PAR1":
        columns = from_parquet(cast(BinaryIO, store.seekable(uri, found.size, if_match=found.etag)), uri)
    else:
        with store.stream(uri, if_match=found.etag) as file:
            read = streamed(cast(BinaryIO, file), uri)
        columns = read if read is not None else from_csv(store.get(uri, if_match=found.etag), uri)
    truth = _truth(columns, uri)
    for note in truth.notes:
        say(note)
    return truth


def read_truth(source: str | Path) -> Truth:
    """Truth from a file on this machine; as `load_truth`."""
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); give a CSV or Parquet file of truth") from error
    return parse_truth(data, str(path))


def parse_truth(data: bytes, name: str) -> Truth:
    """Truth from the bytes of a CSV, JSON or Parquet file; `name` is for messages and tells JSON. Errors as `load_truth`."""
    if is_annotations(name):
        return _truth(from_json(data, name), name)
    if data[:4] == b"PAR1":
        return _truth(from_parquet(io.BytesIO(data), name), name)
    columns = streamed(io.BytesIO(data), name)
    return _truth(columns if columns is not None else from_csv(data, name), name)


def truth_of(image_ids: Sequence[str], latitude: Floats, longitude: Floats, name: str) -> Truth:
    """Truth from columns; rows where a coordinate is NaN are counted and left out, equal rows merged.

    Raises:
        UserError: a coordinate out of range, an id with two places, or no place at all.
    """
    return _truth(Columns(pa.array(image_ids, pa.large_string()), latitude, longitude), name)


def _truth(columns: Columns, name: str) -> Truth:
    image_ids, latitude, longitude, _ = columns
    there, notes = named(columns, name)
    empty = np.isnan(latitude) | np.isnan(longitude)
    known = there & ~empty
    latitude, longitude, note = turned(latitude, longitude, known, name)
    notes = (*notes, *note)
    wrong = known & ~valid(latitude, longitude)
    if np.any(wrong):
        row = int(np.argmax(wrong))
        raise UserError(
            f"row {row + 1} of {name} has latitude {latitude[row]:g} and longitude {longitude[row]:g}, which is nowhere; "
            "correct it (are the two columns exchanged?)"
        )
    if not known.any():
        raise UserError(f"{name} holds no place; give a file with image ids, latitudes and longitudes")
    without = int(np.sum(there & empty))
    if without:
        notes = (*notes, f"{without} rows of {name} have no coordinates; they are left out")
    if not known.all():
        image_ids, latitude, longitude = image_ids.filter(pa.array(known)), latitude[known], longitude[known]
    kept, lookup = _first_of_each(image_ids, latitude, longitude, name)
    if kept.all():
        truth = Truth(
            name=name, image_id=Names(image_ids), latitude=latitude, longitude=longitude, without_place=without, notes=notes
        )
        truth.__dict__["_whole"] = lookup  # it was made to look for repeated names
        return truth
    return Truth(
        name=name,
        image_id=Names(image_ids.filter(pa.array(kept))),
        latitude=latitude[kept],
        longitude=longitude[kept],
        without_place=without,
        notes=notes,
    )


def _first_of_each(
    image_ids: pa.LargeStringArray, latitude: Floats, longitude: Floats, name: str
) -> tuple[NDArray[np.bool_], Lookup]:
    """Rows that no earlier one equals `(N,)`, and the lookup that it took to tell.

    Raises:
        UserError: an id with two places.
    """
    kept, lookup = np.ones(len(image_ids), bool), Lookup(image_ids)
    for group in lookup.repeated():
        first: dict[str, int] = {}
        for row in group.tolist():
            image_id = image_ids[row].as_py()
            one = first.setdefault(image_id, row)
            if (latitude[one], longitude[one]) != (latitude[row], longitude[row]):
                raise UserError(f"{image_id!r} has two places in {name}; leave one")
            kept[row] = one == row
    return kept, lookup


def truth_from_exif(places: pa.Table) -> Truth:
    """The photographs' own GPS positions, from a table of `geobatch.schema.PLACE`, as truth.

    Raises:
        UserError: no image of the table has one.
    """
    there = places.filter(pc.and_(pc.is_valid(places["exif_latitude"]), pc.is_valid(places["exif_longitude"])))
    latitude, longitude = (there[f"exif_{axis}"].to_numpy() for axis in ("latitude", "longitude"))
    return truth_of(there["image_id"].to_pylist(), latitude, longitude, "the images' EXIF")


_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


def _last(image_id: str) -> str:
    return re.split(r"[/#]", image_id)[-1]


def _lasts(image_ids: Sequence[str]) -> list[list[str]]:
    return [[last] if (last := _last(image_id)) else [] for image_id in image_ids]


def _endings(image_id: str) -> Iterator[str]:
    for cut in re.finditer(r"[/#]", image_id):
        yield image_id[cut.end() :]
