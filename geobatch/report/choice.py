"""Which images a page shows, and which of them with a picture, while the table passes by in parts.

All of them where they are few. Of more, up to a limit: the farthest and the nearest (a twentieth of the limit each), rejected
ones (a twentieth), and a draw of the rest, by a hash of the image's name, so that the same image is drawn in every run that
has it. Without a truth the least and the most confident stand in for the farthest and the nearest. The sample that gets
pictures is chosen by the same rule with a third each, so every pictured image is a shown one.

Kept are at most twice the limit of rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[np.intp]

#: Column of probability that orders images where there is no truth.
CONFIDENCE = "probability_200km"

#: Why an image was chosen, as pages say it; the place in the tuple is the number they carry.
REASONS = ("", "worst", "best", "random")


def draw(image_ids: list[str]) -> NDArray[np.uint64]:
    """A number `(N,)` for each name, uniform and the same for ever."""
    digests = b"".join(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in image_ids)
    return np.frombuffer(digests, "<u8")


@dataclass(kw_only=True)
class Chosen:
    """Rows worth keeping of a table that comes in parts.

    Fields:
        limit: rows at most.
        edge: rows at either end, among `limit`.
        rejected: rejected rows among `limit`.
    """

    limit: int
    edge: int
    rejected: int
    _parts: list[pa.Table] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        """The next rows: `image_id`, `status`, `error_km`, `CONFIDENCE`, and whatever else is to be kept."""
        self._parts.append(table)
        if sum(map(len, self._parts)) > 2 * self.limit:
            self._parts = [self.table().drop_columns(["why"])]

    def table(self) -> pa.Table:
        """What was chosen, in the order it came, with a column `why` (see `REASONS`)."""
        whole = pa.concat_tables(self._parts, promote_options="default")
        why = np.zeros(len(whole), np.uint8)
        place = np.flatnonzero(pc.equal(whole["status"], "placed").to_numpy())
        order, numbers = self._order(whole), draw(whole["image_id"].to_pylist())
        # From the least wanted to the most: a row at either end keeps that reason although it was drawn as well.
        dead = np.setdiff1d(np.arange(len(whole)), place)
        keep = set(dead[np.argsort(numbers[dead])][: self.rejected].tolist())
        ranked = place[np.argsort(order[place], kind="stable")]
        ranked = ranked[np.isfinite(order[ranked])]
        edge = min(self.edge, len(ranked) // 2)
        worst, best = ranked[len(ranked) - edge :], ranked[:edge]
        all_fit = len(whole) <= self.limit
        others = np.setdiff1d(np.arange(len(whole)) if all_fit else place, np.concatenate([worst, best]))
        left = len(whole) if all_fit else max(self.limit - len(keep) - 2 * edge, 0)
        drawn = others[np.argsort(numbers[others])][:left]
        why[drawn], why[best], why[worst] = 3, 2, 1
        keep.update(drawn.tolist(), best.tolist(), worst.tolist())
        rows = np.array(sorted(keep), np.intp)
        return whole.append_column("why", pa.array(why)).take(pa.array(rows))

    @staticmethod
    def _order(table: pa.Table) -> NDArray[np.float64]:
        """How far off `(N,)`, or how doubtful where no image has a truth; NaN: not known."""
        error = table["error_km"].to_numpy().astype(np.float64)
        if np.isfinite(error).any() or CONFIDENCE not in table.column_names:
            return error
        return -pc.cast(table[CONFIDENCE], pa.float64()).to_numpy().astype(np.float64)


def shown(limit: int, pictures: int = 0) -> Chosen:
    """Images on a page, those that `pictured(pictures)` chooses among them if they are at most half."""
    return Chosen(limit=limit, edge=max(limit // 20, pictures // 3), rejected=limit // 20)


def pictured(limit: int) -> Chosen:
    """Images that a page has pictures of."""
    return Chosen(limit=limit, edge=limit // 3, rejected=0)
