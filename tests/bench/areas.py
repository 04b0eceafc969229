"""Search within areas of the benchmark's gallery, of two kinds.

The 100 rows nearest to each query's own place, and a box with a third of all rows for all queries. The rival is FAISS's flat
search with a selector, query by query where each has rows of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import faiss
import numpy as np

from geobatch.engine.gallery import Gallery

NEAREST, K, BATCH, ASKED = 100, 10, 256, 512
SLOW = 16  # queries of a batch that are asked one by one


def measured(gallery: Gallery, vectors: np.ndarray, queries: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """Milliseconds a query, medians over batches, and what was found.

    Args:
        vectors: (N, D) of which the first are the gallery's rows, in order.
        queries: (Q, D).
        places: (Q, 2) degrees, of the queries.
    """
    started = time.perf_counter()
    near = gallery.near(places[:, 0], places[:, 1], NEAREST)[1]
    nearest = (time.perf_counter() - started) / len(queries)
    spent: dict[str, list[float]] = {}
    same, hits = [], []
    box = gallery.inside(-90, float(np.quantile(gallery.longitude, 0.3)), 90, float(np.quantile(gallery.longitude, 0.63)))
    index = _flat(vectors, len(gallery))
    only = _selecting(len(gallery), box)
    gallery.search(queries[:1], K)  # opens the index
    for start in range(0, len(queries) - BATCH, BATCH):
        some, rows = queries[start : start + BATCH], near[start : start + BATCH]
        found = _timed(spent, "few", BATCH, lambda some=some, rows=rows: gallery.search(some, K, among=list(rows))[1])
        few = _timed(spent, "slow", SLOW, lambda some=some, rows=rows: _one_by_one(index, some[:SLOW], rows[:SLOW]))
        same.append((found[:SLOW] == few).mean())
    stored = gallery._finder.stored  # type: ignore[attr-defined]
    for start in range(0, ASKED, BATCH):
        some = queries[start : start + BATCH]
        ours = _timed(spent, "box", BATCH, lambda some=some: gallery.search(some, K, among=[box] * BATCH)[1])
        truth = _timed(spent, "flat", BATCH, lambda some=some: index.search(some, K, params=only)[1])
        _timed(spent, "product", BATCH, lambda some=some: stored.search_rows(some, box, K)[1])
        hits.append(_recall(ours, truth))
    own = np.flatnonzero((places[:, 1] > gallery.longitude[box].min() + 5) & (places[:, 1] < gallery.longitude[box].max() - 5))
    some = queries[own[:BATCH]]
    ours = _timed(spent, "within", len(some), lambda: gallery.search(some, K, among=[box] * len(some))[1])
    truth = index.search(some, K, params=only)[1]
    return {
        **{name: 1e3 * median(each) for name, each in spent.items()},
        "near": 1e3 * nearest,
        "same": float(np.mean(same)),
        "share": len(box) / len(gallery),
        "recall": float(np.mean(hits)),
        "recall_within": _recall(ours, truth),
    }


def rows(area: dict[str, Any], what: str) -> list[dict[str, object]]:
    """What `measured` found, as lines of the benchmark's table."""
    return [
        {
            "name": f"search among {NEAREST} rows each, {what}",
            "rival": "FAISS IndexFlatIP with a selector of its rows, query by query",
            "ratio": area["slow"] / area["few"],
            "measured": (
                f"{area['few']:.3f} ms a query against {area['slow']:.3f} in batches of {BATCH}, the same rows in "
                f"{area['same']:.2%} of the answers; finding the {NEAREST} nearest places takes {area['near']:.3f} ms a query"
            ),
        },
        {
            "name": f"search within a box of {area['share']:.0%} of {what}",
            "rival": "FAISS IndexFlatIP with a selector of these rows",
            "ratio": area["flat"] / area["box"],
            "measured": (
                f"{area['box']:.2f} ms a query against {area['flat']:.2f}, recall@{K} {area['recall']:.4f} on {ASKED} queries "
                f"from everywhere in batches of {BATCH}; a product with these rows, looked up once a batch, takes "
                f"{area['product']:.2f} ms; who asks from within the box pays {area['within']:.2f} ms, recall@{K} "
                f"{area['recall_within']:.4f}"
            ),
        },
    ]


def _timed(spent: dict[str, list[float]], name: str, queries: int, ask: Callable[[], np.ndarray]) -> np.ndarray:
    started = time.perf_counter()
    found = ask()
    spent.setdefault(name, []).append((time.perf_counter() - started) / queries)
    return found


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def _one_by_one(index: Any, queries: np.ndarray, near: np.ndarray) -> np.ndarray:
    asked = zip(queries, near, strict=True)
    return np.concatenate([index.search(query[None], K, params=_selecting(index.ntotal, rows))[1] for query, rows in asked])


def _flat(vectors: np.ndarray, count: int) -> Any:
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, count, 65_536):
        index.add(np.array(vectors[start : min(start + 65_536, count)]))
    return index


def _selecting(count: int, rows: np.ndarray) -> Any:
    allowed = np.zeros(count, bool)
    allowed[rows] = True
    parameters: Any = faiss.SearchParameters
    selector: Any = faiss.IDSelectorBitmap
    return parameters(sel=selector(np.packbits(allowed, bitorder="little")))
