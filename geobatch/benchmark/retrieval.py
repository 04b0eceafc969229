"""Figures of retrieval: how often the right tile is among the first, and how near the first one is to the truth.

    R@k    share of queries of whose class (building, file) a tile is among the k most similar
    L@m    share of queries of known place whose most similar tile has its centre within m metres of it
    t2i    texts ask for tiles; i2t: tiles ask for texts. Published code for GeoText-1652 prints the two under each other's name

Two protocols. "all" ranks the whole gallery. "nearest" ranks the 100 tiles nearest to the true place, as CVG-Text publishes:
that is a question with 100 answers, whatever the size of the city, so each figure has its chance level beside it: of R@k the
probability that k tiles drawn without replacement hold a right one, of L@m the share of tiles that lie so near.

A query of whose class the gallery has no tile cannot be answered and counts as wrong, and is counted; so is one that was
rejected when its gallery was built, and has no vector. Search is exact (`exact`). Intervals are bootstraps over queries
(`intervals`); several texts of one image are drawn as if they were independent, which makes intervals of such sets too narrow.
Not covered: graded relevance.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.exact import Centres, Rows, Views, best, best_among
from geobatch.benchmark.intervals import Bootstrap, Difference, Interval, median_interval, paired_difference, share_interval
from geobatch.geo.distance import haversine_km

Floats = NDArray[np.float64]
Direction = Literal["t2i", "i2t"]
Protocol = Literal["all", "nearest"]
Found = TypeVar("Found", NDArray[np.float32], NDArray[np.int64])

KS = (1, 5, 10)
METRES = (50, 100, 150)
#: Tiles that CVG-Text's protocol ranks.
NEAREST = 100

#: Queries whose nearby tiles are held at once.
_BLOCK = 4096


@dataclass(frozen=True)
class Side:
    """Queries, or what they ask for.

    Attributes:
        views: vectors by row. Of queries there may be fewer than places: the rows behind them were rejected, and find nothing.
        classes: `(N,)` equal numbers show the same thing, -1 nothing that the other side has; None where nothing is known.
        latitude, longitude: `(N,)` degrees, NaN where unknown.
    """

    views: Views
    classes: Rows | None
    latitude: Floats
    longitude: Floats


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Figures of one direction under one protocol; `as_text` for a terminal, `as_dict` for JSON."""

    direction: Direction
    protocol: Protocol
    queries: int
    tiles: int
    """Rows asked, and the mean number of rows that each was ranked among."""
    unanswerable: int
    """Queries of whose class there is no row to find."""
    failed: int
    """Queries that were rejected and never asked; each counts as wrong."""
    recall: dict[int, Interval]
    """R@k by k; empty where no classes are known."""
    recall_chance: dict[int, float]
    placed: int
    """Queries whose true place is known: those that L@m is of."""
    located: dict[int, Interval]
    """L@m by metres; empty where no true places are known."""
    located_chance: dict[int, float]
    median: Interval
    """Median distance of the first row from the true place, metres; NaN where none is known. Failed queries have none."""
    rank: Rows = field(repr=False)
    """Of each query the place of its first right row, from 1; 0 where it is not among the first `max(ks)`."""
    metres: Floats = field(repr=False)
    """Of each query the distance of its first row, metres; NaN where that or the truth has no place."""
    first: Rows = field(repr=False)
    """Of each query the most similar row, -1 where it was ranked among none."""
    similarity: NDArray[np.float32] = field(repr=False)
    """Of that row."""
    known: NDArray[np.bool_] = field(repr=False)
    """Of each query whether its true place is known."""

    @property
    def median_m(self) -> float:
        """The median without its interval."""
        return self.median.value

    def as_dict(self) -> dict[str, Any]:
        """Every figure as plain numbers, None in place of NaN; nothing per query."""
        return {
            "direction": self.direction,
            "protocol": self.protocol,
            "queries": self.queries,
            "tiles": self.tiles,
            "unanswerable": self.unanswerable,
            "failed": self.failed,
            "placed": self.placed,
            "recall": {str(k): {**asdict(one), "chance": self.recall_chance[k]} for k, one in self.recall.items()},
            "located": {f"{m}m": {**asdict(one), "chance": self.located_chance[m]} for m, one in self.located.items()},
            "median_m": None if math.isnan(self.median_m) else self.median_m,
            "median": None if math.isnan(self.median_m) else asdict(self.median),
        }

    def as_text(self) -> str:
        """A table of at most 110 columns."""
        among = "all" if self.protocol == "all" else "the nearest"
        lines = [f"{self.direction}, {self.queries:,} queries among {among} {self.tiles:,}"]
        if self.unanswerable:
            lines[0] += f"; {self.unanswerable:,} have nothing to find and count as wrong"
        if self.failed:
            lines[0] += f"; {self.failed:,} were rejected, never asked, and count as wrong"
        if 0 < self.placed < self.queries:
            lines[0] += f"; {self.placed:,} have a known place, which L@m is of"
        shares = {f"R@{k}": (one, self.recall_chance[k]) for k, one in self.recall.items()}
        shares |= {f"L@{m} m": (one, self.located_chance[m]) for m, one in self.located.items()}
        lines.append(_line("%", list(shares)))
        lines.append(_line("", [f"{100 * one.value:.1f}" for one, _ in shares.values()]))
        lines.append(_line("95 % interval", [f"{100 * one.low:.1f}…{100 * one.high:.1f}" for one, _ in shares.values()]))
        lines.append(_line("by chance", [f"{100 * chance:.2f}" for _, chance in shares.values()]))
        if not math.isnan(self.median_m):
            ends = f"({self.median.low:,.0f}…{self.median.high:,.0f})"
            lines.append(f"  median distance of the first from the truth {self.median_m:,.0f} m {ends}")
        return "\n".join(textwrap.fill(line, 110, subsequent_indent="  ") if ";" in line else line for line in lines)


