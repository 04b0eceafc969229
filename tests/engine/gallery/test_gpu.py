"""Search on a GPU against the CPU, where there is one; without, nothing changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geobatch.engine.gallery import Indexing, build, load
from geobatch.engine.gallery.finder import Local
from geobatch.engine.gallery.gpu import OnGpu, gpus, on_gpu
from geobatch.engine.gallery.stored import Stored
from tests.engine.gallery.smooth import formless, nearest, recall, smooth, tables


@pytest.mark.skipif(gpus() > 0, reason="FAISS sees a GPU here")
def test_without_a_gpu_the_cpu_searches(tmp_path: Path) -> None:
    local = Local(Stored([formless(10, 8)[0]]))
    assert on_gpu(local) is local
    build(tmp_path, tables(*formless(50, 8)))
    assert isinstance(load(tmp_path, gpu=True)._finder, Local)


def test_a_gpu_is_taken_only_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geobatch.engine.gallery.gpu.gpus", lambda: 1)
    for kind in ("flat", "ivf"):
        made = build(tmp_path, tables(*smooth(400)), indexing=Indexing(kind=kind, recall=0.5))
        assert isinstance(made._finder, Local) and isinstance(load(tmp_path)._finder, Local)
        assert isinstance(load(tmp_path, gpu=True)._finder, OnGpu)


@pytest.mark.gpu
@pytest.mark.skipif(gpus() == 0, reason="FAISS sees no GPU here")
@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_gpu_answers_as_the_cpu(tmp_path: Path, kind: str, precision: str) -> None:
    vectors, lat, lon = smooth(3000)
    indexing = Indexing(kind=kind, precision=precision, recall=0.9)  # type: ignore[arg-type]
    build(tmp_path, tables(vectors, lat, lon), indexing=indexing)
    gallery = load(tmp_path, gpu=True)
    assert isinstance(gallery._finder, OnGpu)
    queries = smooth(100, seed=4)[0]
    similarities, rows = gallery.search(queries, 15)
    assert recall(rows, nearest(queries, vectors, 15)) >= (0.9 if kind == "ivf" else 0.99)
    assert np.allclose(similarities, np.einsum("nd,nkd->nk", queries, gallery.vectors(rows)), atol=1e-5)
    assert gallery.search(queries[:2], 2500)[1].shape == (2, 2500)
