"""A gallery in parts, in this process: the same answers. With actors that die: tests/river/test_shards.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geobatch.engine.gallery import Indexing, append, build, load
from geobatch.engine.gallery.sharded import Part, open_sharded, parts
from geobatch.errors import UserError
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.service import Service
from tests.engine.gallery.smooth import nearest, recall, smooth, tables


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_parts_answer_as_the_whole(tmp_path: Path, kind: str, shards: int) -> None:
    vectors, lat, lon = smooth(1500)
    build(tmp_path, tables(vectors[:1000], lat[:1000], lon[:1000]), indexing=Indexing(kind=kind, recall=0.95))  # type: ignore[arg-type]
    whole = append(tmp_path, tables(vectors[1000:], lat[1000:], lon[1000:], first=1000))
    service = Service("gallery", Part, parts(str(tmp_path), shards, threads=1))
    split = open_sharded(tmp_path, service.ask)
    queries = smooth(80, seed=2)[0]
    similarities, rows = split.search(queries, 15)
    expected = whole.search(queries, 15)
    truth = nearest(queries, vectors, 15)
    if kind == "flat":
        assert (rows == expected[1]).all() and np.allclose(similarities, expected[0], atol=1e-6)
    else:
        assert recall(rows, truth) >= recall(expected[1], truth) > 0.9
    assert (split.vectors(rows) == whole.vectors(rows)).all()
    assert split.fingerprint == whole.fingerprint and len(split) == 1500
    own = split.ids(np.arange(5)).to_pylist()
    assert not (split.search(vectors[:5], 9, exclude_ids=own)[1] == np.arange(5)[:, None]).any()
    assert split.search(queries[:3], 1500)[1].shape == (3, 1500)  # more than any part has


def test_each_part_holds_its_rows_alone(tmp_path: Path) -> None:
    vectors, lat, lon = smooth(1000)
    for kind in ("ivf", "pq"):
        build(tmp_path, tables(vectors, lat, lon), indexing=Indexing(kind=kind, recall=0.9))  # type: ignore[arg-type]
        made = [Part(str(tmp_path), number, 2) for number in range(2)]
        assert [part.index.faiss.ntotal for part in made if part.index] == [500, 500]
        found = [part.search(vectors[::10], 5, exact=False)[1] for part in made]
        assert (found[0] < 500).all() and ((found[1] >= 500) | (found[1] < 0)).all()


@pytest.mark.parametrize("change", ["append", "build"])
def test_a_gallery_that_changed_is_not_mixed(tmp_path: Path, change: str) -> None:
    began = build(tmp_path, tables(*smooth(40))).fingerprint
    arguments = parts(str(tmp_path), 2, 1, began)
    services = Retrieve.services(str(tmp_path), shards=2, fingerprint=began)
    assert [each["fingerprint"] for each in services[0].make] == [began] * 2
    assert len(Part(**arguments[0]).stored) == 40 and load(tmp_path, fingerprint=began).fingerprint == began
    (append if change == "append" else build)(tmp_path, tables(*smooth(40, seed=1), first=40))
    asked: list[Callable[[], object]] = [
        lambda: Part(**arguments[1]),
        lambda: open_sharded(tmp_path, services[0].ask, began),
        lambda: load(tmp_path, fingerprint=began),
        lambda: Retrieve(str(tmp_path), 3, fingerprint=began),
        lambda: Retrieve(str(tmp_path), 3, shards=2, fingerprint=began),
    ]
    for each in asked:
        with pytest.raises(UserError, match=r"changed while the run was going on; .* start the run again"):
            each()
    assert Retrieve(str(tmp_path), 3).gallery.fingerprint != began  # who asks for none gets what there is


def test_what_is_never_cut(tmp_path: Path) -> None:
    build(tmp_path, tables(*smooth(400)), indexing=Indexing(kind="hnsw", recall=0.5))
    with pytest.raises(UserError, match="one piece"):
        Part(str(tmp_path), 0, 2)
    build(tmp_path, tables(*smooth(3)))
    with pytest.raises(UserError, match="ask for fewer"):
        Part(str(tmp_path), 0, 4)
