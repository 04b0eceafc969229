"""Search within an area, against a loop, for every kind of index, whole and in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.gallery import GROUP, Gallery, Indexing, append, build, collect, ground, load
from geobatch.engine.gallery.among import Areas
from geobatch.engine.gallery.finder import Local
from geobatch.engine.gallery.ground import Ground
from geobatch.engine.gallery.sharded import Part, open_sharded, parts
from geobatch.geo.distance import haversine_km
from geobatch.service import Service
from tests.engine.gallery.smooth import recall, smooth, tables

ROWS, QUERIES, SIZE = 2_400, 40, 32
KINDS = ("flat", "ivf", "pq", "hnsw")
Sets = list[np.ndarray | None]


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gallery]:
    """Of each kind, and in three parts where it can be cut; each with an appended segment."""
    vectors, lat, lon = smooth(ROWS, SIZE)
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        indexing = Indexing(kind=kind, recall=0.99, searched=())  # type: ignore[arg-type]
        build(folder, tables(vectors[:2000], lat[:2000], lon[:2000]), indexing=indexing)
        made[kind] = append(folder, tables(vectors[2000:], lat[2000:], lon[2000:], first=2000))
        if kind != "hnsw":
            made[f"{kind}, cut"] = open_sharded(folder, Service("gallery", Part, parts(str(folder), 3, threads=1)).ask)
    return made


def by_a_loop(queries: np.ndarray, vectors: np.ndarray, among: Sets, k: int) -> tuple[np.ndarray, np.ndarray]:
    best, found = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    for query, rows in enumerate(among):
        kept = np.arange(len(vectors)) if rows is None else np.unique(rows)
        scores = vectors[kept] @ queries[query]
        order = np.argsort(-scores, kind="stable")[:k]
        best[query, : len(order)], found[query, : len(order)] = scores[order], kept[order]
    return best, found


def areas(rng: np.random.Generator, most: int) -> Sets:
    """Sets of any size up to `most`, unordered and with repetitions; some shared, some empty, some for all. Of 240 rows on an
    index would be asked first.
    """
    shared = rng.choice(ROWS, rng.integers(1, most + 1), replace=False)
    made: Sets = [rng.integers(0, ROWS, rng.integers(0, most + 1)) for _ in range(QUERIES)]
    for query in range(QUERIES):
        if query % 3 == 0:
            made[query] = shared
        elif query % 7 == 0:
            made[query] = None
    return made


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), most=st.sampled_from([1, 20, 120, 230]))
@pytest.mark.parametrize("kind", ["flat", "flat, cut", "ivf", "ivf, cut", "pq", "pq, cut", "hnsw"])
def test_few_rows_are_searched_exactly(galleries: dict[str, Gallery], kind: str, seed: int, k: int, most: int) -> None:
    gallery, rng = galleries[kind], np.random.default_rng(seed)
    among = areas(rng, most)
    queries = smooth(QUERIES, SIZE, seed=seed + 1)[0]
    similarities, rows = gallery.search(queries, k, among=among)
    expected = by_a_loop(queries, galleries["flat"].vectors(np.arange(ROWS)), among, k)
    assert rows.shape == similarities.shape == (QUERIES, k)
    for query, allowed in enumerate(among):
        if allowed is None and "flat" not in kind:
            continue
        assert np.allclose(similarities[query], expected[0][query], atol=1e-5)
        differs = rows[query] != expected[1][query]  # equal similarities may change places
        assert np.allclose(similarities[query][differs], expected[0][query][differs], atol=1e-5)
        assert set(rows[query].tolist()) <= ({-1} | set(range(ROWS) if allowed is None else allowed.tolist()))


@pytest.mark.parametrize("share", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["flat", "flat, cut", "ivf", "ivf, cut", "pq", "pq, cut", "hnsw"])
def test_large_areas_through_an_index_find_what_a_product_finds(galleries: dict[str, Gallery], kind: str, share: float) -> None:
    """Sets at random, whose rows are among anyone's nearest, and the east, whose rows are far from who asks from the west."""
    gallery, rng = galleries[kind], np.random.default_rng(5)
    queries = smooth(60, SIZE, seed=3)[0]
    mixed = np.sort(rng.choice(ROWS, int(share * ROWS), replace=False))
    east = np.argsort(-gallery.longitude)[: int(share * ROWS)]
    among: Sets = [mixed if query % 2 else east for query in range(len(queries))]
    similarities, rows = gallery.search(queries, 10, among=among)
    truth = by_a_loop(queries, galleries["flat"].vectors(np.arange(ROWS)), among, 10)
    assert all(np.isin(found, allowed).all() for found, allowed in zip(rows, among, strict=True) if allowed is not None)
    for some in (slice(0, None, 2), slice(1, None, 2)):
        assert recall(rows[some], truth[1][some]) >= (1.0 if "flat" in kind else 0.98)
    hit = rows == truth[1]
    assert np.allclose(similarities[hit], truth[0][hit], atol=1e-5) and (np.diff(similarities, axis=1) <= 1e-6).all()


