"""Labelled pictures and a gallery become a GeoToken model: embed, look up neighbours, train, put the folder together.

What lies in the model's folder: `geobatch.json` (method, gallery, what it was trained on, figures), `encoder/` (a copy),
`geotoken/` (the network) and, where asked for, `reward/` (the model that tells near candidates from far ones). The vectors of
the training images go through the same resumable flow as places do, from there to files that workers map
(`geobatch.methods.geotoken.arrays`); neither images nor neighbours are ever whole in memory.

Each part resumes: the flow by its commits, the table of neighbours by its blocks, both trainings by their checkpoints. The
card is written as soon as the network is trained, and its figures and calibration are added to it; a network that was
finished by the same settings on the same images is not trained again, what its card lacks is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geobatch.actors import Hands, start
from geobatch.engine.gallery import COLUMNS, Gallery, load
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken import arrays as files
from geobatch.methods.geotoken.calibrate import LEAST, learn
from geobatch.methods.geotoken.calibration import FILE as CALIBRATION
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Training
from geobatch.methods.geotoken.examples import SPARE
from geobatch.methods.geotoken.held import evaluate
from geobatch.methods.geotoken.locate import ENCODER, NETWORK
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import REWARD
from geobatch.pipeline.build_gallery import embedded
from geobatch.pipeline.folder import CARD, local_folder, written_to
from geobatch.pipeline.trainees import WHOLE, Make, MakeReward, part, taught
from geobatch.progress import say
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop
from geobatch.train.ready import ready

#: Images kept out that the card's figures are of, at most: a share among 4,096 is known to 1.6 points.
MEASURED = 4096


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
    epochs: int | None = None
    """Passes over the training images, where no steps are given; default: the preset's."""
    batch: int | None = None
    """Images a step, over all workers; default: the preset's."""
    micro_batch: int | None = None
    """Images that go through a worker's network at a time; default: as many as its memory holds."""
    learning_rate: float | None = None
    """Highest learning rate; default: the preset's."""
    group_size: int | None = None
    """Levels a token stands for: 1 makes 21 tokens of a level-20 cell, 2 makes 11; default: the preset's."""
    neighbours: int | None = None
    """Neighbours that the network reads; default: the preset's."""
    neighbour_dropout: float | None = None
    """Share of neighbours hidden at random in training, one by one."""
    blackout: float | None = None
    """Share of images for which all neighbours within a random radius are hidden, as if the gallery knew nothing near."""
    smoothing_km: float | None = None
    """Distance over which a token's target is shared with its siblings; 0: the right one alone."""
    validate_steps: int | None = None
    """Steps between measurements on images kept out of training."""
    keep: Literal["last", "best"] | None = None
    """Whether the last step's weights become the model, or those with the least loss on the images kept out."""
    bf16: bool | None = None
    """Whether matrix products run in bfloat16."""
    exclude_above: float | None = None
    """Gallery images at least this similar to a training image are taken for the same scene and are no neighbours of it."""
    reward: Literal["none", "also", "only"] = "none"
    """Whether the reward model is trained: not at all, after the network, or alone for the network that `output` holds."""
    reward_steps: int | None = None
    """Training steps of the reward model; default: the preset's."""
    seed: int = 0
    """Seed of the first weights, the order of images and every dropout."""
    validation: float = 0.05
    """Share of the images kept out of training to report figures on."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; use the same for the gallery and the main job."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    workers: int = 0
    """Actors of each heavy stage while embedding, at most; 0: one a CPU of this machine, or of all nodes that the cluster
    could have."""
    gpus: float = 0.0
    """GPUs of each actor that embeds; fractions share one, 0 embeds on CPUs."""
    stages: tuple[str, ...] = ()
    """What single stages ask for instead, as NAME:KEY=VALUE,…: Decode:workers=32 Embed:gpus=0.5,accelerator=L4; KEY is workers,
    least, cpus, gpus, memory (GiB), accelerator, resource.NAME or label.NAME."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def train(config: GeoTokenTrain) -> dict[str, Any]:
    """Runs the job; returns the model's card.

    Raises:
        UserError: the arguments must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    if config.preset not in ("paper", "small"):
        raise UserError(f'there is no preset {config.preset!r}; use "paper" or "small"')
    if config.loop.parallel == "fsdp":
        raise UserError(WHOLE)
    output = written_to(config.output, "a model")
    work = (output.parent / f".{output.name}.work").resolve()  # training workers have a directory of their own
    ready(config.loop, output, config.address)
    store = Store(config.store)
    encoder = local_folder(store, config.encoder, "encoder")
    folder = local_folder(store, config.gallery, "gallery")
    gallery = load(folder)
    if config.reward == "only":
        network, training = GeoTokenModel.load(output / NETWORK).config, _training(config)
    else:
        network, training = _network(config, gallery), _training(config)
    known = _embedded(config, work, store, encoder)
    kept, held = _split(len(known), config.validation, training)
    count = network.neighbours * (SPARE if training.blackout > 0 else 1)
    search = files.Search(count=count, surface=Surface() if network.between else None, above=config.exclude_above)
    files.write_neighbours(gallery, known, search, work / "arrays")
    np.save(work / "arrays/kept.npy", kept)
    np.save(work / "arrays/held.npy", held)
    name = _name(known.fingerprint, gallery.fingerprint, network, training, config)
    start([Hands(stage=Make, workers=config.loop.workers, cpus=config.loop.cpus)], config.address)
    card = json.loads((output / CARD).read_text()) if (output / CARD).is_file() else {}
    if config.reward != "only" and not (card.get("trained") == name and (output / NETWORK).is_dir()):
        shutil.rmtree(work / ENCODER, ignore_errors=True)
        shutil.copytree(encoder, work / ENCODER)  # before, so that a trained network waits for nothing
        spent = taught(Make(str(work / "arrays"), network, training), output / NETWORK, name, training, config.loop)
        (output / CALIBRATION).unlink(missing_ok=True)  # of another network, as the rest
        for old in (REWARD, ENCODER):
            shutil.rmtree(output / old, ignore_errors=True)
        shutil.move(work / ENCODER, output / ENCODER)
        card = {
            "method": "geotoken",
            "gallery": os.path.relpath(folder, output.resolve()),
            "gallery_fingerprint": gallery.fingerprint,
            "images": len(kept),
            "training": spent,
            "trained": name,
        }
        _write(output, card)
    if config.reward != "only":
        _measured(output, work / "arrays", len(held), card)
    if config.reward != "none":
        data = [known.fingerprint, gallery.fingerprint, config.validation, config.exclude_above]
        card["reward"] = _rewarded(config, output, work / "arrays", [card.get("trained", name), *data])
        _write(output, card)
    shutil.rmtree(work, ignore_errors=True)
    return card


def _write(output: Path, card: dict[str, Any]) -> None:
    (output / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 5) for key, value in figures.items()}


def _measured(output: Path, arrays: Path, held: int, card: dict[str, Any]) -> None:
    """Adds to the card what it does not have: figures and calibration, each written when it is there."""
    if "validation" not in card:
        card["validation"] = _figures(output / NETWORK, arrays) if held else {}
        _write(output, card)
    if "calibration" not in card:
        fitted = Calibration.load(output)
        card["calibration"] = _calibrated(output, arrays, held) if fitted is None else _rounded(fitted.figures)
        _write(output, card)


def _rewarded(config: GeoTokenTrain, output: Path, arrays: Path, decides: list[Any]) -> dict[str, Any]:
    """Trains the reward model of the network in `output`, which `decides` and its own settings name; its part of the card."""
    rewarding = Rewarding.small() if config.preset == "small" else Rewarding()
    named = {"steps": config.reward_steps, "seed": config.seed, "bf16": config.bf16, "micro_batch": config.micro_batch}
    own: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    own["batch"] = _shared(rewarding.training.batch, len(np.load(arrays / "kept.npy")), config.loop.workers)
    rewarding = replace(rewarding, training=replace(rewarding.training, **own))
    name = hashlib.sha256(json.dumps([*decides, asdict(rewarding), config.loop.workers]).encode()).hexdigest()[:16]
    make = MakeReward(str(arrays), rewarding, str((output / NETWORK).resolve()))
    spent = taught(make, output / REWARD, f"reward-{name}", rewarding.training, config.loop)
    history = json.loads((output / REWARD / "config.json").read_text())["history"]
    figures = _rounded(history[-1]) if history else {}
    if figures:
        shares = [f"{100 * figures[each]:.1f} %" for each in ("right_mean", "right_reward", "right_any")]
        say(f"reward model: of {rewarding.samples} draws for an image kept out {shares[0]} are right, the one of the highest "
            f"reward for {shares[1]} of images, any for {shares[2]}")  # fmt: skip
    return {"validation": figures, "training": spent}


def _shared(batch: int, images: int, workers: int) -> int:
    """The largest batch, at most `batch`, of so many images that the workers can share equally."""
    return max(1, min(batch, images) // workers) * workers


def _embedded(config: GeoTokenTrain, work: Path, store: Store, encoder: Path) -> files.Known:
    table = embedded(config, work / "features", encoder)
    return files.write_images(table.tables(store, COLUMNS), work / "arrays")


def _network(config: GeoTokenTrain, gallery: Gallery) -> GeoToken:
    """The preset's network, reading the views that the gallery has."""
    views: dict[str, int] = gallery.views
    sizes = tuple(views.values())
    network = GeoToken.small() if config.preset == "small" else GeoToken.paper()
    named = {"group_size": config.group_size, "neighbours": config.neighbours}
    fields: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    unequal = sizes if len(set(sizes)) > 1 else ()
    return replace(network, views=tuple(views), vector_size=max(sizes), view_sizes=unequal, **fields)


