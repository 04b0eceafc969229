"""The files that training maps: what they hold, how little of it is in memory, and that they are taken up again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.gallery import GROUP, Gallery, collect
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.methods.geotoken import arrays
from geobatch.methods.geotoken.arrays import Growing, Search, read, write_images, write_neighbours
from geobatch.methods.geotoken.neighbours import find


def tables(count: int, size: int = 8, each: int = 7, seed: int = 0, name: str = "a") -> list[pa.Table]:
    """Labelled unit vectors in parts; every fifth row was rejected and has none; names are not in order."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = pa.table(
        {
            "image_id": [f"{name}{(row * 37) % count:04d}" for row in range(count)],
            "latitude": np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
            "longitude": rng.uniform(-180, 180, count),
            "vector": pa.array([None if row % 5 == 4 else vectors[row] for row in range(count)], pa.list_(pa.float32())),
        }
    )
    return [whole.slice(at, each) for at in range(0, count, each)]


def test_images_are_written_as_they_were_read_and_ordered_by_name(tmp_path: Path) -> None:
    parts = tables(43)
    known = write_images(iter(parts), tmp_path)
    living = pa.concat_tables(parts).filter(pa.compute.is_valid(pa.concat_tables(parts)["vector"]))
    assert known.ids.to_pylist() == living["image_id"].to_pylist() and len(known) == 35
    vectors, order = np.load(tmp_path / "vectors.npy"), np.load(tmp_path / "order.npy")
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(vectors, np.stack(living["vector"].to_pylist()), atol=5e-4)
    assert np.array_equal(np.load(tmp_path / "places.npy")[:, 0], living["latitude"].to_numpy())
    assert [known.ids[row].as_py() for row in order] == sorted(known.ids.to_pylist())


def test_the_fingerprint_is_of_images_not_of_their_order(tmp_path: Path) -> None:
    parts = tables(43)
    one, other = write_images(parts, tmp_path / "a"), write_images(parts[::-1], tmp_path / "b")
    assert one.fingerprint == other.fingerprint and one.reading != other.reading
    assert write_images(tables(43, seed=1), tmp_path / "c").fingerprint != one.fingerprint


def test_images_never_are_whole_in_memory(tmp_path: Path) -> None:
    count, size = 20_000, 256

    def parts() -> Iterator[pa.Table]:
        for at in range(0, count, 500):
            vectors = np.random.default_rng(at).normal(size=(500, size)).astype(np.float32)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size).cast(pa.list_(pa.float32()))
            ids = [f"{at + row:06d}" for row in range(500)]
            yield pa.table({"image_id": ids, "latitude": np.zeros(500), "longitude": np.zeros(500), "vector": flat})

    tracemalloc.start()
    write_images(parts(), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.load(tmp_path / "vectors.npy", mmap_mode="r").nbytes == count * size * 2
    print(f"{count * size * 4 / 2**20:.0f} MiB of vectors went through {peak / 2**20:.1f} MiB of memory")
    assert peak < count * size * 4 / 3


@pytest.mark.parametrize("surface", [None, Surface(neighbours=6)])
def test_neighbours_are_those_that_retrieval_finds(
    tmp_path: Path, surface: Surface | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 8 * 4 * (1 if surface is None else 4) * 64)  # several blocks
    gallery = collect(tables(150))
    known = write_images(tables(200), tmp_path)  # the gallery's images are among them
    write_neighbours(gallery, known, Search(count=4, surface=surface), tmp_path)
    examples = read(tmp_path)
    queries = np.load(tmp_path / "vectors.npy").astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = find(gallery, queries, 4, surface, exclude_ids=known.ids.to_pylist())
    first = int(surface is not None)
    assert np.array_equal(examples.neighbours[:, first:], found.rows[:, first:])
    near = np.asarray(examples.neighbours)
    np.testing.assert_allclose(examples.gallery.vectors[near], found.vectors, atol=1e-3)
    np.testing.assert_allclose(examples.gallery.latitude[near], found.latitude)
    assert len(examples.gallery.latitude) == len(gallery) + first * len(known)
    names = gallery.ids(np.arange(len(gallery))).to_pylist()
    mine = known.ids.to_pylist()
    assert set(names) & set(mine)
    assert not any(names[row] == mine[at] for at in range(len(mine)) for row in near[at, first:])


@pytest.mark.parametrize("surface", [None, Surface(neighbours=6)])
def test_images_of_one_group_are_no_neighbours(tmp_path: Path, surface: Surface | None) -> None:
    shown = pa.concat_tables(tables(150))
    group = [None if row % 10 == 9 else "many" if row % 2 else f"photographer {row // 10}" for row in range(150)]
    groups = dict(zip(shown["image_id"].to_pylist(), group, strict=True))
    plain, gallery = collect([shown]), collect([shown.append_column(GROUP, pa.array(group))])
    assert gallery.fingerprint != plain.fingerprint
    known = write_images([shown, *tables(20, name="elsewhere")], tmp_path)
    count, first = 100, int(surface is not None)  # more than are left of some
    write_neighbours(plain, known, Search(count=count, surface=surface), tmp_path)
    before = np.load(tmp_path / "neighbours.npy")[:, first:]
    write_neighbours(gallery, known, Search(count=count, surface=surface), tmp_path)
    near = np.load(tmp_path / "neighbours.npy")[:, first:]
    names, mine = gallery.ids(np.arange(len(gallery))).to_pylist(), known.ids.to_pylist()
    for row, name in enumerate(mine):
        own = groups.get(name)
        left = [at for at in before[row] if at >= 0 and (own is None or groups[names[at]] != own)]
        found = near[row][near[row] >= 0].tolist()
        assert found[: len(left)] == left and (near[row][len(found) :] == -1).all()
        assert own is None or own not in {groups[names[at]] for at in found}
    assert (near[[groups.get(name) == "many" for name in mine]][:, -10:] == -1).all() and len(mine) > len(gallery)
    examples = read(tmp_path)
    assert np.isfinite(examples.gallery.latitude).all() and np.isfinite(np.asarray(examples.gallery.vectors)).all()


def test_groups_that_leave_nothing(tmp_path: Path) -> None:
    shown = pa.concat_tables(tables(20))
    gallery, known = collect([shown.append_column(GROUP, pa.array(["one"] * 20))]), write_images([shown], tmp_path)
    write_neighbours(gallery, known, Search(count=3), tmp_path)
    assert (np.load(tmp_path / "neighbours.npy") == -1).all()
    with pytest.raises(UserError, match="correct the groups"):
        write_neighbours(gallery, known, Search(count=3, surface=Surface()), tmp_path)


def test_a_table_of_neighbours_is_taken_up_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 8 * 4 * 64)
    gallery, known = collect(tables(60)), write_images(tables(240, name="b"), tmp_path)
    assert len(known) == 3 * 64
    asked: list[int] = []
    search = Gallery.search

    def counted(self: Gallery, vectors: np.ndarray, *more: object, **named: object) -> object:
        asked.append(len(vectors))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return search(self, vectors, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Gallery, "search", counted)
    with pytest.raises(KeyboardInterrupt):
        write_neighbours(gallery, known, Search(count=3), tmp_path)
    write_neighbours(gallery, known, Search(count=3), tmp_path)
    assert asked == [64, 64, 64, 64]  # two done, the third died and was asked again
    resumed = np.load(tmp_path / "neighbours.npy")
    before = len(asked)
    write_neighbours(gallery, known, Search(count=3), tmp_path)
    assert len(asked) == before  # nothing left to ask
    # Another question is another table.
    write_neighbours(gallery, known, Search(count=2), tmp_path)
    assert len(asked) > before and np.array_equal(np.load(tmp_path / "neighbours.npy"), resumed[:, :2])