def test_the_index_answers_who_asks_from_within(galleries: dict[str, Gallery], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who finds too few of the area's rows is multiplied with them all."""
    gallery, multiplied = galleries["ivf"], []
    exact = Local.among

    def counted(self: Local, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        multiplied.append(len(queries))
        return exact(self, queries, rows, k)

    monkeypatch.setattr(Local, "among", counted)
    queries, _, lon = smooth(200, SIZE, seed=8)
    east = gallery.inside(-90, 0, 90, 180)
    gallery.search(queries, 5, among=[east] * 200)
    assert sum(multiplied) < 140
    multiplied.clear()
    gallery.search(queries[lon > 60], 5, among=[east] * int((lon > 60).sum()))
    assert sum(multiplied) <= 0.2 * (lon > 60).sum()
    gallery.search(queries, 5, among=[east[:200]] * 200)  # less than a tenth: the index is not asked
    assert multiplied[-1] == 200


def test_an_index_that_finds_too_few_is_helped(galleries: dict[str, Gallery]) -> None:
    queries = smooth(9, SIZE, seed=4)[0]
    half = np.arange(0, ROWS, 2)
    for kind in ("ivf", "pq", "hnsw"):
        rows = galleries[kind].search(queries, len(half), among=[half] * 9)[1]
        assert (np.sort(rows, axis=1) == half).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "flat, cut"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), above=st.booleans(), own=st.booleans())
def test_areas_and_exclusions_together(
    galleries: dict[str, Gallery], kind: str, seed: int, k: int, above: bool, own: bool
) -> None:
    gallery, rng = galleries[kind], np.random.default_rng(seed)
    at = rng.integers(0, ROWS, QUERIES)
    among: Sets = [rng.choice(ROWS, rng.integers(0, 90), replace=False) for _ in range(QUERIES)]
    among = [None if rows is None else np.append(rows, at[query]) for query, rows in enumerate(among)]
    vectors = galleries["flat"].vectors(np.arange(ROWS))
    ids = gallery.ids(at).to_pylist() if own else None
    similarities, rows = gallery.search(vectors[at], k, exclude_ids=ids, exclude_above=0.97 if above else None, among=among)
    for query, allowed in enumerate(among):
        assert allowed is not None
        scores = vectors @ vectors[at[query]]
        if above and (np.abs(scores - 0.97) < 1e-4).any():
            continue
        kept = [row for row in np.unique(allowed) if not (own and row == at[query]) and not (above and scores[row] >= 0.97)]
        best = np.sort(scores[kept])[::-1][:k]
        found = rows[query][rows[query] >= 0]
        assert len(found) == len(best) and set(found.tolist()) <= {int(row) for row in kept}
        assert np.allclose(similarities[query, : len(best)], best, atol=1e-5)
        assert np.isneginf(similarities[query, len(best) :]).all() and (rows[query, len(best) :] == -1).all()


def test_sets_that_fit_no_gallery(galleries: dict[str, Gallery]) -> None:
    queries = smooth(2, SIZE, seed=4)[0]
    for wrong in ([np.array([0, ROWS])], [np.array([-1, 3])]):
        with pytest.raises(ValueError, match="of a gallery of 2400"):
            galleries["flat"].search(queries, 3, among=[wrong[0], None])
    with pytest.raises(ValueError, match="1 sets of rows to search among for 2 vectors"):
        galleries["flat"].search(queries, 3, among=[None])
    empty = galleries["flat"].search(np.zeros((0, SIZE), np.float32), 3, among=[])
    assert empty[0].shape == (0, 3)


def test_a_shared_array_is_one_set() -> None:
    one = np.arange(5)
    assert len(Areas([one, one.copy(), None, one, None], 10).sets) == 3


def test_the_hundred_nearest_tiles_of_each_hint() -> None:
    """CVG-Text's protocol, by the hints of `near`."""
    gallery = collect(tables(*smooth(5_000, 64)))
    queries, lat, lon = smooth(1_000, 64, seed=2)
    near = gallery.near(lat, lon, k=100)[1]
    similarities, rows = gallery.search(queries, 10, among=list(near))
    scores = np.einsum("nrd,nd->nr", gallery.vectors(near[:50]), queries[:50])
    assert np.allclose(similarities[:50], -np.sort(-scores, axis=1)[:, :10], atol=1e-5)
    assert (rows >= 0).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    south=st.floats(-90, 90),
    height=st.floats(0, 180),
    west=st.floats(-180, 180),
    east=st.floats(-180, 180),
    km=st.sampled_from([0.0, 30.0, 700.0, 9_000.0, 20_016.0]),
)
def test_boxes_and_circles_by_their_definition(
    seed: int, south: float, height: float, west: float, east: float, km: float
) -> None:
    vectors, lat, lon = smooth(300, 8, seed)
    lat[:40], lon[:20], lon[20:40], lat[40:44] = np.round(lat[:40]), 180.0, -180.0, [90, -90, 0, 0]
    lat[44:60] = lon[44:60] = np.nan
    gallery = collect(tables(vectors, lat, lon))
    assert not gallery.placed
    north = min(90.0, south + height)
    eastward = (east - west) % 360 if (west, east) != (-180.0, 180.0) else 360
    box = [row for row in range(300) if south <= lat[row] <= north and (lon[row] - west) % 360 <= eastward]
    assert gallery.inside(south, west, north, east).tolist() == box
    at, around = np.array([0, 41, 50, 100]), np.array([km, km, km, km / 2])
    circles = gallery.within(lat[at], lon[at], around)
    for hint, radius, rows in zip(at, around, circles, strict=True):
        away = haversine_km(lat[hint], lon[hint], lat, lon)
        assert rows.tolist() == [row for row in range(300) if away[row] <= radius]


