"""Which index a gallery gets: the one that was measured to pay, or none.

Candidates are trained and tried on queries that they do not hold: vectors of real pictures where they are given, else gallery
rows kept out until the measurement is over. Effort is raised until recall@15 is what is asked by two standard errors, so that
luck does not decide. Speed is processor time on one thread, ranking included, over that of flat
search of the same batch: neighbours on the machine and waiting threads do not enter.

Above twice `SAMPLE` rows the kinds are first tried on a sample, and only those that pay there are built in full, the fastest
first; the figures that are kept are the full gallery's. Vectors without structure (independent, identically distributed) have
no near neighbours for an index to find: none pays, and the gallery says so and stays flat.

Not covered: queries from another distribution than the gallery's, unless they are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from geobatch.engine.gallery.exclude import search_without
from geobatch.engine.gallery.index import NEIGHBOURS, Index, Indexing, cells, fill, trained
from geobatch.engine.gallery.stored import Rows, Stored, Vectors
from geobatch.errors import UserError

SAMPLE = 65_536
_HELD = 1024  # queries for recall
_TIMED = 256  # of them, for speed: the batch a river sends
_GRAPH_ROWS = 1_000_000  # above them auto does not build a graph
_KINDS = ("pq", "ivf", "hnsw")  # as auto tries them, the graph only if neither of the others pays


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an index achieved.

    Fields:
        kind: of index.
        rows: that it searched.
        probes, refine: the effort (`geobatch.engine.gallery.index.Index`).
        recall: share of the exact NEIGHBOURS nearest that it found.
        milliseconds: of processor time a query.
        speed_up: over flat search.
    """

    kind: str
    rows: int
    probes: int
    refine: int
    recall: float
    milliseconds: float
    speed_up: float


@dataclass(frozen=True)
class Questions:
    """Queries with their true answers.

    Args:
        queries: (Q, W) of searched columns.
        held: rows that the index must not hold while it is tried, sorted.
        truth: (Q, k) rows.
        flat_seconds: processor time of flat search for the first `_TIMED` queries.
    """

    queries: Vectors
    held: Rows
    truth: Rows
    flat_seconds: float


def choose(stored: Stored, indexing: Indexing, queries: Vectors | None = None) -> tuple[Index | None, dict[str, Any]]:
    """The index, filled and at its effort, or None for flat search; and what was measured, for the record.

    Args:
        queries: (Q, W) searched columns of real queries; default: rows of the gallery itself, kept out while measuring.
    """
    if indexing.kind == "flat" or (indexing.kind == "auto" and len(stored) < max(indexing.flat_below, 2)):
        return None, {"says": "flat search, as asked" if indexing.kind == "flat" else "flat search: a small gallery"}
    if len(stored) < 256:
        raise UserError(f"{len(stored)} images train no {indexing.kind} index; build this gallery with kind flat or auto")
    tried: list[Trial] = []
    kinds, sampled = [str(indexing.kind)], True
    if indexing.kind == "auto":
        sampled = len(stored) > 2 * SAMPLE
        kinds = _worth_building(stored, indexing, queries, tried) if sampled else list(_KINDS)
    if not kinds:
        return None, _none_pays(tried)
    asked = ask(stored, queries)
    best: tuple[Index, Trial] | None = None
    for kind in kinds:
        if best is not None and (sampled or kind == "hnsw"):
            break
        index = trained(kind, stored)
        fill(index, stored, asked.held)
        tried.append(climb(index, stored, asked, indexing))
        good = pays(tried[-1], indexing) or indexing.kind != "auto"
        if good and (best is None or tried[-1].speed_up > best[1].speed_up):
            best = index, tried[-1]
    if best is None:
        return None, _none_pays(tried)
    index, trial = best
    index.add(asked.held, stored.take(asked.held, searched=True))
    index.probes, index.refine = trial.probes, trial.refine
    source = "given queries" if queries is not None else "rows kept out"
    return index, {"says": _said(trial, indexing), "queries": source, **asdict(trial), "tried": _plain(tried)}


