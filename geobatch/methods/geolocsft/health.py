"""Is a finished run ill? What a language model does when it fails as a whole, seen in the table it wrote.

Three things go wrong without one row looking wrong (GeoLocSFT, section 5 names the first two):

- mode collapse: the same coordinates for many inputs. The statistic is the chance that two different images got the very same
  place, to 5 decimals (1.1 m), and its inverse, the effective number of places. Cells of any size would not do: an
  archive of one city has one cell and is well. Two photographs of one city, rightly placed, share a place only if both show
  one landmark, so a run over L landmarks, equally often photographed, has at least L effective places. Below
  25 of them a run of 100 images or more is called collapsed.
- one place that draws very different images: the largest share of one place. Landmark confusion is the mild form, a prompt
  whose example is copied the other one.
- cities instead of places: the chance that two images of one S2 cell of level 8 (36 km) got the same place, averaged over the
  cells that have two. Near 1 the model knows city centres by heart and looks no further.

And what the replies were: unparsed, refused, out of range, cut off, as shares of the images that were asked about.

Images are told apart by their bytes, so that a picture stored twice is one. A table of any size is read once: reasons are
counted over all rows; the rest over the 1,048,576 images with the smallest SHA-256, a uniform sample that depends on no order.
A million rows take 1.2 s on an idle core and 3 s on a busy machine; the sample is 24 MB, some 200 MB while it is sorted.

Not covered: an archive that really shows fewer than 25 things, or one thing a cell, which looks ill and is not; and a run whose
places are spread well and wrong, for which one needs the truth (`jobs/evaluate.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import UserError
from geobatch.geo import s2

Floats = npt.NDArray[np.float64]

#: What is read of a table of PLACE.
COLUMNS = ("image_id", "sha256", "reason", "latitude", "longitude")

#: Reasons that say what a reply was.
REPLIES = ("unparsed", "refused", "out_of_range", "cut_off")

#: Images in the sample.
SAMPLE = 1 << 20

CELL_LEVEL = 8
_TOP = 5
_HEX = np.zeros(256, np.uint64)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on a run is called ill."""

    images: int = 100
    """Different images below which nothing is said of how places are spread, nor of replies below a fifth of it."""
    effective_places: float = 25.0
    """Effective number of places below which a run has collapsed."""
    one_place: float = 0.1
    """Share of the images that one place may have."""
    same_in_cell: float = 0.5
    """Chance that two images of one cell have the same place, above which the model names cities."""
    shared_cells: int = 25
    """Cells with two images below which nothing is said of that chance."""
    unparsed: float = 0.05
    """Share of replies that may be unparsed, and of those that may be out of range or cut off."""
    refused: float = 0.02
    """Share of replies that may be refusals."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"two images are needed to compare two, not {self.images}; use 100")


@dataclass(frozen=True, kw_only=True)
class Health:
    """The figures of a run and what is wrong with it."""

    rows: int
    """Rows read."""
    placed: int
    """Rows with a place."""
    asked: int
    """Rows placed or rejected for what the model replied."""
    shares: dict[str, float]
    """Share of `asked` by reason: unparsed, refused, out_of_range, cut_off."""
    images: int
    """Different placed images that were compared, a sample above 1,048,576."""
    places: int
    """Different places among them, to 5 decimals."""
    cells: int
    """Different S2 cells of level 8 among them."""
    effective_places: float
    """1 / the chance that two different images have the same place; infinite where no two have."""
    effective_cells: float
    """The same of cells."""
    cell_entropy: float
    """Entropy over cells, nats."""
    same_in_cell: float
    """Chance that two images of one cell have the same place, mean over the cells that have two."""
    shared_cells: int
    """Cells that have two images or more."""
    top: list[dict[str, float]]
    """The places that most images share: latitude, longitude, images, share."""
    ills: list[str]
    """What is wrong, a line each that ends with what to do; empty in a run that is well."""

    def record(self) -> dict[str, Any]:
        """As JSON holds it: an infinite number is null."""
        return {name: None if value == float("inf") else value for name, value in asdict(self).items()}


class Examination:
    """Reads a run's rows table by table, in any order, in memory that does not grow with them.

    Args:
        sample: images compared at most.
    """

    def __init__(self, sample: int = SAMPLE) -> None:
        self.sample = sample
        self.rows = self.placed = 0
        self.reasons: Counter[str] = Counter()
        self._kept = (np.empty(0, np.uint64), np.empty(0), np.empty(0))
        self._fresh: list[tuple[npt.NDArray[np.uint64], Floats, Floats]] = []
        self._waiting = 0

    def add(self, table: pa.Table) -> None:
        """Takes in rows with the columns of `COLUMNS`."""
        self.rows += len(table)
        counts = pc.value_counts(table["reason"].drop_null()).to_pylist()
        self.reasons.update({each["values"]: each["counts"] for each in counts})
        living = table.filter(pc.and_(pc.is_finite(table["latitude"]), pc.is_finite(table["longitude"])))
        self.placed += len(living)
        if not len(living):
            return
        names = pc.coalesce(living["sha256"], living["image_id"])
        latitude, longitude = (living[name].to_numpy() for name in ("latitude", "longitude"))
        self._fresh.append((_keys(names), latitude, longitude))
        self._waiting += len(living)
        if self._waiting >= self.sample:
            self._settle()

    def result(self, limits: Limits | None = None) -> Health:
        """What has been seen so far."""
        self._settle()
        _, latitude, longitude = self._kept
        asked = self.placed + sum(self.reasons[reason] for reason in REPLIES)
        shares = {reason: self.reasons[reason] / asked if asked else 0.0 for reason in REPLIES}
        spread = _spread(latitude, longitude)
        ills = _ills(limits or Limits(), asked, shares, spread)
        return Health(rows=self.rows, placed=self.placed, asked=asked, shares=shares, ills=ills, **spread)

    def _settle(self) -> None:
        """Keeps the images with the smallest keys, one of each."""
        if not self._fresh:
            return
        keys, latitude, longitude = (np.concatenate(parts) for parts in zip(self._kept, *self._fresh, strict=True))
        # The same bytes may have been placed twice; whichever is kept, it is the same one in any order.
        order = np.lexsort((longitude, latitude, keys))
        ranked = keys[order]
        order = order[np.concatenate([[True], ranked[1:] != ranked[:-1]])][: self.sample]
        self._kept = (keys[order], latitude[order], longitude[order])
        self._fresh, self._waiting = [], 0


def health(tables: Iterable[pa.Table], limits: Limits | None = None) -> Health:
    """The health of a finished run's rows."""
    examination = Examination()
    for table in tables:
        examination.add(table)
    return examination.result(limits)