def test_near_passes_over_rows_without_a_place() -> None:
    vectors, lat, lon = smooth(30, 8)
    lat[::2] = lon[::2] = np.nan
    gallery = collect(tables(vectors, lat, lon))
    km, rows = gallery.near(lat[1], lon[1], k=30)
    assert rows.shape == (1, 15) and (rows % 2 == 1).all() and rows[0, 0] == 1 and km[0, 0] == 0
    alone = collect(tables(vectors[:2], np.full(2, np.nan), np.full(2, np.nan)))
    assert alone.near(0, 0)[1].shape == (1, 0) and alone.within(0, 0, 99)[0].tolist() == []
    assert alone.inside(-90, -180, 90, 180).tolist() == []


@pytest.mark.parametrize("box", [(10, 0, 5, 1), (-91, 0, 5, 1), (0, 0, np.nan, 1), (0, 500, 1, 501), (0, np.nan, 1, 2)])
def test_what_is_no_box(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="no box of south, west, north, east"):
        collect(tables(*smooth(3, 8))).inside(*box)


class TestFootprints:
    """Kept by every way a gallery is made."""

    def given(self, first: int, count: int, sizes: list[float | None] | None) -> list[pa.Table]:
        rows = pa.concat_tables(tables(*smooth(count, 8, seed=first), first=first))
        return [rows if sizes is None else rows.append_column("footprint_km", pa.array(sizes, pa.float32()))]

    def test_build_append_load_parts_and_save(self, tmp_path: Path) -> None:
        build(tmp_path, self.given(0, 3, [0.5, None, 2.0]))
        grown = append(tmp_path, self.given(3, 2, None))
        grown = append(tmp_path, self.given(5, 1, [7.0]))
        every = np.arange(6)
        for gallery in (grown, load(tmp_path), open_sharded(tmp_path, Service("g", Part, parts(str(tmp_path), 2, 1)).ask)):
            assert np.array_equal(gallery.footprints(every), np.array([0.5, np.nan, 2, np.nan, np.nan, 7], np.float32), True)
            shaped = gallery.footprints(np.array([[2, -1], [5, 0]]))
            assert shaped is not None and np.array_equal(shaped, np.array([[2, np.nan], [7, 0.5]], np.float32), True)
        grown.save(tmp_path / "copy")
        assert np.array_equal(load(tmp_path / "copy").footprints(every), grown.footprints(every), True)

    def test_they_sign_and_their_absence_changes_nothing(self, tmp_path: Path) -> None:
        plain = collect(self.given(0, 3, None))
        assert plain.footprints(np.arange(3)) is None
        assert collect(self.given(0, 3, [None] * 3)).fingerprint == plain.fingerprint
        one, other = (collect(self.given(0, 3, [1.0, None, size])).fingerprint for size in (2.0, 3.0))
        assert len({one, other, plain.fingerprint}) == 3
        assert build(tmp_path, self.given(0, 3, [1.0, None, 2.0])).fingerprint == one

    def test_with_groups(self) -> None:
        rows = self.given(0, 3, [1.0, None, 2.0])[0].append_column(GROUP, pa.array(["a", None, "b"]))
        gallery = collect([rows])
        assert gallery.groups_of(["i000000", "i000001"]) == ["a", None]
        assert np.array_equal(gallery.footprints(np.arange(3)), np.array([1, np.nan, 2], np.float32), True)


def test_large_circles_are_found_as_small_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lat, lon = smooth(2_000, 8)[1:]
    lat[::9] = np.nan
    at, km = np.arange(200), np.geomspace(1, 20_100, 200)
    small = Ground(lat, lon).within(lat[at], lon[at], km)
    monkeypatch.setattr(ground, "_MANY", 40)
    large = Ground(lat, lon).within(lat[at], lon[at], km)
    assert sum(len(each) > 40 for each in large) > 20
    assert all(one.tolist() == other.tolist() for one, other in zip(small, large, strict=True))
