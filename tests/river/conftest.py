"""A small world for whole runs: real crops, a real encoder, gallery and GeoToken, all tiny and hardly trained.

Recipe: 400 gallery crops and 64 training crops of the Blue Marble; a ResNet of two blocks with random weights and a random
32-d head; GeoToken.small at width 32, 20 steps. Places are poor, everything else is as in life.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark.deposit import broken, write_archive, write_broken
from geobatch.benchmark.world import World
from geobatch.engine import gallery as galleries
from geobatch.engine.vision import HeadConfig, Vision, network
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.examples import Examples, Gallery
from geobatch.methods.geotoken.train import Fit
from geobatch.schema import GALLERY, empty_columns
from geobatch.store import Store, StoreConfig
from tests.conftest import S3Server
from tests.river.job import Ended, run_job, said

CROPS, SINGLES = 600, 300


@dataclass(frozen=True)
class Tiny:
    """Folders of a world: `model`, `gallery`, `archive`, and the names of the images in the archive."""

    folder: Path
    names: frozenset[str]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def archive(self) -> Path:
        return self.folder / "archive"


def make_encoder(folder: Path, size: int = 32) -> None:
    """A ResNet of two blocks with random weights, and a random head."""
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    reads = {"size": {"height": 48, "width": 48}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(reads))
    network(str(folder), HeadConfig(size=size, grid=3)).save(folder)


def make_model(folder: Path, pictures: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, steps: int = 20) -> None:
    """Encoder, gallery and GeoToken in `folder/model` and `folder/gallery`, from pictures with places."""
    make_encoder(folder / "model/encoder")
    vectors = Vision(str(folder / "model/encoder")).encode(pictures)
    rows = pa.table(
        {
            **empty_columns(list(GALLERY), len(vectors)),
            "image_id": [f"g{row}" for row in range(len(vectors))],
            "uri": ["g"] * len(vectors),
            "latitude": latitude,
            "longitude": longitude,
            "vector": list(vectors),
            "status": ["placed"] * len(vectors),
        }
    ).cast(GALLERY)
    gallery = galleries.build(folder / "gallery", [rows])
    everything = np.arange(len(gallery))
    ids = gallery.ids(everything).to_pylist()
    _, near = gallery.search(gallery.vectors(everything), 5, exclude_ids=ids)
    config = replace(GeoToken.small(vectors.shape[1]), width=32, heads=2, feed_forward=64)
    known = Gallery(gallery.vectors(everything), gallery.latitude, gallery.longitude)
    examples = Examples(known.vectors, known.latitude, known.longitude, near, known)
    fit = Fit(config, replace(Training.small(), batch=64, steps=steps, bf16=False), examples)
    for _ in range(steps):
        fit.advance()
    fit.model.save(folder / "model/geotoken")
    (folder / "model/geobatch.json").write_text(json.dumps({"method": "geotoken", "gallery": "../gallery"}))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """See the top of this file."""
    folder = tmp_path_factory.mktemp("tiny")
    world = World()
    latitude, longitude = world.scatter(400, seed=1)
    make_model(folder, world.cut(latitude, longitude), latitude, longitude)
    latitude, longitude = world.scatter(CROPS, seed=2)
    truth = write_archive(
        folder / "archive", world.photograph(latitude, longitude, seed=2), latitude, longitude, seed=2, per_shard=100
    )
    names = frozenset(truth) | frozenset(write_broken(folder / "archive"))
    assert len(names) == CROPS + len(broken())
    (folder / "archive/notes.txt").write_text("no image by its name")
    return Tiny(folder, names)


@pytest.fixture(scope="session")
def bucket(s3: S3Server, tiny: Tiny) -> Iterator[str]:
    """The tiny world's archive in S3: `s3://bucket/archive`."""
    name = s3.bucket()
    upload(tiny.archive, f"s3://{name}/archive", s3.config())
    yield name


@pytest.fixture(scope="session")
def first_and_second(bucket: str, tiny: Tiny, s3: S3Server) -> tuple[Ended, list[Ended]]:
    """The main job's undisturbed run over that archive into `s3://bucket/first`, and who came to it while it worked."""
    given, store, came = arguments(bucket, "first", tiny, s3, workers=2), Store(s3.config()), list[Ended]()

    def meanwhile(_: float) -> bool:
        if not came and store.exists(f"s3://{bucket}/first/runs/000001/run.json"):
            came.append(said(*given))
        return False

    return run_job(*given, kill_when=meanwhile), came


@pytest.fixture(scope="session")
def first(first_and_second: tuple[Ended, list[Ended]]) -> Ended:
    """The main job's undisturbed run over that archive into `s3://bucket/first`."""
    return first_and_second[0]


def arguments(bucket: str, output: str, tiny: Tiny, s3: S3Server, workers: int = 1) -> list[str]:
    """Of the main job. With one worker a stage a run takes a fifth less of two cores, most of it the imports of actors."""
    return [
        *("--archive", f"s3://{bucket}/archive", "--output", f"s3://{bucket}/{output}", "--model", str(tiny.model)),
        *("--store.endpoint", s3.endpoint, "--store.region", "us-east-1", "--shard-rows", "64"),
        *("--workers", str(workers)),
    ]


def upload(folder: Path, prefix: str, config: StoreConfig) -> None:
    """Puts every file below a folder under a prefix."""
    store = Store(config)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
