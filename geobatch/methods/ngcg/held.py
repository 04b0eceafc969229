"""What an encoder makes of pairs that were kept out of its training: which texts find their tiles, and the other way.

All texts of the pairs are searched for among all their tiles; a hit is a tile of the text's place. R@k is the share of texts
with one among the first k. Figures are named by direction, t2i for texts that search tiles and i2t for tiles that search
texts: code of this field swaps them. A tie is lost: an encoder that has collapsed, or whose vectors are no numbers, finds
nothing rather than everything. What is measured is easier than a real gallery in proportion to its size: ten at random among a
hundred are 10 %.

A checkpoint is chosen by `score`, the mean of R@1, R@5 and R@10 of the texts, which is what the method is for: R@1 alone of
some hundred texts moves by steps that are chance.

Not covered: galleries that hold more than these tiles (`geobatch.benchmark.retrieval`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geobatch.methods.ngcg.batches import Rows
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.mine import Vectors, shared, texts_of, tiles_of
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train.loop import Worker

#: The k of R@k.
FIRST = (1, 5, 10)

#: Queries that are compared with everything at a time.
_QUERIES = 1024


def measure(encoder: Encoder, pairs: Pairs, batch: int, worker: Worker) -> dict[str, float]:
    """Figures on `pairs`; every worker must come, and gets the same.

    Args:
        batch: tiles that are embedded at once; four times as many texts.

    Returns:
        `t2i_r1`, `t2i_r5`, `t2i_r10`, `i2t_r1`, … between 0 and 1.
    """
    said = [(text, group) for row, group in enumerate(pairs.groups.tolist()) for text in pairs.texts(row)]
    texts = shared(texts_of(encoder, [text for text, _ in said], 4 * batch), len(said), worker)
    tiles = shared(tiles_of(encoder, pairs, batch), len(pairs), worker)
    of_texts = np.array([group for _, group in said], np.int64)
    ranks = {
        "t2i": ranked(texts, tiles, of_texts, pairs.groups),
        "i2t": ranked(tiles, texts, pairs.groups, of_texts),
    }
    return {f"{way}_r{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in FIRST}


def score(figures: dict[str, float]) -> float:
    """What the best checkpoint has most of."""
    return sum(figures[f"t2i_r{k}"] for k in FIRST) / len(FIRST)


def ranked(queries: Vectors, gallery: Vectors, query_groups: Rows, gallery_groups: Rows) -> NDArray[np.int64]:
    """(Q,) how many rows of other places are at least as like each query as the likest of its own place.

    Args:
        queries: (Q, D) unit vectors; `query_groups` (Q,) their places.
        gallery: (G, D) unit vectors; `gallery_groups` (G,) theirs, with one row at least of each query's.
    """
    out = np.empty(len(queries), np.int64)
    for at in range(0, len(queries), _QUERIES):
        cosines = queries[at : at + _QUERIES] @ gallery.T
        own = query_groups[at : at + _QUERIES, None] == gallery_groups
        best = np.where(own, np.nan_to_num(cosines, nan=-np.inf), -np.inf).max(axis=1, keepdims=True)
        out[at : at + _QUERIES] = (~own & ~(cosines < best)).sum(axis=1)
    return out


def over_chance(history: list[list[float]], batch: int) -> float:
    """Mean loss of the last twentieth of the steps over ln B, which is the loss of vectors that are all one."""
    return float(np.mean([row[1] for row in history[-max(1, len(history) // 20) :]] or [np.inf]) / np.log(batch))