def ask(stored: Stored, queries: Vectors | None = None, seed: int = 1) -> Questions:
    """Queries, their exact answers, and what these cost."""
    held = np.zeros(0, np.int64)
    if queries is None:
        count = min(_HELD, max(len(stored) // 20, 16))
        held = np.sort(np.random.default_rng(seed).choice(len(stored), count, replace=False)).astype(np.int64)
        queries = np.random.default_rng(seed).permutation(stored.take(held, searched=True))
    queries = np.ascontiguousarray(queries[:_HELD], np.float32)
    k = min(NEIGHBOURS, len(stored) - len(held))
    truth = search_without(
        lambda at, width: stored.search(np.ascontiguousarray(queries[at]), width),
        lambda _at, _s, rows: np.isin(rows, held),
        len(queries),
        k,
        len(stored),
        k,
    )[1]
    return Questions(queries, held, truth, _seconds(lambda: stored.search(queries[:_TIMED], k)))


def climb(index: Index, stored: Stored, asked: Questions, indexing: Indexing) -> Trial:
    """The least costly effort that reaches the recall, else the one with the best recall."""
    reached: list[Trial] = []
    closest = (-1.0, 1, 1)
    for refine in (4, 16) if index.kind == "pq" else (2,):
        last = -1.0
        for probes in _ladder(index, len(stored)):
            index.probes, index.refine = probes, refine
            hits = _hits(index.search(asked.queries, asked.truth.shape[1], stored)[1], asked.truth)
            found, doubt = float(hits.mean()), float(hits.std() / np.sqrt(len(hits)))
            closest = max(closest, (found, probes, refine))
            if found - 2 * doubt >= indexing.recall:
                reached.append(_timed(index, stored, asked, found))
                break
            if found - last < 1e-4 and probes > 32:
                break
            last = found
    if reached:
        return max(reached, key=lambda trial: trial.speed_up)
    found, index.probes, index.refine = closest
    return _timed(index, stored, asked, found)


def _timed(index: Index, stored: Stored, asked: Questions, found: float) -> Trial:
    """The trial of an index at the effort it stands at."""
    some = asked.queries[:_TIMED]
    seconds = _seconds(lambda: index.search(some, asked.truth.shape[1], stored))
    return Trial(
        kind=index.kind,
        rows=len(stored),
        probes=index.probes,
        refine=index.refine,
        recall=round(found, 5),
        milliseconds=round(1e3 * seconds / len(some), 4),
        speed_up=round(asked.flat_seconds / seconds, 2),
    )


def pays(trial: Trial, indexing: Indexing) -> bool:
    """Whether it finds enough and is fast enough."""
    return trial.recall >= indexing.recall and trial.speed_up >= indexing.worthwhile


def _worth_building(stored: Stored, indexing: Indexing, queries: Vectors | None, tried: list[Trial]) -> list[str]:
    """Kinds that pay on a sample, the fastest first."""
    rows = np.sort(np.random.default_rng(2).choice(len(stored), SAMPLE, replace=False)).astype(np.int64)
    sample = Stored([stored.take(rows, searched=True)])
    asked = ask(sample, queries)
    good: list[Trial] = []
    for kind in _KINDS:
        if kind == "hnsw" and (good or len(stored) > _GRAPH_ROWS):
            break
        index = trained(kind, sample)
        fill(index, sample, asked.held)
        tried.append(climb(index, sample, asked, indexing))
        good += [tried[-1]] if pays(tried[-1], indexing) else []
    return [trial.kind for trial in sorted(good, key=lambda trial: -trial.speed_up)]


def _none_pays(tried: list[Trial]) -> dict[str, Any]:
    return {"says": "flat search: no index pays. " + " ".join(map(_short, tried)), "tried": _plain(tried)}


def _ladder(index: Index, rows: int) -> Iterator[int]:
    """Efforts in rising order: open ends of a graph, or cells up to half of them."""
    least, most = (32, 512) if index.kind == "hnsw" else (1, max(cells(rows) // 2, 1))
    while least <= most:
        yield least
        least *= 2


def _hits(found: Rows, truth: Rows) -> NDArray[np.float64]:
    """(Q,) share of each query's true rows that were found."""
    return (found[:, :, None] == truth[:, None, :]).any(axis=1).mean(axis=1)


def _seconds(work: Callable[[], object], times: int = 3) -> float:
    """Processor seconds on one thread, the median of `times`."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        spent = []
        for _ in range(times):
            started = time.process_time()
            work()
            spent.append(time.process_time() - started)
    finally:
        faiss.omp_set_num_threads(threads)
    return max(median(spent), 1e-9)


def _plain(tried: list[Trial]) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in tried]


def _short(trial: Trial) -> str:
    return f"{trial.kind} on {trial.rows:,}: recall {trial.recall:.3f} at {trial.speed_up:.1f} × flat."


def _said(trial: Trial, indexing: Indexing) -> str:
    said = f"{trial.kind}: recall@{NEIGHBOURS} {trial.recall:.4f} at {trial.speed_up:.1f} × the speed of flat search"
    return said if pays(trial, indexing) else f"{said}, which is less than was asked; kept because it was named"
