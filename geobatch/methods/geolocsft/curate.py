"""Which captions are worth training on: GeoLocSFT's result rests on some 2,700 curated pairs, not on many (arXiv 2506.01277).

Rules drop captions in this order, each with its reason, so that a caption is counted once:

    far             the teacher's answer is not within a distance of the truth, or there is none
    incomplete      one of the three looks (25 km, 1 km, similar regions eliminated) is missing, or no JSON can be read
    leak            the reasoning betrays the coordinates its author was given (`prompts.leaks`)
    boilerplate     a look says little (too few distinct words, or the same words over and over)
    duplicate       the bytes of another image
    near_duplicate  a picture within a few bits of another's difference hash
    boilerplate     a look that more captions than a few have word for word: all of them go, none is the original
    surplus         beyond the target, from the cells that have most

What goes on is a set that depends on the captions alone: wherever one of several must be taken, the order is that of a hash
of their names, not that of the rows, and the seed draws another.

Balance over the Earth is water-filling over S2 cells of level 6 (about 140 km): every cell gives as many as it has up to one
common height, and the few that are then missing come one each from cells that have more. No other set of the target's
size has a fuller emptiest cell. Random choice instead keeps the archive's own bias, which is that of photographers.

Not covered: captions that are well written and wrong about the picture, paraphrased boilerplate, and counting words in scripts
that do not part them (set `distinct_words` to 1).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import UserError
from geobatch.geo import distance, point, s2
from geobatch.methods.geolocsft.forms import leaks, strings
from geobatch.methods.geolocsft.near import MOST_BITS, dhash, near_earlier, near_pairs

__all__ = ["LOOKS", "REASONS", "Curated", "Curation", "curate", "dhash", "near_pairs", "water_filled"]

Positions = npt.NDArray[np.intp]

REASONS = ("far", "incomplete", "leak", "boilerplate", "duplicate", "near_duplicate", "surplus")

#: The three looks of the paper, as fields of `thinking`.
LOOKS = ("25km_analysis", "1km_analysis", "elimination_similar_regions")

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Curation:
    """Which captions are kept."""

    far_km: float = 25.0
    """Kilometres from the truth up to which a teacher's answer counts as right."""
    reasoning: bool = True
    """Whether a caption needs reasoning; without, answers alone are kept too."""
    distinct_words: int = 6
    """Distinct words that each of the three looks has at least."""
    distinct_share: float = 0.25
    """Share of a look's words that are distinct at least; a model caught in a loop falls below."""
    repeats: int = 2
    """Captions that may have a look word for word in common; where more do, all of them go."""
    near_bits: int = 4
    """Bits of 64 in which the difference hashes of near-identical pictures differ at most, 0 to 7; -1 keeps them all."""
    target: int | None = 2700
    """Captions kept at most, balanced over the Earth; the paper's number. None keeps all."""
    level: int = 6
    """Level of the S2 cells that are balanced: 5 is about 290 km wide, 6 140 km, 7 70 km."""
    seed: int = 0
    """Of the order in which one of several is taken."""

    def __post_init__(self) -> None:
        if not self.far_km > 0:
            raise UserError(f"a caption cannot be within {self.far_km} km of the truth; use 25")
        if not -1 <= self.near_bits <= MOST_BITS:
            raise UserError(f"near-identical pictures differ in -1 (off) to {MOST_BITS} bits, not {self.near_bits}; use 4")
        if self.target is not None and self.target < 1:
            raise UserError(f"a target of {self.target} captions leaves nothing to train on; use 1 or more, or none")
        if not 0 <= self.level <= s2.MAX_LEVEL:
            raise UserError(f"S2 has levels 0 to {s2.MAX_LEVEL}, not {self.level}; use 6")
        if self.repeats < 1:
            raise UserError(f"every look is had by one caption, so at most {self.repeats} cannot be; use 1 or more")


@dataclass(frozen=True)
class Curated:
    """What is kept and what is not, each sorted by `image_id`; `dropped` has the further column `reason`."""

    kept: pa.Table
    dropped: pa.Table

    def counts(self) -> dict[str, int]:
        """Drops by reason, 0 included, in the order of the rules."""
        found = Counter(self.dropped["reason"].to_pylist())
        return {reason: found[reason] for reason in REASONS}


def curate(captions: pa.Table, config: Curation | None = None) -> Curated:
    """Keeps the captions worth training on.

    Args:
        captions: `image_id` (unique), `sha256`, `dhash` (uint64), `latitude` and `longitude` (the truth), `answer_latitude` and
            `answer_longitude`, `caption` (geo-caption JSON, or null); further columns pass through. A null `sha256` or
            `dhash` is nobody's duplicate.
    """
    how = config or Curation()
    table = captions.drop_columns(["reason"]) if "reason" in captions.column_names else captions
    table = table.take(pc.sort_indices(table["image_id"]))
    fate = np.full(len(table), None, object)
    written = table["caption"].to_pylist()
    _by_caption(table, written, fate, how)
    ranks = _ranks(table["image_id"].to_pylist(), how.seed)
    _duplicates(table, fate, ranks)
    _near_duplicates(table, fate, ranks, how)
    _repeated(written, fate, how)
    _surplus(table, fate, ranks, how)
    reasons = pa.array(fate.tolist(), pa.string())
    good = pc.is_null(reasons)
    dropped = table.append_column("reason", reasons).filter(pc.invert(good))
    return Curated(table.filter(good), dropped)