def test_a_small_gallery_leaves_places_empty_and_near_duplicates_can_be_left_out(tmp_path: Path) -> None:
    gallery, known = collect(tables(3)), write_images(tables(20), tmp_path)
    write_neighbours(gallery, known, Search(count=5), tmp_path)
    near = np.load(tmp_path / "neighbours.npy")
    assert near.shape == (16, 5) and (near[:, 3:] == -1).all()
    write_neighbours(gallery, known, Search(count=5, above=0.3), tmp_path)
    strict = np.load(tmp_path / "neighbours.npy")
    vectors = np.load(tmp_path / "vectors.npy").astype(np.float32)
    shown = {(row, int(at)) for row in range(16) for at in strict[row] if at >= 0}
    names, cosines = gallery.ids(np.arange(3)).to_pylist(), vectors @ gallery.vectors(np.arange(3)).T
    others = [(row, at) for row in range(16) for at in range(3) if names[at] != known.ids[row].as_py()]
    assert shown == {(row, at) for row, at in others if cosines[row, at] < 0.3}
    assert 0 < len(shown) < len(others)
    with pytest.raises(UserError, match="drop one of the two"):
        Search(count=5, above=0.3, surface=Surface())


def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path) -> None:
    none = [part.set_column(3, "vector", pa.nulls(len(part), pa.list_(pa.float32()))) for part in tables(10)]
    with pytest.raises(UserError, match="both a vector and a place"):
        write_images(none, tmp_path)
    with pytest.raises(UserError, match="different lengths"):
        write_images([*tables(10), *tables(10, size=6, name="b")], tmp_path)
    with pytest.raises(UserError, match="names two"):
        write_images([*tables(10), *tables(10, seed=3)], tmp_path)
    away = tables(10)
    away[0] = away[0].set_column(1, "latitude", pa.array([91.0] * len(away[0])))
    with pytest.raises(UserError, match="none on Earth"):
        write_images(away, tmp_path)


def test_a_growing_file_is_numpys(tmp_path: Path) -> None:
    file = Growing(tmp_path / "x.npy", np.float16, 3)
    rows = np.arange(3 * 2049).reshape(-1, 3)
    for at in range(0, len(rows), 100):
        file.append(rows[at : at + 100])
    file.close()
    assert np.array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), rows.astype(np.float16))
