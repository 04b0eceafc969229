"""Alignment on a corner of the embedded world: it learns, it goes on where it stopped, and half of it is half of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from geobatch.benchmark.world import World, disturb
from geobatch.engine.gps import Gps
from geobatch.engine.pixels import Pixels
from geobatch.engine.vision import HeadConfig, Vision
from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.align import Align, Alignment
from geobatch.methods.geotoken.pack import PICTURES, PLACES, pack, write_small
from geobatch.train.loop import Worker

SETTINGS = Align(batch=128, clusters=16, steps=45, warm_up=3, head=HeadConfig(size=64, grid=3))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def places(world: World) -> tuple[np.ndarray, np.ndarray]:
    """2,000 places of a continent, about as dense as the demo's."""
    lat, lon = world.scatter(25_000, seed=21)
    near = (np.abs(lat - 45) < 14) & (np.abs(lon - 30) < 40)
    return lat[near][:2000], lon[near][:2000]


@pytest.fixture(scope="module")
def pictures(world: World, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return world.cut(*places)


def rows(pictures: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> pa.Table:
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
def data(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("align")
    write_small(folder / "encoder")
    table = rows(pictures, *places)
    assert pack([table.slice(0, 700), table.slice(700)], folder / "data", Pixels(size=(48, 48))) == len(pictures)
    return folder


def start(data: Path, settings: Align, worker: Worker | None = None) -> Alignment:
    return Alignment(settings, str(data / "encoder"), data / "data", worker)


def test_pictures_keep_their_places_and_lie_along_the_curve(world: World, data: Path, pictures: np.ndarray) -> None:
    packed, where = np.load(data / "data" / PICTURES), np.load(data / "data" / PLACES)
    ids = s2.cell_ids(where[:, 0], where[:, 1])
    assert (ids[1:] >= ids[:-1]).all()
    assert (packed[:20] == world.cut(where[:20, 0], where[:20, 1])).all()
    assert packed.shape == pictures.shape


def test_packing_resizes_and_leaves_out_what_it_must(tmp_path: Path) -> None:
    noise = [np.full((*shape, 3), value, np.uint8) for value, shape in enumerate(((10, 20), (48, 48), (9, 9), (7, 7)))]
    table = rows(noise, [1.0, 2.0, None, 4.0], [5.0, 6.0, 7.0, 8.0])
    assert pack([table], tmp_path, Pixels(size=(48, 48))) == 3
    assert sorted(np.load(tmp_path / PICTURES).reshape(3, -1).max(axis=1).tolist()) == [0, 1, 3]
    with pytest.raises(UserError, match="several sizes"):
        pack([table], tmp_path, Pixels(size=None))
    with pytest.raises(UserError, match="no training picture has a place"):
        pack([table.slice(2, 1)], tmp_path, Pixels(size=(48, 48)))


def test_a_batch_is_clusters_and_a_function_of_the_step(data: Path) -> None:
    alignment, again = start(data, SETTINGS), start(data, SETTINGS)
    where = np.load(data / "data" / PLACES)
    for step in range(5):
        drawn = alignment.rows(step)
        assert len(set(drawn.tolist())) == 128
        assert (drawn == again.rows(step)).all()
        km = haversine_km(*where[drawn].T[:, :, None], *where[drawn].T[:, None])
        np.fill_diagonal(km, np.inf)
        assert np.median(km.min(axis=1)) < 150
        assert np.median(km) > 800
    assert set(alignment.rows(0)) != set(alignment.rows(1))
    halves = [alignment.rows(3)[rank::2] for rank in range(2)]
    assert sorted(np.concatenate(halves)) == sorted(alignment.rows(3))
    assert len(set(start(data, replace(SETTINGS, clusters=0)).rows(0))) == 128


def test_it_learns_that_near_places_look_alike(
    world: World, data: Path, tmp_path: Path, pictures: np.ndarray, places: tuple[np.ndarray, np.ndarray]
) -> None:
    """Other places of the same continent, through other cameras, find a picture near them."""
    alignment = start(data, SETTINGS)
    losses = [alignment.advance() for _ in range(SETTINGS.steps)]
    assert np.mean(losses[-4:]) < np.mean(losses[:2]) - 0.7
    lat, lon = places[0][:300] + 0.4, places[1][:300]
    queries = disturb(world.cut(lat, lon), seed=3)
    far = {}
    for name, trained in (("before", start(data, SETTINGS)), ("after", alignment)):
        trained.save(tmp_path / name)
        vision = Vision(str(tmp_path / name))
        # Their own picture is 44 km away; without it, the nearest other has to be recognised.
        similarity = vision.encode(queries) @ vision.encode(pictures).T
        similarity[np.arange(300), np.arange(300)] = -1
        found = similarity.argmax(axis=1)
        far[name] = (haversine_km(lat, lon, places[0][found], places[1][found]) > 200).mean()
    assert far["after"] < 0.6 * far["before"], far


def test_going_on_is_as_if_nothing_had_happened(data: Path) -> None:
    settings = replace(SETTINGS, steps=4, against="both", gps=Gps(size=64, width=32, features=32))
    through = start(data, settings)
    losses = [through.advance() for _ in range(4)]
    first, second = start(data, settings), start(data, settings)
    for _ in range(2):
        first.advance()
    second.restore(first.state())
    assert [second.advance() for _ in range(2)] == pytest.approx(losses[2:], rel=1e-3)
    with pytest.raises(KeyError):
        second.restore({})


def test_against_coordinates_with_a_frozen_encoder(data: Path) -> None:
    settings = replace(
        Align.paper(), head=HeadConfig(size=64), gps=Gps(size=64, width=64), batch=64, steps=8, learning_rate=3e-3
    )
    alignment = start(data, settings)
    before = [value.clone() for value in alignment.encoder.trunk.parameters()]
    losses = [alignment.advance() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, alignment.encoder.trunk.parameters(), strict=True))
    assert alignment.encoder.head is not None and alignment.encoder.head.linear.weight.grad is not None


def test_batches_that_cannot_be(data: Path) -> None:
    with pytest.raises(UserError, match="cannot be shared by 3 workers"):
        start(data, SETTINGS, Worker(rank=0, world=3))
    with pytest.raises(UserError, match="less than one batch"):
        start(data, replace(SETTINGS, batch=4096))
