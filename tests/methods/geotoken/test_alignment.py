"""Alignment: on a corner of the embedded world, and at the paper's form with a CLIP of a few thousand weights.

It learns, it goes on where it stopped, two workers are one, and pieces are the whole.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed, multiprocessing, nn

from geobatch.benchmark.world import World, disturb
from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.engine.heads import HeadConfig
from geobatch.engine.pixels import Pixels, pictures_of
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.align import Align
from geobatch.methods.geotoken.alignment import Alignment
from geobatch.methods.geotoken.features import index
from geobatch.methods.geotoken.pack import pack, write_small
from geobatch.train.loop import Worker
from tests.engine.clip import write_clip, write_towns

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
        Align.paper(text=False), head=HeadConfig(size=64, unit=True), gps=Gps(size=64, width=64), batch=64, steps=8,
        learning_rate=3e-3,
    )  # fmt: skip
    alignment = start(data, settings)
    before = [value.clone() for value in alignment.encoder.trunk.parameters()]
    losses = [alignment.advance() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, alignment.encoder.trunk.parameters(), strict=True))
    head = alignment.encoder.by_view()["location"]
    assert head is not None and head.linear.weight.grad is not None


def test_batches_that_cannot_be(data: Path) -> None:
    with pytest.raises(UserError, match="cannot be shared by 3 workers"):
        start(data, SETTINGS, Worker(rank=0, world=3))
    with pytest.raises(UserError, match="less than one batch"):
        start(data, replace(SETTINGS, batch=4096))


CAPTION = "{city}, {country}"
PAPER = replace(
    Align.paper(), head=HeadConfig(size=16, hidden=24, unit=True), gps=Gps(size=16, width=16, features=8), batch=16, steps=6,
    epochs=1, learning_rate=3e-3, caption=CAPTION, precision="float32", buffer=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, and 60 pictures whose colour is their place, packed and as a table of the CLIP's vectors."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder / "encoder")
    write_towns(folder / "towns")
    rng = np.random.default_rng(1)
    lat, lon = rng.uniform(35, 60, 60), rng.uniform(-5, 40, 60)
    noise = rng.integers(0, 60, (60, 32, 32, 3))
    colours = np.stack([(lat - 35) * 7, (lon + 5) * 4, np.full(60, 90)], axis=1)[:, None, None]
    table = rows((noise + colours).astype(np.uint8), lat, lon)
    pack([table], folder / "pictures", Pixels(size=(32, 32)))
    vectors = Vision(str(folder / "encoder"), precision="float32").encode(pictures_of(table))
    (folder / "parts").mkdir()
    parts = []
    for number, at in enumerate(range(0, 60, 20)):
        part = pa.table(
            {
                "vector": pa.array(list(vectors[at : at + 20]), pa.list_(pa.float32())),
                "latitude": lat[at : at + 20],
                "longitude": lon[at : at + 20],
                "status": ["placed"] * 20,
            }
        )
        pq.write_table(part, folder / f"parts/{number}.parquet", row_group_size=8)
        parts.append((folder / f"parts/{number}.parquet", []))
    assert index(parts, folder / "vectors") == 60
    return folder


def begin(clip: Path, settings: Align = PAPER, data: str = "vectors", worker: Worker | None = None) -> Alignment:
    return Alignment(settings, str(clip / "encoder"), clip / data, worker, towns=clip / "towns")


def apart(one: Alignment, other: Alignment) -> float:
    """The largest difference of a trained number, as a share of the largest that training has changed."""
    state, same = one.state()["model"], other.state()["model"]
    assert state.keys() == same.keys()
    return max(float((state[name] - same[name]).abs().max()) for name in state)


def test_vectors_teach_what_pictures_do(clip: Path, tmp_path: Path) -> None:
    """Heads learn the same from a frozen encoder's stored vectors; three views and the places' encoder are saved."""
    seen, stored = begin(clip, data="pictures"), begin(clip)
    ahead = [stored.advance() for _ in range(6)]
    assert ahead[-1] < ahead[0] - 0.1
    batch = stored.batches.draw(3)
    of = seen.batches.data.places
    rows_of = [int(np.flatnonzero((of == place).all(axis=1))[0]) for place in batch._places]
    levels = torch.from_numpy(seen.batches.data.pictures[rows_of]).permute(0, 3, 1, 2).float()
    pictures = seen.batches.reads.normalise(levels)
    fresh = begin(clip)
    whole = batch.whole()
    with torch.no_grad():
        assert torch.allclose(
            seen.towers(whole._replace(seen=pictures)), fresh.towers(whole), atol=1e-4
        )  # the same heads on the same features
    stored.save(tmp_path)
    vision = Vision(str(tmp_path), precision="float32")
    assert vision.views == ("image", "location", "text") and vision.view_sizes == (12, 16, 16)
    found = vision.encode(seen.batches.data.pictures[rows_of])
    with torch.no_grad():
        view, place, *_ = stored.towers.embed(whole)
    assert np.allclose(found[:, 12:28] * np.sqrt(3), view.numpy(), atol=1e-4)
    again = LocationEncoder.load(tmp_path)
    assert np.allclose(again.encode(batch._places[:, 0], batch._places[:, 1]), place.numpy(), atol=1e-5)


@pytest.mark.parametrize("data", ["vectors", "pictures"])
def test_pieces_are_the_whole(clip: Path, data: str) -> None:
    """With LoRA in both trunks where pictures are read; all in float32."""
    settings = PAPER if data == "vectors" else replace(PAPER, lora_rank=2)
    whole, pieces = begin(clip, settings, data), begin(clip, replace(settings, micro_batch=5), data)
    for _ in range(3):
        assert whole.advance() == pytest.approx(pieces.advance(), abs=1e-5)
    assert apart(whole, pieces) < 1e-5
    assert apart(whole, begin(clip, settings, data)) > 1e-3


def test_adapters_are_trained_and_melt(clip: Path, tmp_path: Path) -> None:
    alignment = begin(clip, replace(PAPER, lora_rank=2), "pictures")
    learnt = alignment.state()["model"]
    assert any("vision_model" in name and "lora_B" in name for name in learnt)
    assert any("text_model" in name and "lora_B" in name for name in learnt)
    assert not any("base_layer" in name for name in learnt)  # a checkpoint holds no frozen weights
    losses = [alignment.advance() for _ in range(6)]
    assert losses[-1] < losses[0]
    alignment.save(tmp_path)
    pictures = alignment.batches.data.pictures[:4]
    with torch.no_grad():
        direct = alignment.encoder(alignment.encoder.reads(torch.from_numpy(pictures.copy())))
    found = Vision(str(tmp_path), precision="float32").encode(pictures)
    assert np.allclose(found, direct.numpy(), atol=1e-5)
    bare = Vision(str(clip / "encoder"), precision="float32").encode(pictures)
    assert np.abs(found[:, :12] * np.sqrt(3) - bare).max() > 1e-3  # the trunk itself has learnt


@pytest.mark.parametrize(("data", "micro"), [("vectors", 0), ("vectors", 6), ("pictures", 0)])
def test_a_killed_alignment_goes_on(clip: Path, tmp_path: Path, data: str, micro: int) -> None:
    """Through a file, as a checkpoint does; six steps cross an epoch of three."""
    settings = replace(PAPER, micro_batch=micro)
    through, first, second = (begin(clip, settings, data) for _ in range(3))
    for _ in range(6):
        through.advance()
    for _ in range(4):
        first.advance()
    torch.save(first.state(), tmp_path / "state.pt")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        second.advance()
    assert apart(through, second) < 1e-5
    assert apart(through, first) > 1e-4


def work(rank: int, folder: str, clip: str) -> None:
    """One of two workers, by DistributedDataParallel and by pieces."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    worker = Worker(rank, 2, wrap=nn.parallel.DistributedDataParallel)
    for name, settings in (("wrapped", PAPER), ("pieces", replace(PAPER, micro_batch=3))):
        alignment = begin(Path(clip), settings, worker=worker)
        losses = [alignment.advance() for _ in range(3)]
        torch.save({"model": alignment.state()["model"], "losses": losses}, f"{folder}/{name}{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's destructor was seen to wait for ever for a peer that had left first


def test_two_workers_are_one(clip: Path, tmp_path: Path) -> None:
    """Three steps with both losses and their masks: 2 x 8 is 1 x 16, in pieces of 3 as well."""
    alone = begin(clip)
    losses = [alone.advance() for _ in range(3)]
    multiprocessing.spawn(work, (str(tmp_path), str(clip)), nprocs=2)
    for name in ("wrapped0", "wrapped1", "pieces0", "pieces1"):
        shared = torch.load(tmp_path / f"{name}.pt")
        assert shared["losses"] == pytest.approx(losses, abs=1e-5)
        for part, value in alone.state()["model"].items():
            assert torch.allclose(shared["model"][part], value, atol=1e-5), (name, part)


def test_what_does_not_fit_is_refused(clip: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes a frozen encoder"):
        begin(clip, replace(PAPER, lora_rank=2))
    with pytest.raises(UserError, match="no text model"):
        Alignment(replace(PAPER, augment=None), str(data / "encoder"), clip / "vectors")
    with pytest.raises(UserError, match="vectors of 12 numbers are not this encoder's own, of 128"):
        Alignment(PAPER, str(data / "encoder"), clip / "vectors", text=str(clip / "encoder"), towns=clip / "towns")
    with pytest.raises(UserError, match="cannot be cut into pieces"):
        start(data, replace(SETTINGS, micro_batch=8))
    with pytest.raises(UserError, match="not spread over workers"):
        begin(clip, worker=Worker(sharded=True))
    with pytest.raises(KeyError, match="differ in"):
        begin(clip).restore(begin(clip, replace(PAPER, views=("image", "location"))).state())
