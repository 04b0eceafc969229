"""Search within areas of the benchmark's gallery, of two kinds.

The 100 rows nearest to each query's own place, against looking them up and multiplying query by query; and a box with a third
of all rows for all queries, against FAISS's flat search with a selector, and against a product with those rows alone.
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
    for start in range(0, len(queries) - BATCH, BATCH):
        some, rows = queries[start : start + BATCH], near[start : start + BATCH]
        found = _timed(spent, "few", BATCH, lambda some=some, rows=rows: gallery.search(some, K, among=list(rows))[1])
        slow = _timed(spent, "slow", BATCH, lambda some=some, rows=rows: _one_by_one(gallery, some, rows))
        same.append((found == slow).mean())
    box = gallery.inside(-90, float(np.quantile(gallery.longitude, 0.3)), 90, float(np.quantile(gallery.longitude, 0.63)))
    index, only = _flat(vectors, len(gallery), box)
    stored = gallery._finder.stored  # type: ignore[attr-defined]
    for start in range(0, ASKED, BATCH):
        some = queries[start : start + BATCH]
        ours = _timed(spent, "box", BATCH, lambda some=some: gallery.search(some, K, among=[box] * BATCH)[1])
        truth = _timed(spent, "flat", BATCH, lambda some=some: index.search(some, K, params=only)[1])
        _timed(spent, "product", BATCH, lambda some=some: stored.search_rows(some, box, K)[1])
        hits.append((ours[:, :, None] == truth[:, None, :]).any(axis=1).mean())
    return {
        **{name: 1e3 * median(each) for name, each in spent.items()},
        "near": 1e3 * nearest,
        "same": float(np.mean(same)),
        "share": len(box) / len(gallery),
        "recall": float(np.mean(hits)),
    }


def rows(area: dict[str, Any], what: str) -> list[dict[str, object]]:
    """What `measured` found, as lines of the benchmark's table."""
    return [
        {
            "name": f"search among {NEAREST} rows each, {what}",
            "rival": "one product a query, with its rows looked up",
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
                f"in batches of {BATCH}; a product with these rows, looked up once a batch, takes {area['product']:.2f} ms"
            ),
        },
    ]


def _timed(spent: dict[str, list[float]], name: str, queries: int, ask: Callable[[], np.ndarray]) -> np.ndarray:
    started = time.perf_counter()
    found = ask()
    spent.setdefault(name, []).append((time.perf_counter() - started) / queries)
    return found


def _one_by_one(gallery: Gallery, queries: np.ndarray, near: np.ndarray) -> np.ndarray:
    found = [rows[np.argsort(-(gallery.vectors(rows) @ query))[:K]] for query, rows in zip(queries, near, strict=True)]
    return np.array(found)


def _flat(vectors: np.ndarray, count: int, allowed: np.ndarray) -> tuple[Any, Any]:
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, count, 65_536):
        index.add(np.array(vectors[start : min(start + 65_536, count)]))
    mask = np.zeros(count, bool)
    mask[allowed] = True
    parameters: Any = faiss.SearchParameters
    selector: Any = faiss.IDSelectorBitmap
    return index, parameters(sel=selector(np.packbits(mask, bitorder="little")))
