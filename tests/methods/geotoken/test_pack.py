"""Packed pictures: sorted along the curve, sized for the encoder, and batches that are clusters of neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.pixels import Pixels
from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.pack import PICTURES, PLACES, Pictures, pack


def rows(pictures: list[np.ndarray], lat: list[float | None], lon: list[float | None]) -> pa.Table:
    return pa.table(
        {
            "picture": pa.array([picture.tobytes() for picture in pictures], pa.large_binary()),
            "picture_width": [picture.shape[1] for picture in pictures],
            "picture_height": [picture.shape[0] for picture in pictures],
            "latitude": lat,
            "longitude": lon,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 pictures of one pixel, whose colour is their number."""
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))), rng.uniform(-180, 180, 2000)
    pictures = [np.array([[[row // 256, row % 256, 0]]], np.uint8) for row in range(2000)]
    table = rows(pictures, list(lat), list(lon))
    made = tmp_path_factory.mktemp("packed")
    np.save(made / "asked.npy", np.column_stack([lat, lon]))
    assert pack([table.slice(0, 700), table.slice(700)], made, Pixels(size=(1, 1))) == 2000
    return made


def test_pictures_keep_their_places_and_lie_along_the_curve(folder: Path) -> None:
    packed, where, asked = (np.load(folder / name) for name in (PICTURES, PLACES, "asked.npy"))
    ids = s2.cell_ids(where[:, 0], where[:, 1])
    assert (ids[1:] >= ids[:-1]).all()
    number = packed[:, 0, 0, 0].astype(int) * 256 + packed[:, 0, 0, 1]
    assert sorted(number) == list(range(2000)) and (asked[number] == where).all()


def test_packing_resizes_and_leaves_out_what_it_must(tmp_path: Path) -> None:
    noise = [np.full((*shape, 3), value, np.uint8) for value, shape in enumerate(((10, 20), (48, 48), (9, 9), (7, 7)))]
    table = rows(noise, [1.0, 2.0, None, 4.0], [5.0, 6.0, 7.0, 8.0])
    assert pack([table], tmp_path, Pixels(size=(48, 48))) == 3
    assert sorted(np.load(tmp_path / PICTURES).reshape(3, -1).max(axis=1).tolist()) == [0, 1, 3]
    with pytest.raises(UserError, match="several sizes"):
        pack([table], tmp_path, Pixels(size=None))
    with pytest.raises(UserError, match="no training picture has a place"):
        pack([table.slice(2, 1)], tmp_path, Pixels(size=(48, 48)))


def test_a_batch_is_clusters_and_a_function_of_the_step(folder: Path) -> None:
    def pictures(clusters: int = 16) -> Pictures:
        return Pictures(folder, batch=128, clusters=clusters, window=32, seed=0)

    first, again = pictures(), pictures()
    for step in range(5):
        drawn = first.rows(step)
        assert len(set(drawn.tolist())) == 128
        assert (drawn == again.rows(step)).all()
        km = haversine_km(*first.places[drawn].T[:, :, None], *first.places[drawn].T[:, None])
        np.fill_diagonal(km, np.inf)
        scattered = first.places[pictures(clusters=0).rows(step)].T
        apart = haversine_km(*scattered[:, :, None], *scattered[:, None])
        np.fill_diagonal(apart, np.inf)
        assert np.median(km.min(axis=1)) < 0.75 * np.median(apart.min(axis=1))
        assert np.median(km) > 3000
    assert set(first.rows(0)) != set(first.rows(1))


def test_without_clusters_an_epoch_is_a_pass_that_can_be_taken_up_anywhere(folder: Path) -> None:
    def pictures() -> Pictures:
        return Pictures(folder, batch=128, clusters=0, window=32, seed=0)

    first = pictures()
    steps = [first.rows(step) for step in range(30)]  # 15 of 128 are 1,920 of 2,000
    for epoch in (steps[:15], steps[15:]):
        assert all(len(rows) == 128 for rows in epoch) and len(set(np.concatenate(epoch).tolist())) == 1920
    assert (pictures().rows(20) == steps[20]).all() and set(steps[0].tolist()) != set(steps[15].tolist())
    assert (first.rows(3) == steps[3]).all()


def test_fewer_pictures_than_clusters_are_a_cluster_each(tmp_path: Path) -> None:
    pictures = [np.full((1, 1, 3), row, np.uint8) for row in range(40)]
    pack([rows(pictures, list(np.linspace(-60, 60, 40)), [0.0] * 40)], tmp_path, Pixels(size=(1, 1)))
    drawn = Pictures(tmp_path, batch=32, clusters=64, window=32, seed=0).rows(0)
    assert len(set(drawn.tolist())) == 32
