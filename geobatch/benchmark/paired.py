"""Two runs of retrieval over the same queries: paired differences with their intervals, wins and losses.

    R@k, L@m          ours less theirs, over the same queries; L@m over those whose true place both runs know
    earlier, later    queries whose first right row stands before theirs, and behind; none among the first k is behind any
    nearer, farther   queries whose first row lies nearer to the truth than theirs by more than a metre; none is infinitely far

A query that was rejected found nothing. Whether wins and losses differ by more than chance is the two-sided sign test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.benchmark.intervals import Bootstrap, Difference, share_difference, unequal
from geobatch.benchmark.retrieval import difference

Floats = NDArray[np.float64]

#: One row a query, of one direction under one protocol; what a run keeps to be compared by.
ROWS = pa.schema(
    [
        pa.field("direction", pa.string()),
        pa.field("protocol", pa.string()),
        pa.field("query", pa.string()),  # its image_id
        pa.field("rank", pa.int64()),  # of the first right row, from 1; 0: not among the first
        pa.field("first", pa.string()),  # image_id of the most similar row
        pa.field("similarity", pa.float32()),
        pa.field("metres", pa.float64()),  # of that row from the true place; null where unknown
        pa.field("known", pa.bool_()),  # whether the true place is; null in tables of older versions
        pa.field("rejected", pa.string()),  # why the query was never asked; null: it was
    ]
)

#: Metres below which two distances are the same.
CLOSE_M = 1.0


@dataclass(frozen=True, kw_only=True)
class Wins:
    """Queries that one of two runs answered better."""

    wins: int
    losses: int
    ties: int
    sign_test: float
    """Probability of so unequal wins and losses if both were as good; 1 where there are none."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Ours less theirs, over N queries."""

    queries: int
    recall: dict[int, Difference]
    """Of R@k by k; empty where no classes are known."""
    ranks: Wins | None
    """By the place of the first right row; None where no classes are known."""
    located: dict[int, Difference] = field(default_factory=dict)
    """Of L@m by metres; empty where no true places are known to both."""
    placed: int = 0
    """Queries whose true place both know."""
    metres: Wins | None = None
    """By the distance of the first row."""

    def sentence(self, name: str) -> str:
        """What the numbers show; `name` is the other run's."""
        shares = {f"R@{k}": one for k, one in self.recall.items()} | {f"L@{m} m": one for m, one in self.located.items()}
        cells = [f"{what} {100 * one.value:+.1f} ({100 * one.low:+.1f}…{100 * one.high:+.1f})" for what, one in shares.items()]
        parts = [f"over {name}: {', '.join(cells)}"]
        ways = (
            ("the right tile comes earlier", "later", self.ranks),
            ("the first lies nearer to the truth", "farther", self.metres),
        )
        for better, worse, one in ways:
            if one is not None:
                parts.append(
                    f"{better} for {one.wins:,} queries, {worse} for {one.losses:,}, alike for {one.ties:,} "
                    f"(sign test p = {one.sign_test:.2g})"
                )
        return "; ".join(parts)

    def shares(self) -> dict[str, Any]:
        """Plain differences: of R@k by k, of L@m by metres as "50m"."""
        located = {f"{m}m": asdict(one) for m, one in self.located.items()}
        return {**{str(k): asdict(one) for k, one in self.recall.items()}, **located}

    def wins(self) -> dict[str, Any]:
        """Plain counts: "rank" and "metres", as far as they are known."""
        ways = {"rank": self.ranks, "metres": self.metres}
        return {name: asdict(one) for name, one in ways.items() if one is not None}


def paired(
    ours: pa.Table, theirs: pa.Table, ks: Sequence[int], metres: Sequence[int], bootstrap: Bootstrap | None = None
) -> Paired:
    """Of tables of `ROWS` of the same queries in the same order.

    Args:
        ks: of R@k; none where no classes are known.
        metres: of L@m.

    Raises:
        ValueError: other numbers of queries.
    """
    ranks, rival = (table["rank"].to_numpy() for table in (ours, theirs))
    # Runs may have kept other numbers of places: beyond the last that is judged all are as good.
    order, other = (np.where((rank > 0) & (rank <= max(ks, default=0)), rank, np.inf) for rank in (ranks, rival))
    known = np.logical_and(*(np.asarray(table["known"].fill_null(False).to_numpy()) for table in (ours, theirs)))
    far, theirs_far = (np.nan_to_num(table["metres"].to_numpy(), nan=np.inf)[known] for table in (ours, theirs))
    there = bool(known.any())
    return Paired(
        queries=len(ours),
        recall={k: difference(ranks, rival, k, bootstrap) for k in ks},
        ranks=_wins(order, other, 0) if ks else None,
        located={m: share_difference(far <= m, theirs_far <= m, bootstrap) for m in metres} if there else {},
        placed=int(known.sum()),
        metres=_wins(far, theirs_far, CLOSE_M) if there else None,
    )


def _wins(ours: Floats, theirs: Floats, close: float) -> Wins:
    """Of numbers `(N,)` of which less is better."""
    wins, losses = int(np.sum(ours + close < theirs)), int(np.sum(theirs + close < ours))
    return Wins(wins=wins, losses=losses, ties=len(ours) - wins - losses, sign_test=unequal(wins, losses))
