"""Labelled pictures and a gallery become a GeoToken model: embed, look up neighbours, train, put the folder together.

What lies in the model's folder: `geobatch.json` (method, gallery, what it was trained on, figures), `encoder/` (a copy) and
`geotoken/` (the network). The vectors of the training images go through the same resumable flow as places do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geobatch.actors import Hands, start
from geobatch.engine.gallery import COLUMNS, Gallery, collect, load
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken import train as learning
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.locate import ENCODER, NETWORK
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.neighbours import find
from geobatch.pipeline.build_gallery import BuildGallery, embed_archive
from geobatch.pipeline.folder import CARD, local_folder
from geobatch.progress import Progress, say
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop, Worker, fit

#: Rows of the gallery that examples name, as files the workers map into memory.
_ARRAYS = ("vectors", "latitude", "longitude", "neighbours", "gallery_vectors", "gallery_latitude", "gallery_longitude")


@dataclass(frozen=True, kw_only=True)
class GeoTokenTrain:
    """Trains GeoToken on labelled images."""

    archive: str
    """Where the training images lie, as for the main job."""
    output: str
    """Folder of the model. The same command takes up a training that died."""
    encoder: str
    """Folder of the encoder that built the gallery."""
    gallery: str
    """Folder of the gallery that neighbours come from; an image that is in it is never its own neighbour."""
    truth: str | None = None
    """CSV or Parquet with the coordinates; default: the images' EXIF."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    preset: str = "paper"
    """Sizes and training to begin with: "paper" or "small"; the settings below override both."""
    steps: int | None = None
    """Training steps; default: the preset's."""
    batch: int | None = None
    """Images a step, over all workers; default: the preset's."""
    learning_rate: float | None = None
    """Highest learning rate; default: the preset's."""
    seed: int = 0
    """Seed of the first weights, the order of images and every dropout."""
    validation: float = 0.05
    """Share of the images kept out of training to report figures on."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; use the same for the gallery and the main job."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    workers: int = 0
    """Actors of each heavy stage while embedding, at most; 0: one a CPU of this machine."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