def water_filled(sizes: npt.ArrayLike, target: int) -> npt.NDArray[np.int64]:
    """How many each cell (C,) gives: min(size, height), and one more from the first cells that have more, `target` in all."""
    cells = np.asarray(sizes, np.int64)
    if int(cells.sum()) <= target:
        return cells.copy()
    low, high = 0, int(cells.max())  # the greatest height whose sum is within the target
    while high - low > 1:
        height = (low + high) // 2
        low, high = (height, high) if int(np.minimum(cells, height).sum()) <= target else (low, height)
    given = np.minimum(cells, low)
    more = np.flatnonzero(cells > low)[: target - int(given.sum())]
    given[more] += 1
    return given


def _by_caption(table: pa.Table, written: list[str | None], fate: npt.NDArray[np.object_], how: Curation) -> None:
    """What a caption's own text and coordinates decide."""
    truth = [_numbers(table, name) for name in ("latitude", "longitude")]
    answer = [_numbers(table, name) for name in ("answer_latitude", "answer_longitude")]
    right = point.valid(*answer) & distance.within(distance.haversine_km(*truth, *answer), how.far_km)
    for row, (text, near) in enumerate(zip(written, right.tolist(), strict=True)):
        if not near:
            fate[row] = "far"
        elif text is not None or how.reasoning:
            fate[row] = _fault(text, float(truth[0][row]), float(truth[1][row]), how)


def _fault(text: str | None, latitude: float, longitude: float, how: Curation) -> str | None:
    looks = _looks(text)
    if looks is None:
        return "incomplete"
    if leaks(json.loads(text or ""), latitude, longitude):
        return "leak"
    for words in looks:
        distinct = len(set(words))
        if distinct < how.distinct_words or distinct < how.distinct_share * len(words):
            return "boilerplate"
    return None


def _looks(text: str | None) -> list[list[str]] | None:
    """The words of each look, lower case, without punctuation; None where a look has none or there is no caption."""
    try:
        caption = json.loads(text or "")
        thinking = caption["thinking"]
        looks = [_WORD.findall(" ".join(strings(thinking[look])).casefold()) for look in LOOKS]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return looks if all(looks) else None


def _ranks(names: list[str], seed: int) -> Positions:
    """Place (N,) of each row in the order of the names' hashes."""
    salt = str(seed).encode()
    keys = [hashlib.blake2b(name.encode(), digest_size=16, salt=salt[:16]).digest() for name in names]
    ranks = np.empty(len(names), np.intp)
    ranks[sorted(range(len(names)), key=lambda row: (keys[row], names[row]))] = np.arange(len(names))
    return ranks


def _duplicates(table: pa.Table, fate: npt.NDArray[np.object_], ranks: Positions) -> None:
    seen: set[str] = set()
    digests = table["sha256"].to_pylist()
    for row in np.argsort(ranks):
        if fate[row] is None and digests[row] is not None:
            if digests[row] in seen:
                fate[row] = "duplicate"
            seen.add(digests[row])


def _near_duplicates(table: pa.Table, fate: npt.NDArray[np.object_], ranks: Positions, how: Curation) -> None:
    """Drops whatever is near a picture that comes before it and is kept."""
    there = pc.is_valid(table["dhash"]).to_numpy()
    rows = np.flatnonzero((fate == None) & there)  # noqa: E711  element by element
    if how.near_bits < 0 or not len(rows):
        return
    rows = rows[np.argsort(ranks[rows])]
    hashes = pc.fill_null(table["dhash"], 0).to_numpy().astype(np.uint64)
    fate[rows[near_earlier(hashes[rows], how.near_bits)]] = "near_duplicate"


def _repeated(written: list[str | None], fate: npt.NDArray[np.object_], how: Curation) -> None:
    said: dict[int, list[bytes]] = {}
    for row in np.flatnonzero(fate == None).tolist():  # noqa: E711
        said[row] = [
            hashlib.blake2b(f"{at} {' '.join(words)}".encode()).digest() for at, words in enumerate(_looks(written[row]) or [])
        ]
    times = Counter(digest for digests in said.values() for digest in digests)
    for row, digests in said.items():
        if any(times[digest] > how.repeats for digest in digests):
            fate[row] = "boilerplate"


def _surplus(table: pa.Table, fate: npt.NDArray[np.object_], ranks: Positions, how: Curation) -> None:
    rows = np.flatnonzero(fate == None)  # noqa: E711
    if how.target is None or len(rows) <= how.target:
        return
    rows = rows[np.argsort(ranks[rows])]
    cells = s2.cell_ids(_numbers(table, "latitude")[rows], _numbers(table, "longitude")[rows], how.level)
    # Cells in the order of their first picture's hash, so that the last few are drawn from no corner of the Earth.
    names, first, cell = np.unique(cells, return_index=True, return_inverse=True)
    turn = np.empty(len(names), np.intp)
    turn[np.argsort(first)] = np.arange(len(names))
    cell = turn[cell]
    order = np.argsort(cell, kind="stable")
    sizes = np.bincount(cell, minlength=len(names))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    fate[rows[place >= water_filled(sizes, how.target)[cell]]] = "surplus"


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(pc.cast(table[name], pa.float64()), float("nan")).to_numpy(), np.float64)