def retrieval(
    queries: Side,
    tiles: Side,
    *,
    direction: Direction = "t2i",
    protocol: Protocol = "all",
    ks: Sequence[int] = KS,
    metres: Sequence[int] = METRES,
    nearest: int = NEAREST,
    bootstrap: Bootstrap | None = None,
) -> Retrieval:
    """Ranks the tiles for every query and judges the first of them.

    Args:
        queries, tiles: vectors of equal length; the queries' places are the truth.
        ks, metres: of R@k and L@m.
        nearest: tiles that the protocol "nearest" ranks; ties at the last are all in.
    """
    width, asked = max(ks), len(queries.latitude)
    centres = Centres(tiles.latitude, tiles.longitude)
    if protocol == "all":
        similarity, rows = best(queries.views, tiles.views, width)
        ranked = np.full(asked, len(tiles.views))
        right = _counted(queries.classes, tiles.classes)
        so_near = {m: centres.within(queries.latitude, queries.longitude, m) for m in metres}
    else:
        similarity, rows, ranked, right, so_near = _nearby(queries, tiles, centres, width, nearest, metres)
    similarity, rows = _rejected_too(similarity, -np.inf, asked), _rejected_too(rows, -1, asked)
    known = np.isfinite(queries.latitude) & np.isfinite(queries.longitude)
    there = rows[:, 0] >= 0
    distance = np.full(len(rows), np.nan)
    first = rows[there, 0]
    distance[there] = 1000 * haversine_km(
        queries.latitude[there], queries.longitude[there], tiles.latitude[first], tiles.longitude[first]
    )
    rank = np.zeros(len(rows), np.int64)
    if right is not None and queries.classes is not None and tiles.classes is not None:
        hits = (rows >= 0) & (tiles.classes[rows] == queries.classes[:, None]) & (queries.classes[:, None] >= 0)
        rank = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    return Retrieval(
        direction=direction,
        protocol=protocol,
        queries=asked,
        failed=asked - len(queries.views),
        tiles=round(float(ranked.mean())) if len(ranked) else 0,
        unanswerable=0 if right is None else int((right == 0).sum()),
        recall={} if right is None else {k: _share((rank > 0) & (rank <= k), bootstrap) for k in ks},
        recall_chance={} if right is None else {k: _drawn(ranked, right, k) for k in ks},
        placed=int(known.sum()),
        located={m: _share(distance[known] <= m, bootstrap) for m in metres} if known.any() else {},
        located_chance={m: float(np.mean((so_near[m] / np.maximum(ranked, 1))[known])) for m in metres} if known.any() else {},
        median=median_interval(distance, bootstrap),
        rank=rank,
        metres=distance,
        first=rows[:, 0],
        similarity=similarity[:, 0],
        known=known,
    )


