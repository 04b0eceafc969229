"""Areas against a loop over every tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine import gallery as galleries
from geobatch.engine.gallery import Gallery
from geobatch.engine.geocode import Geocoder
from geobatch.errors import Rejection, UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.ngcg.area import Area, Bounds, bounds, known_countries
from geobatch.store import Store
from tests.methods.ngcg import tiles


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return tiles.build(tmp_path_factory.mktemp("gallery"), rows=300)[0]


def boxed(gallery: Gallery, box: str) -> set[int]:
    """One tile after another."""
    south, west, north, east = bounds(box)
    found = set()
    for row, (latitude, longitude) in enumerate(zip(gallery.latitude, gallery.longitude, strict=True)):
        across = west <= longitude <= east if west < east else longitude >= west or longitude <= east
        if south <= latitude <= north and across:
            found.add(row)
    return found


@given(south=st.floats(-90, 89), height=st.floats(0.5, 180), west=st.floats(-180, 180), east=st.floats(-180, 180))
def test_a_box_holds_what_a_loop_says_across_the_antimeridian_too(
    gallery: Gallery, south: float, height: float, west: float, east: float
) -> None:
    if west == east:
        return
    box = f"{south},{west},{min(90.0, south + height)},{east}"
    expected = boxed(gallery, box)
    if not expected:
        with pytest.raises(UserError, match="no tile of the gallery lies in the box"):
            Bounds(Area(box=box), gallery, Store(None))
        return
    (found,) = Bounds(Area(box=box), gallery, Store(None)).of(["a"])
    assert isinstance(found, np.ndarray) and set(found.tolist()) == expected


def written(folder: Path, lines: list[str], title: str = "image_id,latitude,longitude") -> str:
    path = folder / "points.csv"
    path.write_text("\n".join([title, *lines]) + "\n")
    return str(path)


def test_about_each_rows_point_are_its_nearest_and_what_a_radius_holds(gallery: Gallery, tmp_path: Path) -> None:
    latitude, longitude = tiles.scattered(6, seed=9)
    names = [f"s3://b/{row}.json#p{row}" for row in range(6)]
    places = list(zip(latitude.tolist(), longitude.tolist(), strict=True))
    file = written(tmp_path, [f"p{row},{lat!r},{lon!r}" for row, (lat, lon) in enumerate(places)])
    km = np.stack([haversine_km(lat, lon, gallery.latitude, gallery.longitude) for lat, lon in places])
    near = Bounds(Area(file=file, nearest=7), gallery, Store(None)).of(names)
    round_it = Bounds(Area(file=file, radius_km=3000), gallery, Store(None)).of(names)
    both = Bounds(Area(file=file, radius_km=2000, nearest=40, box="-90,-180,20,180"), gallery, Store(None)).of(names)
    south = boxed(gallery, "-90,-180,20,180")
    for row in range(6):
        nearest = np.argsort(km[row], kind="stable")
        assert set(near[row]) == set(nearest[:7])
        assert set(round_it[row]) == set(np.flatnonzero(km[row] <= 3000))
        expected = set(nearest[:40]) & set(np.flatnonzero(km[row] <= 2000)) & south
        if expected:
            assert set(both[row]) == expected
        else:
            assert isinstance(both[row], Rejection) and both[row].reason == "no_tile"


def test_tiles_of_one_spot_are_among_the_nearest_together(tmp_path: Path) -> None:
    latitude, longitude = np.array([0.0, 1.0, 1.0, 1.0, 2.0]), np.zeros(5)
    gallery = galleries.build(tmp_path / "gallery", [tiles.table(tiles.unit(5, seed=1), latitude, longitude)])
    file = written(tmp_path, ["a,0,0", "b,5,0"])
    one, other = Bounds(Area(file=file, nearest=2), gallery, Store(None)).of(["a", "b"])
    assert one is not None and other is not None
    assert one.tolist() == [0, 1, 2, 3] and other.tolist() == [1, 2, 3, 4]
    (all_of_it, _) = Bounds(Area(file=file, nearest=99), gallery, Store(None)).of(["a", "b"])
    assert all_of_it is not None and all_of_it.tolist() == [0, 1, 2, 3, 4]


def test_every_tile_may_be_found_where_nothing_bounds_it(gallery: Gallery) -> None:
    assert Bounds(Area(), gallery, Store(None)).of(["a", "b"]) == [None, None]


def test_captions_of_one_image_share_its_point_and_a_name_the_file_has_not_is_rejected(
    gallery: Gallery, tmp_path: Path
) -> None:
    file = written(tmp_path, ["0839/image-43.jpeg,10,20", "odd@7,-40,30"])
    ids = [
        "s3://b/t.json#0839/image-43.jpeg@1",
        "s3://b/t.json#0839/image-43.jpeg@3",
        "s3://b/t.json#odd@7",
        "s3://b/t.json#else",
    ]
    found = Bounds(Area(file=file, nearest=3), gallery, Store(None)).of(ids)
    first, second, third, last = found
    assert np.array_equal(first, second) and set(third) == set(gallery.near(-40, 30, 3)[1][0])
    assert isinstance(last, Rejection) and last.reason == "no_tile" and "no point" in last.detail


def test_the_files_own_bounds_go_before_the_settings(gallery: Gallery, tmp_path: Path) -> None:
    file = written(
        tmp_path, ["a,10,20,500,", "b,10,20,,4", "c,10,20,,"], "image_id;latitude;longitude;radius km;nearest".replace(";", ",")
    )
    found = Bounds(Area(file=file, nearest=2), gallery, Store(None)).of(["a", "b", "c"])
    km = haversine_km(10, 20, gallery.latitude, gallery.longitude)
    order = np.argsort(km)
    within = set(order[:2]) & set(np.flatnonzero(km <= 500))
    assert (set(found[0]) == within) if within else isinstance(found[0], Rejection)
    assert set(found[1]) == set(order[:4]) and set(found[2]) == set(order[:2])


def test_a_row_of_the_file_without_bounds_is_rejected_and_does_not_search_all(gallery: Gallery, tmp_path: Path) -> None:
    file = written(tmp_path, ["a,10,20,", "b,10,20,30000"], "image_id,latitude,longitude,radius_km")
    first, second, third = Bounds(Area(file=file), gallery, Store(None)).of(["a", "b", "c"])
    assert isinstance(first, Rejection) and first.reason == "no_tile" and "neither a radius nor a count" in first.detail
    assert isinstance(second, np.ndarray) and len(second) == len(gallery)
    assert isinstance(third, Rejection) and "no point" in third.detail
    assert Bounds(Area(file=file, nearest=1), gallery, Store(None)).of(["a"])[0] is not None


def test_large_areas_are_worked_on_in_parts_which_are_the_whole(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"n{at},{at},{at},{30000 if at % 2 else 50},{3 if at % 3 else ''}" for at in range(12)]
    file = written(tmp_path, lines, "image_id,latitude,longitude,radius_km,nearest")
    bounds, ids = Bounds(Area(file=file), gallery, Store(None)), [f"n{at}" for at in range(14)]
    whole = list(bounds.parts(ids))
    monkeypatch.setattr("geobatch.methods.ngcg.area._TILES", 2 * len(gallery))
    parts = list(bounds.parts(ids))
    assert len(whole) == 1 and len(parts) >= 2
    for one, other in zip(whole[0], [each for part in parts for each in part], strict=True):
        if isinstance(one, Rejection):
            assert isinstance(other, Rejection) and other.detail == one.detail
        else:
            assert np.array_equal(one, other)
    for part in parts:  # what a part holds beyond its limit is one row's
        held = [len(each) for each in part if isinstance(each, np.ndarray)]
        assert sum(held) - max(held, default=0) <= 2 * len(gallery)


def test_countries_by_code_and_by_name_are_those_of_the_nearest_town(gallery: Gallery) -> None:
    towns = Geocoder.load()
    named = [towns[int(row)].country for row in towns.nearest(gallery.latitude, gallery.longitude)]
    wanted = {"Russian Federation", "Brazil"}
    expected = {row for row, country in enumerate(named) if country in wanted}
    assert known_countries(["ru", "brazil"]) == known_countries(["Russia", "BR"]) == wanted and expected
    (found,) = Bounds(Area(countries=("Russia", "br"), box="-90,-180,60,180"), gallery, Store(None)).of(["a"])
    assert isinstance(found, np.ndarray) and set(found.tolist()) == expected & boxed(gallery, "-90,-180,60,180") < expected


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "10,0,5,1", "0,0,91,1", "0,5,1,5", "0,-200,1,5", "nan,0,1,1"])
def test_what_is_no_box_is_one_line(box: str) -> None:
    with pytest.raises(UserError, match=r"is no box|holds no ground"):
        Area(box=box)


def test_areas_that_bound_nothing_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the points with"):
        Area(nearest=100)
    with pytest.raises(UserError, match="bound no area"):
        Area(file="x", radius_km=-1)
    with pytest.raises(UserError, match="'Atlantis' is no country"):
        Bounds(Area(countries=("Atlantis",)), gallery, Store(None))
    with pytest.raises(UserError, match=r"more than one; give its ISO code or whole name \(.*South Africa"):
        known_countries(["South"])
    with pytest.raises(UserError, match=r"give --ngcg\.area\.radius-km or"):
        Bounds(Area(file=written(tmp_path, ["a,1,2"])), gallery, Store(None))
    with pytest.raises(UserError, match="radius_km 'wide' for a"):
        title = "image_id,latitude,longitude,radius_km"
        Bounds(Area(file=written(tmp_path, ["a,1,2,wide"], title)), gallery, Store(None))
    with pytest.raises(UserError, match="there is no file of points"):
        Area(file=str(tmp_path / "none.csv"), nearest=1).decides(Store(None))


def test_another_version_of_the_file_is_another_question(tmp_path: Path) -> None:
    area = Area(file=written(tmp_path, ["a,1,2"]), nearest=1)
    before = area.decides(Store(None))
    assert area.decides(Store(None)) == before
    written(tmp_path, ["a,1,2", "b,3,4"])
    assert area.decides(Store(None)) != before
