"""Pictures and the texts that describe them, as one file that the workers of a training map into memory.

Training reads pairs in random order for twenty epochs, which neither Parquet nor a bucket is made for. The file is an Arrow
file: its pictures stay on disk, encoded (a JPEG of 448 pixels is 0.1 MB where its pixels are 0.6), and the workers of a machine
share its pages. It is written as its rows come, so memory holds one part of the table, and appears under its name only
when it is whole; its digest, over all that a training sees, is the part of the training's name that says what was learnt from.

A place is a `group`, a string in the table and a number here: pairs of one group show the same building or spot, and are no
negatives of each other. Pairs are kept out of training by whole groups: a building in both halves would be known by heart.

Not covered: pictures of several texts weigh as much as pictures of one (which text is drawn is the training's choice).
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from geobatch.benchmark.lookup import digests
from geobatch.schema import PAIRS

Rows = NDArray[np.int64]

#: Columns of the table that go to the file.
COLUMNS = ("image_id", "latitude", "longitude", "image", "texts", "group")

#: One pair in the file; NaN where nobody says where the picture was taken.
FILE = pa.schema([PAIRS.field(name) for name in COLUMNS])


class Pairs:
    """N pairs of such a file, in the order of `rows`; pictures are decoded as they are asked for.

    Args:
        path: of the file.
        rows: of the file, in the order they are numbered here; default: all.

    Attributes:
        rows: `(N,)` of the file.
        groups: `(N,)` int64; equal numbers show the same place, in every selection of one file.
        latitude, longitude: `(N,)` degrees, NaN where unknown.
    """

    def __init__(self, path: Path, rows: Sequence[int] | Rows | None = None) -> None:
        self.path = Path(path)
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._places = _numbered(self._table["group"])
        self._choose(np.arange(len(self._table)) if rows is None else np.asarray(rows, np.int64))

    def _choose(self, rows: Rows) -> None:
        self.rows, self.groups = rows, self._places[rows]
        self.latitude, self.longitude = (self._table[name].to_numpy()[rows] for name in ("latitude", "longitude"))

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, rows: Sequence[int] | Rows) -> Pairs:
        """The pairs at some positions of this selection, in that order."""
        chosen = Pairs.__new__(Pairs)
        chosen.path, chosen._table, chosen._places = self.path, self._table, self._places
        chosen._choose(self.rows[np.asarray(rows, np.int64)])
        return chosen

    def picture(self, i: int) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) of pair `i`."""
        content = self._table["image"][int(self.rows[i])].as_buffer()
        with Image.open(io.BytesIO(content)) as image:
            return np.array(image.convert("RGB"))

    def texts(self, i: int) -> list[str]:
        """What is said of pair `i`, at least one text."""
        found: list[str] = self._table["texts"][int(self.rows[i])].as_py()
        return found

    def name(self, i: int) -> str:
        """The image_id of pair `i`."""
        return str(self._table["image_id"][int(self.rows[i])].as_py())

    def every_text(self) -> Iterable[str]:
        """All texts of this selection, in order, block by block."""
        for texts in self.texts_by_pair():
            yield from texts

    def texts_by_pair(self) -> Iterator[list[str]]:
        """The texts of each pair of this selection, in order, block by block."""
        for at in range(0, len(self), 4096):
            yield from self._table["texts"].take(pa.array(self.rows[at : at + 4096])).to_pylist()

    @cached_property
    def most_texts(self) -> int:
        """Texts of one pair of the file, at most."""
        return int(pc.max(pc.list_value_length(self._table["texts"])).as_py() or 0)


def _numbered(groups: pa.ChunkedArray) -> Rows:
    """The names of groups as numbers from 0; two names in 10^19 would get the same."""
    words = [digests(chunk.cast(pa.large_string())) for chunk in groups.chunks]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *words]), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Written:
    """What a file of pairs holds.

    Fields:
        pairs: how many.
        texts: of all of them.
        groups: different places.
        digest: SHA-256 over pictures, texts, places and groups.
    """

    pairs: int
    texts: int
    groups: int
    digest: str


def write(tables: Iterable[pa.Table], path: Path) -> Written:
    """Writes the living rows of tables of `geobatch.schema.PAIRS`, in their order, as they come.

    Args:
        path: appears when all is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # another training may write the same pairs
    try:
        written = _streamed(tables, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def _streamed(tables: Iterable[pa.Table], path: Path) -> Written:
    total, pairs, texts = hashlib.sha256(), 0, 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FILE) as out:
        for table in tables:
            rows = table.filter(pc.is_null(table["reason"])).select(FILE.names).cast(FILE)
            pairs, texts = pairs + len(rows), texts + (pc.sum(pc.list_value_length(rows["texts"])).as_py() or 0)
            columns = [rows[name].to_pylist() for name in ("latitude", "longitude", "texts", "group")]
            for image, *said in zip(rows["image"], *columns, strict=True):
                total.update(repr(said).encode() + hashlib.sha256(image.as_buffer()).digest())
            out.write_table(rows)
    places = _numbered(pa.ipc.open_file(pa.memory_map(str(path))).read_all()["group"])
    return Written(pairs, texts, int(places.max(initial=-1)) + 1, total.hexdigest())


def split(groups: Rows, share: float, most: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows kept out, by whole groups.

    Groups come in a seeded order and are kept out as long as they fit into what is wanted, so that the share is met to
    within the smallest group; one group at least is trained on.

    Args:
        groups: `(N,)` number of each row's place.
        share: of the rows to keep out.
        most: rows to keep out at most.
    """
    numbers, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    wanted, taken = min(round(share * len(groups)), most), 0
    held = np.zeros(len(numbers), bool)
    for group in np.random.default_rng([seed, 0x5EED]).permutation(len(numbers))[: max(0, len(numbers) - 1)]:
        if taken == wanted:
            break
        if taken + sizes[group] <= wanted:
            held[group], taken = True, taken + int(sizes[group])
    return np.flatnonzero(~held[inverse]), np.flatnonzero(held[inverse])