def _keys(names: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits of each name: the first of a SHA-256 in hexadecimal, of its own SHA-256 if it is none."""
    flat = names.combine_chunks()
    flat = flat if isinstance(flat, pa.Array) else pa.concat_arrays(flat.chunks)
    digests = pc.match_substring_regex(flat, "^[0-9a-f]{64}$")
    if not pc.all(digests).as_py():
        known = np.asarray(digests)
        flat = pa.array(
            [
                name if good else hashlib.sha256(name.encode()).hexdigest()
                for name, good in zip(flat.to_pylist(), known.tolist(), strict=True)
            ]
        )
    heads = pc.utf8_slice_codeunits(flat, 0, 16)
    digits = np.frombuffer(heads.buffers()[2], np.uint8)[: 16 * len(heads)].reshape(-1, 16)
    out = np.zeros(len(heads), np.uint64)
    for column in range(16):
        out = out << np.uint64(4) | _HEX[digits[:, column]]
    return out


def _spread(latitude: Floats, longitude: Floats) -> dict[str, Any]:
    """How places of different images are spread."""
    images = len(latitude)
    longitude = np.where(longitude == -180, 180.0, longitude)
    _, first, counts = np.unique(_place_keys(latitude, longitude), return_index=True, return_counts=True)
    same_of_place = counts * (counts - 1)
    _, cell = np.unique(s2.cell_ids(latitude[first], longitude[first], CELL_LEVEL) if images else [], return_inverse=True)
    sizes = np.bincount(cell, counts)
    near_of_cell, same_of_cell = sizes * (sizes - 1), np.bincount(cell, same_of_place)
    shared = sizes > 1
    pairs, same, near = images * (images - 1), float(same_of_place.sum()), float(near_of_cell.sum())
    order = np.argsort(-counts, kind="stable")[:_TOP]
    share = sizes / max(images, 1)
    return {
        "images": images,
        "places": len(counts),
        "cells": len(sizes),
        "effective_places": pairs / same if same else float("inf"),
        "effective_cells": pairs / near if near else float("inf"),
        "cell_entropy": abs(float((share * np.log(share)).sum())),
        "same_in_cell": float(np.mean(same_of_cell[shared] / near_of_cell[shared])) if shared.any() else 0.0,
        "shared_cells": int(shared.sum()),
        "top": [
            {
                "latitude": round(float(latitude[first[at]]), 5),
                "longitude": round(float(longitude[first[at]]), 5),
                "images": int(counts[at]),
                "share": float(counts[at] / images),
            }
            for at in order
            if counts[at] > 1
        ],
    }


def _place_keys(latitude: Floats, longitude: Floats) -> npt.NDArray[np.int64]:
    """One number for each place to 5 decimals; a pole has no longitude."""
    north, east = (np.round(degrees * 1e5).astype(np.int64) for degrees in (latitude, longitude))
    east = np.where((np.abs(north) == 9_000_000) | (east == -18_000_000), 18_000_000, east)
    return np.asarray(north * 100_000_000 + east, np.int64)


def _ills(limits: Limits, asked: int, shares: dict[str, float], spread: dict[str, Any]) -> list[str]:
    ills = []
    if asked * 5 >= limits.images:
        doings = {
            "unparsed": "guide the output, or read the details of the rejected rows and mend the prompt or the fine-tuning",
            "refused": "use another model or prompt, or fine-tune on answers",
            "out_of_range": "guide the output, and check that the fine-tuning had latitude before longitude",
            "cut_off": "raise the limit of tokens",
        }
        for reason, doing in doings.items():
            allowed = limits.refused if reason == "refused" else limits.unparsed
            if shares[reason] > allowed:
                ills.append(f"{100 * shares[reason]:.1f} % of {asked:,} replies were {reason}; {doing}")
    if spread["images"] < limits.images:
        return ills
    images = spread["images"]
    if spread["effective_places"] < limits.effective_places:
        ills.append(
            f"mode collapse: {images:,} different images share {spread['effective_places']:.1f} effective places; unless the "
            "archive shows so few things, lower the learning rate or the epochs, or check that pictures reach the model"
        )
    for top in [place for place in spread["top"][:1] if place["share"] > limits.one_place]:
        ills.append(
            f"one place, {top['latitude']:.5f} {top['longitude']:.5f}, drew {100 * top['share']:.1f} % of {images:,} different "
            "images; look at some of them, and take the place out of the prompt if it stands there"
        )
    if spread["same_in_cell"] > limits.same_in_cell and spread["shared_cells"] >= limits.shared_cells:
        ills.append(
            f"two images of one 36 km cell have the very same place with a chance of {100 * spread['same_in_cell']:.0f} %: the "
            "model names cities, not places; train it on more precise answers, or read only the radii from 25 km up"
        )
    return ills