def _rejected_too(found: Found, nothing: float, asked: int) -> Found:
    """What was found of each query `(n, k)`, and nothing of those behind them `(asked, k)`."""
    behind = np.full((asked - len(found), found.shape[1]), nothing, found.dtype)
    return cast(Found, np.concatenate([found, behind]))


def difference(ours: Rows, theirs: Rows, k: int, bootstrap: Bootstrap | None = None) -> Difference:
    """Our R@k less theirs, with its paired interval, from the ranks `(N,)` of two runs over the same queries in the same order.

    Raises:
        ValueError: other numbers of queries.
    """
    mine, other = (np.where((rank > 0) & (rank <= k), 0.0, np.inf) for rank in (ours, theirs))
    return paired_difference(mine, other, 1.0, bootstrap)


def _nearby(
    queries: Side, tiles: Side, centres: Centres, width: int, nearest: int, metres: Sequence[int]
) -> tuple[NDArray[np.float32], Rows, NDArray[np.int64], Rows | None, dict[int, Rows]]:
    """Similarities and rows of the best tiles near each truth; how many such tiles there are, are right, and lie so near."""
    values, rows = [np.zeros((0, width), np.float32)], [np.zeros((0, width), np.int64)]
    ranked: list[int] = []
    right: list[int] = []
    so_near: dict[int, list[int]] = {m: [] for m in metres}
    for start in range(0, len(queries.latitude), _BLOCK):
        at = np.arange(start, min(start + _BLOCK, len(queries.latitude)))
        among = centres.near(queries.latitude[at], queries.longitude[at], nearest)
        asked = at[at < len(queries.views)]
        found = best_among(_Part(queries.views, asked), tiles.views, width, among[: len(asked)])
        values.append(found[0])
        rows.append(found[1])
        for query, some in zip(at, among, strict=True):
            ranked.append(len(some))
            if queries.classes is not None and tiles.classes is not None:
                own = queries.classes[query]
                right.append(int((tiles.classes[some] == own).sum()) if own >= 0 else 0)
            far = haversine_km(queries.latitude[query], queries.longitude[query], tiles.latitude[some], tiles.longitude[some])
            for m in metres:
                so_near[m].append(int((1000 * far <= m).sum()))
    counted = None if queries.classes is None or tiles.classes is None else np.array(right, np.int64)
    near = {m: np.array(counts, np.int64) for m, counts in so_near.items()}
    return np.concatenate(values), np.concatenate(rows), np.array(ranked, np.int64), counted, near


@dataclass(frozen=True)
class _Part:
    """Some rows of views."""

    views: Views
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        return self.views.vectors(self.rows[rows])


def _counted(asked: Rows | None, held: Rows | None) -> Rows | None:
    """How many tiles of each query's class there are."""
    if asked is None or held is None:
        return None
    counts = np.bincount(held[held >= 0], minlength=int(max(asked.max(initial=-1), 0)) + 1)
    return np.where(asked >= 0, counts[np.maximum(asked, 0)], 0)


def _drawn(ranked: NDArray[np.int64], right: Rows, k: int) -> float:
    """Mean probability that k rows drawn without replacement from `ranked` hold one of `right`."""
    misses = np.ones(len(ranked))
    for draw in range(k):
        left = ranked - draw  # none once all are drawn
        misses *= np.where(left > 0, np.clip((left - right) / np.maximum(left, 1), 0.0, 1.0), 1.0)
    return float(np.mean(1 - misses)) if len(ranked) else math.nan


def _share(hits: NDArray[np.bool_], bootstrap: Bootstrap | None) -> Interval:
    return share_interval(float(np.mean(hits)) if hits.size else math.nan, hits.size, bootstrap)


def _line(name: str, cells: Sequence[str]) -> str:
    return f"  {name:16s}" + "".join(f"{cell:>13s}" for cell in cells)
