"""Hard negatives: the tiles that the encoder, as it is now, would wrongly give for a text.

Tiles of a batch drawn at random are soon told apart; what costs a hit among thousands are the few that look alike. So every
`hard_every` steps all training tiles are embedded anew, and each text of the steps until the next time is given the tiles of
other places that are most like it (the negatives of ANCE, Xiong et al. 2021, arXiv 2007.00808, section 4; ours wait for the
embedding where ANCE's come from a process that lags). They stand beside the batch's tiles as negatives of all its texts, other
workers' texts included, but for texts of the place they show, and texts that read like one of theirs, unless such tiles are
negatives in the batch as well (`Tuning.distinct`): of a thousand tiles called "open sea" the likest are the other open seas.

What is mined is a function of the weights at that step, which nobody has any more later: the table goes into the checkpoint
(`hard_every` × batch × `hard_negatives` numbers), so a training that is taken up again goes on with the same negatives. The
price is a pass without gradients over all tiles and the texts that are due; the search is exact. Where places are dense, the
tiles most like a text may be described by it as well as its own.

Not covered: hard texts for tiles, which only the symmetric loss would use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geobatch.errors import UserError
from geobatch.methods.ngcg.batches import Order, Rows, mark
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train.loop import Worker
from geobatch.train.shard import gathered

Vectors = NDArray[np.float32]

#: Pictures that are decoded before they are embedded, and texts that are searched for, at a time.
_AT_ONCE = 256


class Mine:
    """The mined negatives of the steps to come.

    Args:
        pairs: whose tiles are the gallery.
        order: which pairs make up a step; an `Order` of its own, since it looks ahead.
        every: steps between minings; 0: none.
        count: tiles a text.
        worker: who this is; every worker embeds a part.
        distinct: whether tiles of which the very text is said are no negatives of it.

    Attributes:
        rows: (S, B, count) tiles of the steps from `start` on.

    Raises:
        UserError: a text has fewer tiles of other places than are asked for.
    """

    def __init__(self, pairs: Pairs, order: Order, every: int, count: int, worker: Worker, distinct: bool = False) -> None:
        self.pairs, self.order, self.every, self.count, self.worker = pairs, order, every, count, worker
        self.said = Said(pairs) if every and distinct else None
        self.start = 0
        self.rows: Rows = np.empty((0, 0, count), np.int64)
        if every and (most := len(pairs) - int(np.unique(pairs.groups, return_counts=True)[1].max(initial=0))) < count:
            raise UserError(f"a text has {most} tiles of other places, not {count}; lower --tuning.hard-negatives")

    def due(self, step: int) -> bool:
        """Whether a step begins with mining: every so many, but not the first, whose encoder knows nothing."""
        return bool(self.every) and step > 0 and step % self.every == 0

    def mine(self, encoder: Encoder, step: int, steps: int, batch: int) -> None:
        """Finds the negatives of the steps from `step` on; every worker must come.

        Args:
            steps: of the training in all.
            batch: pictures that are embedded at once.
        """
        drawn = [self.order.rows(each) for each in range(step, min(step + self.every, steps))]
        rows, turns = (np.stack([each[part] for each in drawn]) for part in (0, 1))
        tiles = shared(tiles_of(encoder, self.pairs, batch), len(self.pairs), self.worker)
        mine = slice(self.worker.rank, None, self.worker.world)
        asked, turn = rows.reshape(-1)[mine], turns.reshape(-1)[mine]
        found = np.empty((len(asked), self.count), np.int64)
        for at in range(0, len(asked), _AT_ONCE):
            some = asked[at : at + _AT_ONCE]
            texts = [self.pairs.texts(int(row)) for row in some]
            texts_now = [each[one % len(each)] for each, one in zip(texts, turn[at : at + _AT_ONCE], strict=True)]
            vectors = encoder.encode_texts(texts_now, batch=4 * batch)
            alike = None if self.said is None else [self.said.of(text) for text in texts_now]
            found[at : at + _AT_ONCE] = nearest(vectors, tiles, self.pairs.groups[some], self.pairs.groups, self.count, alike)
        self.start, self.rows = step, whole(found, rows.size, self.worker).reshape(*rows.shape, self.count)

    def of(self, step: int) -> Rows | None:
        """(B, count) tiles for a step, or None where none were mined."""
        at = step - self.start
        return self.rows[at] if 0 <= at < len(self.rows) else None

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"start": self.start, "rows": torch.from_numpy(self.rows)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.start, self.rows = int(state["start"]), state["rows"].cpu().numpy()


class Said:
    """Which pairs a text is said of, word for word."""

    def __init__(self, pairs: Pairs) -> None:
        texts = list(pairs.texts_by_pair())
        marks = np.array([mark(text) for each in texts for text in each], np.int64)
        order = np.argsort(marks, kind="stable")
        self.marks, self.rows = marks[order], np.repeat(np.arange(len(texts)), [len(each) for each in texts])[order]

    def of(self, text: str) -> Rows:
        """Their rows."""
        first, last = (int(np.searchsorted(self.marks, mark(text), side)) for side in ("left", "right"))
        return self.rows[first:last]


def nearest(
    queries: Vectors,
    tiles: Vectors,
    query_groups: Rows,
    tile_groups: Rows,
    count: int,
    alike: Sequence[Rows] | None = None,
) -> Rows:
    """(Q, count) tiles of other places that are most like each query, the likest first.

    Where fewer tiles are left, some that were not wanted come last; the loss leaves them out for that query.

    Args:
        queries: (Q, D) unit vectors; `query_groups` (Q,) their places.
        tiles: (G, D) unit vectors; `tile_groups` (G,) theirs.
        alike: tiles of each query that are not wanted either.
    """
    cosines = queries @ tiles.T
    cosines[query_groups[:, None] == tile_groups] = -np.inf
    for row, unwanted in enumerate(alike or ()):
        cosines[row, unwanted] = -np.inf
    best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).astype(np.int64)


def tiles_of(encoder: Encoder, pairs: Pairs, batch: int) -> Callable[[Rows], Vectors]:
    """A function that gives (n, D) vectors of the tiles of some rows; a few hundred are decoded at a time."""

    def embed(rows: Rows) -> Vectors:
        parts = [
            encoder.encode_pictures([pairs.picture(int(row)) for row in rows[at : at + _AT_ONCE]], batch=batch)
            for at in range(0, len(rows), _AT_ONCE)
        ]
        return np.concatenate([np.zeros((0, encoder.dimension), np.float32), *parts])

    return embed


def texts_of(encoder: Encoder, texts: Sequence[str], batch: int) -> Callable[[Rows], Vectors]:
    """A function that gives (n, D) vectors of some of the texts."""

    def embed(rows: Rows) -> Vectors:
        if not len(rows):
            return np.zeros((0, encoder.dimension), np.float32)
        return encoder.encode_texts([texts[int(row)] for row in rows], batch=batch)

    return embed


def shared(embed: Callable[[Rows], Vectors], count: int, worker: Worker) -> Vectors:
    """(count, D) vectors of the rows 0 to `count`, each embedded by one worker; on every worker the same."""
    return whole(embed(np.arange(worker.rank, count, worker.world)), count, worker)


def whole(part: NDArray[Any], count: int, worker: Worker) -> NDArray[Any]:
    """What every worker has of every W-th row, as one array of `count` rows."""
    out = np.empty((count, *part.shape[1:]), part.dtype)
    for rank, each in enumerate(gathered(part)):
        out[rank :: worker.world] = each
    return out
