"""The gallery against a loop over all rows, and every way it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.gallery import Gallery, build, collect, load
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km


def table(vectors: np.ndarray, lat: np.ndarray, lon: np.ndarray, ids: list[str] | None = None) -> pa.Table:
    return pa.table(
        {
            "image_id": ids or [f"i{row:05d}" for row in range(len(lat))],
            "latitude": lat,
            "longitude": lon,
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        }
    )


def made(count: int, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return collect([table(*made(500))])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 40))
def test_search_finds_what_a_loop_finds(gallery: Gallery, seed: int, k: int) -> None:
    queries = made(7, seed=seed)[0]
    similarities, rows = gallery.search(queries, k)
    everything = queries @ gallery.vectors(np.arange(500)).T
    for query in range(7):
        expected = np.sort(everything[query])[::-1][:k]
        assert np.allclose(similarities[query], expected, atol=1e-5)
        assert np.allclose(everything[query, rows[query]], expected, atol=1e-5)


def test_an_image_is_never_its_own_neighbour(gallery: Gallery) -> None:
    own = np.array([3, 99, 250])
    ids = [*gallery.ids(own).to_pylist(), None, "elsewhere"]
    queries = np.concatenate([gallery.vectors(own), gallery.vectors(np.array([7, 8]))])
    similarities, rows = gallery.search(queries, 5, exclude_ids=ids)
    plain = gallery.search(queries, 6)[1]
    assert rows.shape == (5, 5)
    for query in range(3):
        assert rows[query].tolist() == plain[query, 1:].tolist() and own[query] == plain[query, 0]
    assert rows[3:].tolist() == plain[3:, :5].tolist()
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_asking_for_more_than_there_is() -> None:
    small = collect([table(*made(4))])
    assert small.search(made(2)[0], 10)[1].shape == (2, 4)
    assert small.search(made(2)[0], 10, exclude_ids=["i00000", None])[1].shape == (2, 3)
    assert small.near([0.0], [0.0], 10)[1].shape == (1, 4)


@settings(max_examples=30, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(1, 20))
def test_near_finds_what_haversine_finds(gallery: Gallery, latitude: float, longitude: float, k: int) -> None:
    km, rows = gallery.near([latitude], [longitude], k)
    everything = haversine_km(latitude, longitude, gallery.latitude, gallery.longitude)
    assert np.allclose(km[0], np.sort(everything)[:k], atol=1e-6)
    assert np.allclose(everything[rows[0]], km[0], atol=1e-6)


def test_near_tells_apart_what_float32_cannot() -> None:
    lat = 48.0 + np.arange(8) * 0.0005  # 55 m steps, 0.00001 of the sphere's radius
    close = collect([table(made(8)[0], lat, np.full(8, 2.0))])
    _, rows = close.near(lat, np.full(8, 2.0), 2)
    assert rows[:, 0].tolist() == list(range(8))


def test_the_same_images_make_the_same_gallery_in_any_order(tmp_path: Path) -> None:
    whole = table(*made(100))
    one = build(tmp_path / "a", [whole])
    order = np.random.default_rng(1).permutation(100)
    two = build(tmp_path / "b", [whole.take(order[:30]), whole.take(order[30:])])
    assert one.fingerprint == two.fingerprint
    assert (tmp_path / "a/index.faiss").read_bytes() == (tmp_path / "b/index.faiss").read_bytes()
    moved = whole.set_column(1, "latitude", pa.array(np.asarray(whole["latitude"]) * 0.5))
    assert collect([moved]).fingerprint != one.fingerprint


def test_saved_and_opened_again(tmp_path: Path) -> None:
    vectors, lat, lon = made(50)
    folder = tmp_path / "gallery"
    (folder / "places").mkdir(parents=True)
    rows = table(vectors, lat, lon)
    rejected = (
        rows.slice(0, 1)
        .set_column(0, "image_id", pa.array(["bad"]))
        .set_column(3, "vector", pa.nulls(1, pa.list_(pa.float32())))
    )
    pq.write_table(rows.slice(0, 20), folder / "places/a.parquet")
    pq.write_table(pa.concat_tables([rows.slice(20), rejected]), folder / "places/b.parquet")
    made_now, opened = build(folder), load(folder)
    assert len(opened) == len(made_now) == 50 and opened.dimension == 16
    assert opened.fingerprint == made_now.fingerprint and opened.record["kind"] == "flat"
    assert (opened.vectors(np.arange(50)) == vectors).all()
    assert (opened.latitude == lat).all() and (opened.longitude == lon).all()
    grid = np.array([[1, 2], [3, 4]])
    assert opened.vectors(grid).shape == (2, 2, 16) and opened.places(grid)[0].shape == (2, 2)
    assert opened.ids(grid).to_pylist() == ["i00001", "i00002", "i00003", "i00004"]


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no gallery"):
        load(tmp_path)
    with pytest.raises(UserError, match="no Parquet parts"):
        build(tmp_path)
    build(tmp_path, [table(*made(9))])
    (tmp_path / "gallery.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="build the gallery again"):
        load(tmp_path)
    build(tmp_path, [table(*made(9))])
    record = json.loads((tmp_path / "gallery.json").read_text())
    (tmp_path / "gallery.json").write_text(json.dumps({**record, "rows": 8}))
    with pytest.raises(UserError, match="9 vectors, 9 places and a record of 8"):
        load(tmp_path)
    build(tmp_path, [table(*made(9))])
    index = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").write_bytes(index[: len(index) // 2])
    with pytest.raises(UserError, match="does not open"):
        load(tmp_path)


def test_an_interrupted_build_is_no_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, [table(*made(9))])

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        build(tmp_path, [table(*made(9, seed=1))])
    monkeypatch.undo()
    with pytest.raises(UserError, match="is no gallery"):
        load(tmp_path)


def test_rows_that_cannot_be_a_gallery() -> None:
    vectors, lat, lon = made(3)
    with pytest.raises(UserError, match="no image has both"):
        collect([])
    with pytest.raises(UserError, match="no place on Earth"):
        collect([table(vectors, np.array([0.0, 91.0, 0.0]), lon)])
    with pytest.raises(UserError, match="no place on Earth"):
        collect([table(vectors, np.array([0.0, np.nan, 0.0]), lon)])
    with pytest.raises(UserError, match="normalise"):
        collect([table(vectors * 2, lat, lon)])
    with pytest.raises(UserError, match="i1 is in the gallery twice"):
        collect([table(vectors, lat, lon, ["i1", "i2", "i1"])])
    with pytest.raises(UserError, match="different lengths"):
        collect([table(vectors, lat, lon), table(made(3, size=8)[0], lat, lon)])
    with pytest.raises(UserError, match="16-d vectors"):
        collect([table(vectors, lat, lon)]).search(made(1, size=8)[0], 1)