@dataclass(frozen=True)
class _Make:
    """Makes a worker's trainee from files: a value that travels instead of the arrays."""

    folder: str
    config: GeoToken
    training: Training

    def __call__(self, worker: Worker) -> _Trainee:
        arrays = {name: np.load(Path(self.folder) / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return _Trainee(
            self.config,
            self.training,
            _examples(arrays),
            rank=worker.rank,
            world=worker.world,
            device=worker.device,
            wrap=worker.wrap,
        )


class _Trainee(learning.Fit):
    def save(self, folder: Path) -> None:
        """Writes the network."""
        self.model.save(folder, training=asdict(self.training))


def train(config: GeoTokenTrain) -> dict[str, Any]:
    """Runs the job; returns the model's card.

    Raises:
        UserError: the arguments must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    if config.preset not in ("paper", "small"):
        raise UserError(f'there is no preset {config.preset!r}; use "paper" or "small"')
    output = Path(config.output)
    work = (output.parent / f".{output.name}.work").resolve()  # training workers have a directory of their own
    store = Store(config.store)
    encoder = local_folder(store, config.encoder, "encoder")
    folder = local_folder(store, config.gallery, "gallery")
    gallery = load(folder)
    examples = _embedded(config, work, store, encoder)
    network, training = _settings(config, gallery.dimension, len(examples))
    kept, held = _split(len(examples), config.validation, training)
    _write(work / "arrays", _learnt(examples, gallery, kept, network))
    name = _name(examples.fingerprint, gallery.fingerprint, network, training, config)
    start([Hands(stage=_Make, workers=config.loop.workers, cpus=config.loop.cpus)], config.address)
    say(f"training GeoToken: {len(kept):,} images, {training.steps or training.epochs} "
        f"{'steps' if training.steps else 'epochs'} of {training.batch}, {config.loop.workers} workers")  # fmt: skip
    with Progress("trained", unit="steps") as progress:
        progress.total = training.steps

        def watch(step: int, steps: int, loss: float) -> None:
            progress.total = steps
            progress.add(step - progress.done, f"loss {loss:.3f}")

        spent = fit(_Make(str(work / "arrays"), network, training), output / NETWORK, name=name,
                    loop=config.loop, watch=watch)  # fmt: skip
    shutil.copytree(encoder, output / ENCODER, dirs_exist_ok=True)
    figures = _figures(output / NETWORK, _learnt(examples, gallery, held, network)) if len(held) else {}
    card = {
        "method": "geotoken",
        "gallery": os.path.relpath(folder, output.resolve()),
        "gallery_fingerprint": gallery.fingerprint,
        "images": len(kept),
        "validation": figures,
        "training": {key: round(value, 4) for key, value in spent.items()},
    }
    (output / CARD).write_text(json.dumps(card, indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    if figures:
        say(f"model {output}: on {len(held):,} held-out training images greedy is within 25 km for "
            f"{100 * figures['greedy_25km']:.1f} %, within 200 km for {100 * figures['greedy_200km']:.1f} %")  # fmt: skip
    return card


def _embedded(config: GeoTokenTrain, work: Path, store: Store, encoder: Path) -> Gallery:
    features = BuildGallery(
        archive=config.archive,
        output=str(work / "features"),
        encoder=str(encoder),
        truth=config.truth,
        include=config.include,
        exclude=config.exclude,
        decode=config.decode,
        workers=config.workers,
        address=config.address,
        store=config.store,
    )
    embed_archive(features)
    table = latest(store, features.output)
    assert table is not None  # the flow has just published it
    return collect(table.tables(store, COLUMNS))


def _settings(config: GeoTokenTrain, dimension: int, images: int) -> tuple[GeoToken, Training]:
    small = config.preset == "small"
    network = GeoToken.small(dimension) if small else GeoToken.paper()
    if not small and dimension != network.vector_size * len(network.views):
        network = GeoToken(views=("image",), vector_size=dimension)
    training = Training.small() if small else Training.paper()
    named = {"steps": config.steps, "batch": config.batch, "learning_rate": config.learning_rate, "seed": config.seed}
    fields = {**asdict(training), **{key: value for key, value in named.items() if value is not None}}
    return network, Training(**fields)


def _split(images: int, share: float, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, by a seeded permutation; never fewer than one batch to train on."""
    held = min(round(images * share), max(0, images - training.batch))
    order = np.random.default_rng([training.seed, 0x5EED]).permutation(images)
    return np.sort(order[held:]), np.sort(order[:held])


def _learnt(examples: Gallery, gallery: Gallery, rows: np.ndarray, network: GeoToken) -> dict[str, Any]:
    """The arrays of `learning.Examples`: the rows' vectors and places, and neighbours as rows of the gallery's arrays.

    An image is never its own neighbour. Places between images have no row in the gallery; they follow behind it, one an
    example.
    """
    vectors = examples.vectors(rows)
    ids = examples.ids(rows).to_pylist()
    found = find(gallery, vectors, network.neighbours, Surface() if network.between else None, exclude_ids=ids)
    near, known = found.rows, [gallery.vectors(np.arange(len(gallery)))]
    places = [gallery.latitude], [gallery.longitude]
    if network.between:
        near = np.where(near < 0, len(gallery) + np.arange(len(rows))[:, None], near)
        known.append(found.vectors[:, 0])
        places[0].append(found.latitude[:, 0])
        places[1].append(found.longitude[:, 0])
    short = network.neighbours - near.shape[1]
    latitude, longitude = examples.places(rows)
    return {
        "vectors": vectors,
        "latitude": latitude,
        "longitude": longitude,
        "neighbours": np.pad(near, ((0, 0), (0, short)), constant_values=-1),
        "gallery_vectors": np.concatenate(known),
        "gallery_latitude": np.concatenate(places[0]),
        "gallery_longitude": np.concatenate(places[1]),
    }


def _write(folder: Path, arrays: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", arrays[name])


def _examples(arrays: dict[str, Any]) -> learning.Examples:
    gallery = learning.Gallery(arrays["gallery_vectors"], arrays["gallery_latitude"], arrays["gallery_longitude"])
    return learning.Examples(arrays["vectors"], arrays["latitude"], arrays["longitude"], arrays["neighbours"], gallery)


def _figures(network: Path, arrays: dict[str, Any]) -> dict[str, float]:
    found = learning.evaluate(GeoTokenModel.load(network), _examples(arrays))
    return {key: round(value, 5) for key, value in found.items()}


def _name(examples: str, gallery: str, network: GeoToken, training: Training, config: GeoTokenTrain) -> str:
    decides = [examples, gallery, asdict(network), asdict(training), config.loop.workers, config.validation]
    return f"geotoken-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"
