"""Galleries on the disk: streamed, in halves, appended to, and what a crash leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.engine.gallery import GROUP, Gallery, Indexing, append, build, collect, load
from geobatch.errors import UserError
from tests.engine.gallery.smooth import formless, nearest, recall, smooth, tables

VIEWS = {"image": 64, "text": 16, "location": 32}


def same(one: Gallery, other: Gallery) -> bool:
    """Whether both answer alike."""
    queries = one.vectors(np.arange(0, len(one), 7))
    pairs = zip(one.search(queries, 9), other.search(queries, 9), strict=True)
    return one.fingerprint == other.fingerprint and all((a == b).all() for a, b in pairs)


def test_halves_are_streamed_and_found(tmp_path: Path) -> None:
    vectors, lat, lon = formless(900, 32)
    order = np.random.default_rng(0).permutation(900)
    rows = pa.concat_tables(tables(vectors, lat, lon))
    halved = Indexing(precision="float16")
    one = build(tmp_path / "a", [rows.take(order[:500]), rows.take(order[500:])], indexing=halved)
    two = build(tmp_path / "b", tables(vectors, lat, lon, size=11), indexing=halved)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["gallery.json", "gallery.parquet", "vectors.npy"]
    assert (tmp_path / "a/vectors.npy").read_bytes() == (tmp_path / "b/vectors.npy").read_bytes()
    assert same(one, two) and np.load(tmp_path / "a/vectors.npy").dtype == np.float16
    assert (one.vectors(np.arange(900)) == vectors.astype(np.float16)).all()
    assert (one.search(vectors[:40], 5)[1] == nearest(vectors[:40], vectors.astype(np.float16).astype(np.float32), 5)).all()
    assert one.record["kind"] == "flat" and one.fingerprint != collect([rows]).fingerprint


@pytest.mark.parametrize(
    "indexing",
    [Indexing(), Indexing(precision="float16"), Indexing(kind="ivf", recall=0.9), Indexing(kind="hnsw", recall=0.9),
     Indexing(kind="pq", recall=0.9)],
    ids=["flat", "half", "ivf", "hnsw", "pq"],
)  # fmt: skip
def test_what_is_appended_is_found_and_nothing_moves(
    tmp_path: Path, indexing: Indexing, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, lat, lon = smooth(1400)
    before = build(tmp_path, tables(vectors[:800], lat[:800], lon[:800]), indexing=indexing)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".parquet", ".npy")}
    first = append(tmp_path, tables(vectors[800:1000], lat[800:1000], lon[800:1000], first=800))
    assert "building it again pays" not in capsys.readouterr().out
    after = append(tmp_path, tables(vectors[1000:], lat[1000:], lon[1000:], first=1000), {"since": "then"})
    assert not same(first, after) or len(first) != len(after)
    assert len({gallery.fingerprint for gallery in (before, first, after)}) == 3 and len(after) == 1400
    assert {name: (tmp_path / name).read_bytes() for name in old} == old  # nothing that was there is written again
    assert after.ids(np.arange(1400)).to_pylist() == [f"i{row:06d}" for row in range(1400)]
    assert np.allclose(after.vectors(np.arange(1400)), vectors, atol=5e-4) and np.allclose(after.latitude, lat)
    queries = smooth(100, seed=3)[0]
    assert recall(after.search(queries, 10)[1], nearest(queries, vectors, 10)) > 0.85
    assert recall(after.search(vectors[1000:], 1)[1], np.arange(1000, 1400)[:, None]) > 0.99
    assert after.record["source"] == {"since": "then"} and same(after, load(tmp_path))
    kept = ["index-1.faiss", "index-2.faiss"] if indexing.kind != "auto" else ["index.faiss"][: indexing.precision == "auto"]
    assert sorted(path.name for path in tmp_path.glob("index*.faiss")) == kept  # the last but one for its readers
    assert "grown from 800 to 1,400" not in capsys.readouterr().out
    append(tmp_path, tables(*smooth(200, seed=4), first=1400))
    assert "from 800 to 1,600 images" in capsys.readouterr().out


def test_appending_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no gallery"):
        append(tmp_path, tables(*formless(5, 8)))
    made = build(tmp_path, tables(*formless(50, 8)))
    with pytest.raises(UserError, match="i000049 is in the gallery already"):
        append(tmp_path, tables(*formless(5, 8), first=49))
    with pytest.raises(UserError, match="different lengths"):
        append(tmp_path, tables(*formless(5, 16), first=50))
    assert same(load(tmp_path), made)
    none = append(tmp_path, [next(tables(*formless(5, 8), first=90)).slice(0, 0)], {"seen": 1})
    assert same(none, made) and none.record["source"] == {"seen": 1}


@pytest.mark.parametrize(
    "indexing", [Indexing(), Indexing(precision="float16"), Indexing(kind="ivf", recall=0.9)], ids=["flat", "half", "ivf"]
)
def test_who_has_a_gallery_open_is_answered_as_before_after_a_rebuild(tmp_path: Path, indexing: Indexing) -> None:
    vectors, lat, lon = smooth(900)
    build(tmp_path, tables(vectors, lat, lon), indexing=indexing)
    opened = load(tmp_path)
    before = opened.search(vectors[:20], 5)
    fresh = build(tmp_path, tables(*smooth(500, seed=5)), indexing=indexing)  # shorter: a page of an overwritten file is gone
    after = opened.search(vectors[:20], 5)
    assert (after[1] == before[1]).all() and (after[0] == before[0]).all()
    assert np.allclose(opened.vectors(np.arange(900)), vectors, atol=5e-4) and len(fresh) == 500
    if indexing.kind == "auto" and indexing.precision == "auto":
        fresh = load(tmp_path)
        held = fresh.vectors(np.arange(500))
        collect(tables(vectors[:100], lat[:100], lon[:100])).save(tmp_path)
        assert (fresh.vectors(np.arange(500)) == held).all() and len(load(tmp_path)) == 100


def test_an_index_that_was_rebuilt_before_it_was_opened_is_refused(tmp_path: Path) -> None:
    vectors, lat, lon = smooth(600)
    indexing = Indexing(kind="ivf", recall=0.9)
    build(tmp_path, tables(vectors[:500], lat[:500], lon[:500]), indexing=indexing)
    appended, rebuilt = load(tmp_path), load(tmp_path)
    append(tmp_path, tables(vectors[500:], lat[500:], lon[500:], first=500))
    assert appended.search(vectors[:3], 1)[1].ravel().tolist() == [0, 1, 2]  # its index is still there
    build(tmp_path, tables(*smooth(500, seed=5)), indexing=indexing)  # as many rows: nothing else would tell
    with pytest.raises(UserError, match="changed while the run was going on"):
        rebuilt.search(vectors[:3], 1)


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    for step in (build, append):
        (tmp_path / ".build-killed").mkdir()
        (tmp_path / ".build-killed/spool").write_bytes(b"x")
        step(tmp_path, tables(*formless(20, 8), first=0 if step is build else 20))
        assert not list(tmp_path.glob(".build-*"))


def test_vectors_are_let_go_as_they_are_spooled(tmp_path: Path) -> None:
    size, each, most = 256, 500, 0
    before = pa.total_allocated_bytes()

    def parts() -> Iterator[pa.Table]:
        nonlocal most
        for at in range(0, 10_000, each):
            yield from tables(*formless(each, size, at), first=at)
            most = max(most, pa.total_allocated_bytes() - before)

    build(tmp_path, parts())
    assert most < 5 * each * size * 4, f"{most / 2**20:.1f} MiB of 10"


@pytest.mark.parametrize("step", ["places", "index", "record"])
def test_a_crash_while_appending_leaves_the_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    vectors, lat, lon = smooth(900)
    made = build(tmp_path, tables(vectors[:700], lat[:700], lon[:700]), indexing=Indexing(kind="ivf", recall=0.9))

    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    target: Any = {"places": pq, "index": faiss, "record": Path}[step]
    monkeypatch.setattr(target, {"places": "write_table", "index": "write_index", "record": "replace"}[step], full)
    new = list(tables(vectors[700:], lat[700:], lon[700:], first=700))
    with pytest.raises(OSError, match="disk full"):
        append(tmp_path, new)
    monkeypatch.undo()
    assert same(load(tmp_path), made)
    assert len(append(tmp_path, new)) == 900
    left = {path.name for path in tmp_path.iterdir()} - {"gallery.json"}
    assert left == {"gallery.parquet", "vectors.npy", "gallery-1.parquet", "vectors-1.npy", "index-0.faiss", "index-1.faiss"}


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_some_views_are_searched_and_all_are_kept(tmp_path: Path, kind: str) -> None:
    parts = [formless(600, size, seed)[0] for seed, size in enumerate(VIEWS.values())]
    whole = np.concatenate(parts, axis=1) / np.sqrt(3, dtype=np.float32)
    lat, lon = formless(600)[1:]
    indexing = Indexing(kind=kind, recall=0.0, searched=("image", "location"))  # type: ignore[arg-type]
    gallery = build(tmp_path, tables(whole, lat, lon), views=VIEWS, indexing=indexing)
    assert gallery.record["views"] == VIEWS and gallery.record["searched"] == ["image", "location"]
    assert gallery.dimension == 112 and np.allclose(gallery.vectors(np.array([3])), whole[3])
    cosines = (parts[0] @ parts[0].T + parts[2] @ parts[2].T) / 2
    similarities, rows = gallery.search(whole, 4)
    assert np.allclose(similarities, np.take_along_axis(cosines, rows, 1), atol=1e-5)
    assert (rows[:, 0] == np.arange(600)).mean() == 1
    if kind == "ivf":
        with pytest.raises(UserError, match="searches image, location"):
            load(tmp_path, ["image"])
        return
    assert np.allclose(similarities, np.sort(cosines, axis=1)[:, ::-1][:, :4], atol=1e-5)
    only = load(tmp_path, ["text"])
    assert np.allclose(only.search(whole, 1)[0], 1, atol=1e-5) and only.record["searched"] == ["text"]
    with pytest.raises(UserError, match="to search in a gallery of image, text, location"):
        load(tmp_path, ["sound"])


def test_views_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make no vectors of 16 floats"):
        build(tmp_path, tables(*formless(9, 16)), views={"image": 8})


def test_a_gallery_of_an_earlier_day_opens(tmp_path: Path) -> None:
    made = build(tmp_path, tables(*formless(60, 16)))
    record = json.loads((tmp_path / "gallery.json").read_text())
    kept = {name: record[name] for name in ("kind", "rows", "dimension", "fingerprint")}
    (tmp_path / "gallery.json").write_text(json.dumps(kept))
    assert same(load(tmp_path), made) and load(tmp_path).views == {"image": 16}
    grown = append(tmp_path, tables(*formless(10, 16, 1), first=60))
    assert len(grown) == 70 and grown.search(formless(10, 16, 1)[0], 1)[1].ravel().tolist() == list(range(60, 70))


def test_groups_are_kept(tmp_path: Path) -> None:
    rows = pa.concat_tables(tables(*formless(40, 8)))
    gallery = build(tmp_path, [rows.append_column(GROUP, pa.array(["a", "b"] * 20))])
    grown = append(tmp_path, [pa.concat_tables(tables(*formless(4, 8, 1), first=40))])  # of no group
    for opened in (gallery, grown):
        found = opened.search(opened.vectors(np.arange(2)), 10, exclude_groups=["a", "b"])[1]
        assert all((row >= 40) | (row % 2 == 1 - query) for query in range(2) for row in found[query])


@pytest.mark.parametrize("damaged", ["gallery.parquet", "vectors.npy", "index-0.faiss", "gallery.json"])
def test_damage_is_said(tmp_path: Path, damaged: str) -> None:
    build(tmp_path, tables(*smooth(400)), indexing=Indexing(kind="pq", recall=0.5))
    content = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="again"):
        load(tmp_path)


def test_the_encoder_that_made_a_gallery_is_kept(tmp_path: Path) -> None:
    build(tmp_path, tables(*smooth(30)), encoder="sha")
    grown = append(tmp_path, tables(*smooth(20, seed=1), first=30))
    assert grown.record["encoder"] == load(tmp_path).record["encoder"] == "sha"
    assert "encoder" not in build(tmp_path, tables(*smooth(30))).record