def _training(config: GeoTokenTrain) -> Training:
    training = Training.small() if config.preset == "small" else Training.paper()
    given = {each.name: getattr(config, each.name) for each in dataclass_fields(Training) if hasattr(config, each.name)}
    if config.epochs is not None:
        training = replace(training, steps=None)  # the preset's would be made instead
    return replace(training, **{name: value for name, value in given.items() if value is not None})


def _split(images: int, share: float, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, by a seeded permutation; never fewer than one batch to train on."""
    held = min(round(images * share), max(0, images - training.batch))
    order = np.random.default_rng([training.seed, 0x5EED]).permutation(images)
    return np.sort(order[held:]), np.sort(order[:held])


def _figures(network: Path, arrays: Path) -> dict[str, float]:
    held = part(arrays, "held")
    held = held.some(np.linspace(0, len(held) - 1, min(MEASURED, len(held))).astype(np.int64))
    found = evaluate(GeoTokenModel.load(network), held)
    say(f"on {len(held):,} training images kept out greedy is within 25 km for {100 * found['greedy_25km']:.1f} %, "
        f"within 200 km for {100 * found['greedy_200km']:.1f} %")  # fmt: skip
    return {"images": len(held), **_rounded(found)}


def _calibrated(output: Path, arrays: Path, held: int) -> dict[str, float]:
    """Fits the model's calibration on images kept out of its training; returns the fit's figures, none of too few images."""
    if held < LEAST:
        say(f"{held:,} images kept out are too few to calibrate on, {LEAST} are needed; geotoken_calibrate.py does it later")
        return {}
    fitted = learn(output / NETWORK, part(arrays, "held"))
    fitted.save(output)
    near, far = (100 * fitted.figures[f"error_{km}km"] for km in (25, 200))
    say(f"calibrated on {fitted.images:,} of them: what it states is off by {near:.1f} % at 25 km, {far:.1f} % at 200 km")
    return _rounded(fitted.figures)


def _name(examples: str, gallery: str, network: GeoToken, training: Training, config: GeoTokenTrain) -> str:
    decides = [
        examples,
        gallery,
        asdict(network),
        asdict(training),
        config.loop.workers,
        config.validation,
        config.exclude_above,
    ]
    return f"geotoken-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"
