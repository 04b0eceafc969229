"""Which index a gallery gets; speed decides nothing here unless by a factor of ten, for a busy machine has no steady one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geobatch.engine.gallery import Gallery, Indexing, build, load
from geobatch.engine.gallery import measure as measuring
from geobatch.engine.gallery.stored import Stored
from geobatch.errors import UserError
from tests.engine.gallery.smooth import formless, nearest, recall, smooth, tables


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq"])
def test_each_kind_finds_what_it_says(tmp_path: Path, kind: str) -> None:
    vectors, lat, lon = smooth(2000)
    asked = 0.9 if kind == "pq" else 0.97  # 4 bits for 4 of 64 components are coarse
    gallery = build(tmp_path, tables(vectors, lat, lon), indexing=Indexing(kind=kind, recall=asked))  # type: ignore[arg-type]
    measured = gallery.record["measured"]
    assert gallery.record["kind"] == measured["kind"] == kind and measured["recall"] >= asked and measured["speed_up"] > 0
    queries = smooth(200, seed=5)[0]
    similarities, rows = gallery.search(queries, 15)
    assert recall(rows, nearest(queries, vectors, 15)) >= asked - 0.03
    assert np.allclose(similarities, np.einsum("nd,nkd->nk", queries, vectors[rows]), atol=1e-3)
    assert recall(gallery.search(vectors, 1)[1], np.arange(2000)[:, None]) >= asked  # those kept out are in it


def test_structure_gets_an_index_and_its_figures_are_kept(tmp_path: Path) -> None:
    vectors, lat, lon = smooth(2000)
    gallery = build(tmp_path, tables(vectors, lat, lon), indexing=Indexing(flat_below=1000, worthwhile=0.0))
    measured = gallery.record["measured"]
    assert gallery.record["kind"] in ("ivf", "pq") and measured["recall"] >= 0.99 and "recall@15" in measured["says"]
    assert {trial["kind"] for trial in measured["tried"]} == {"ivf", "pq"}
    again = load(tmp_path)
    assert again.fingerprint == gallery.fingerprint and again.record == gallery.record
    queries = smooth(20, seed=6)[0]
    assert (again.search(queries, 15)[1] == gallery.search(queries, 15)[1]).all()


def test_without_structure_no_index_helps_and_it_says_so(tmp_path: Path) -> None:
    gallery = build(tmp_path, tables(*formless(2000)), indexing=Indexing(flat_below=1000, worthwhile=1.0))
    assert gallery.record["kind"] == "flat" and "no index pays" in gallery.record["measured"]["says"]
    assert [trial["kind"] for trial in gallery.record["measured"]["tried"]] == ["pq", "ivf", "hnsw"]
    assert all(trial["recall"] < 0.99 or trial["speed_up"] < 1 for trial in gallery.record["measured"]["tried"])


def test_an_index_that_is_not_worth_it_is_not_taken(tmp_path: Path) -> None:
    gallery = build(tmp_path, tables(*smooth(1500)), indexing=Indexing(flat_below=1000, worthwhile=1e9, recall=0.5))
    assert gallery.record["kind"] == "flat" and gallery.record["measured"]["tried"][0]["recall"] >= 0.5


def test_large_galleries_try_kinds_on_a_sample_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE", 1000)
    vectors, lat, lon = smooth(2400)
    gallery = build(tmp_path, tables(vectors, lat, lon), indexing=Indexing(flat_below=1000, worthwhile=0.0, recall=0.95))
    rows = [trial["rows"] for trial in gallery.record["measured"]["tried"]]
    assert rows == [1000, 1000, 2400] and gallery.record["measured"]["rows"] == 2400
    flat = build(tmp_path, tables(*formless(2400)), indexing=Indexing(flat_below=1000, worthwhile=1.0))
    assert flat.record["kind"] == "flat" and {trial["rows"] for trial in flat.record["measured"]["tried"]} == {1000}


def test_real_queries_decide_where_they_are_given(tmp_path: Path) -> None:
    queries = smooth(300, seed=8)[0]
    gallery = build(tmp_path, tables(*smooth(2000)), indexing=Indexing(kind="ivf", recall=0.97), queries=queries)
    assert gallery.record["measured"]["queries"] == "given queries"
    assert recall(gallery.search(queries, 15)[1], nearest(queries, smooth(2000)[0], 15)) >= 0.97


def test_rows_kept_out_are_not_their_own_answer() -> None:
    stored = Stored([smooth(2000)[0]])
    asked = measuring.ask(stored)
    assert len(asked.held) == 100 and not np.isin(asked.truth, asked.held).any() and asked.flat_seconds > 0
    everything = asked.queries @ stored.arrays[0].T
    everything[:, asked.held] = -np.inf
    assert (asked.truth == np.argsort(-everything, axis=1)[:, :15]).mean() > 0.999


def test_too_small_for_the_index_that_was_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind flat or auto"):
        build(tmp_path, tables(*smooth(100)), indexing=Indexing(kind="pq"))


def test_a_query_whose_cells_hold_too_little_is_searched_exactly(tmp_path: Path) -> None:
    vectors, lat, lon = smooth(600)
    made: Gallery = build(tmp_path, tables(vectors, lat, lon), indexing=Indexing(kind="ivf", recall=0.1))
    assert made.record["probes"] == 1
    queries = smooth(30, seed=9)[0]
    similarities, rows = made.search(queries, 500)  # no single cell of some dozens holds 500
    assert (rows >= 0).all() and np.allclose(similarities, -np.sort(-(queries @ vectors.T), axis=1)[:, :500], atol=1e-5)
