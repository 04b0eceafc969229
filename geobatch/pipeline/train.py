"""Labelled pictures and a gallery become a GeoToken model: embed, look up neighbours, train, put the folder together.

What lies in the model's folder: `geobatch.json` (method, gallery, what it was trained on, figures), `encoder/` (a copy),
`geotoken/` (the network) and, where asked for, `reward/` (the model that tells near candidates from far ones). The vectors of
the training images go through the same resumable flow as places do, from there to files that workers map
(`geobatch.methods.geotoken.arrays`); neither images nor neighbours are ever whole in memory.

Each part resumes: the flow by its commits, the table of neighbours by its blocks, both trainings by their checkpoints. The
card is written as soon as the network is trained, and its figures and calibration are added to it; a network or reward model
that was finished by the same settings on the same images is not trained again, what its card lacks is made. Images are kept out
by whole places, and those that the network has not seen are the reward model's too.
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
from geobatch.methods.geotoken.calibration import FILE as CALIBRATION
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Training
from geobatch.methods.geotoken.examples import SPARE
from geobatch.methods.geotoken.locate import ENCODER, NETWORK
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import REWARD
from geobatch.pipeline.build_gallery import embedded
from geobatch.pipeline.embedding import suits
from geobatch.pipeline.folder import local_folder, written_to
from geobatch.pipeline.train_card import kept_to, measured, ours, read, rounded, write
from geobatch.pipeline.trainees import WHOLE, Make, MakeReward, taught
from geobatch.progress import say
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop
from geobatch.train.ready import ready
from geobatch.train.split import LEVEL, shared
from geobatch.train.split import split as apart


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
    """Steps between measurements on images kept out of training; 0 measures only at the end."""
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
    """Share of the images kept out of training to report figures on, by whole places."""
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

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"{self.validation:g} of the images cannot be kept out; give --validation from 0 to below 1")


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
    output = written_to(config.output, "a model", lambda folder: ours(folder, config.encoder))
    training, rewarding, card = _training(config), _rewarding(config), read(output)
    split: dict[str, Any] = {"validation": config.validation, "seed": training.seed, "batch": training.batch}
    if config.reward == "only":
        split = kept_to(card, split)
    elif training.batch % config.loop.workers:
        raise UserError(f"a batch of {training.batch} cannot be shared by {config.loop.workers} workers; use a multiple")
    work = (output.parent / f".{output.name}.work").resolve()  # training workers have a directory of their own
    ready(config.loop, output, config.address)
    store = Store(config.store)
    encoder = local_folder(store, config.encoder, "encoder")
    folder = local_folder(store, config.gallery, "gallery")
    suits(folder, encoder)
    gallery = load(folder)
    network = GeoTokenModel.load(output / NETWORK).config if config.reward == "only" else _network(config, gallery)
    count = network.neighbours * (SPARE if training.blackout > 0 else 1)
    search = files.Search(count=count, surface=Surface() if network.between else None, above=config.exclude_above)
    arrays = work / "arrays"
    known = files.write_images(embedded(config, work, encoder).tables(store, COLUMNS), arrays)
    files.write_neighbours(gallery, known, search, arrays)
    split, one_by_one = _parted(arrays, split)
    name = _name(known.fingerprint, gallery.fingerprint, network, training, config, one_by_one)
    start([Hands(stage=Make, workers=config.loop.workers, cpus=config.loop.cpus)], config.address)
    if config.reward != "only":
        if not (card.get("trained") == name and (output / NETWORK).is_dir()):
            if card:
                say(f"the model at {output} was trained otherwise, and is replaced when this training ends")
            about = {"gallery": os.path.relpath(folder, output.resolve()), "gallery_fingerprint": gallery.fingerprint}
            card = _taught(config, Make(str(arrays), network, training), encoder, output, name, about | {"split": split})
        if "split" not in card:
            card["split"] = split
            write(output, card)
        measured(output, arrays, len(np.load(arrays / "held.npy")), card)
    if config.reward != "none":
        decides = [card.get("trained", name), known.fingerprint, gallery.fingerprint, split, config.exclude_above]
        _rewarded(config, rewarding, output, arrays, decides, card)
    shutil.rmtree(work, ignore_errors=True)
    return card


def _parted(arrays: Path, split: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Writes which images are kept out, by whole places, so that a batch at least is trained on.

    Returns:
        the split with the number of images, and whether it is one by rows, as where no two of them share a place.

    Raises:
        UserError: the split is of other images.
    """
    places = files.read(arrays).places()
    images = len(places[0])
    if split.get("images", images) != images:
        raise UserError(
            f"the network was trained on an archive of {split['images']:,} images and this is one of {images:,}, so which of "
            "them it has not seen is unknown; give its own --archive and --truth"
        )
    wanted = min(round(images * split["validation"]), max(0, images - split["batch"]))
    kept, held = apart(*places, wanted, split["seed"], least=split["batch"])
    if split["validation"] and not len(held):
        say(f"none of {images:,} images can be kept out by whole places: nothing is measured, and nothing calibrated")
    if left := images - len(kept) - len(held):
        say(f"{left:,} more images of the place that is kept out are not trained on either")
    for name, rows in (("kept", kept), ("held", held)):
        np.save(arrays / f"{name}.npy", rows)
    return split | {"images": images}, not (len(held) and shared(*places))


def _taught(config: GeoTokenTrain, make: Make, encoder: Path, output: Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
    """Trains the network and puts it, with its encoder and a card, in the place of the model that was."""
    copy = Path(make.folder).parent / ENCODER
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(encoder, copy)  # before, so that a trained network waits for nothing
    spent = taught(make, output / NETWORK, name, make.training, config.loop)
    (output / CALIBRATION).unlink(missing_ok=True)  # of another network, as the rest
    for old in (REWARD, ENCODER):
        shutil.rmtree(output / old, ignore_errors=True)
    shutil.move(copy, output / ENCODER)
    images = len(np.load(Path(make.folder) / "kept.npy"))
    card = {"method": "geotoken", **about, "images": images, "training": spent, "trained": name}
    write(output, card)
    return card


def _rewarding(config: GeoTokenTrain) -> Rewarding:
    """The reward model's settings, its batch apart."""
    rewarding = Rewarding.small() if config.preset == "small" else Rewarding()
    named = {"steps": config.reward_steps, "seed": config.seed, "bf16": config.bf16, "micro_batch": config.micro_batch}
    own: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    return replace(rewarding, training=replace(rewarding.training, **own))


def _rewarded(
    config: GeoTokenTrain, rewarding: Rewarding, output: Path, arrays: Path, decides: list[Any], card: dict[str, Any]
) -> None:
    """Trains the reward model of the network in `output`, which `decides` and its own settings name, if the card has it not."""
    batch = _shared(rewarding.training.batch, len(np.load(arrays / "kept.npy")), config.loop.workers)
    rewarding = replace(rewarding, training=replace(rewarding.training, batch=batch))
    decided = json.dumps([*decides, asdict(rewarding), config.loop.workers], sort_keys=True)
    name = f"reward-{hashlib.sha256(decided.encode()).hexdigest()[:16]}"
    if card.get("reward", {}).get("trained") == name and (output / REWARD).is_dir():
        return
    make = MakeReward(str(arrays), rewarding, str((output / NETWORK).resolve()))
    spent = taught(make, output / REWARD, name, rewarding.training, config.loop)
    history = json.loads((output / REWARD / "config.json").read_text())["history"]
    figures = rounded(history[-1]) if history else {}
    if figures:
        shares = [f"{100 * figures[each]:.1f} %" for each in ("right_mean", "right_reward", "right_any")]
        say(f"reward model: of {rewarding.samples} draws for an image kept out {shares[0]} are right, the one of the highest "
            f"reward for {shares[1]} of images, any for {shares[2]}")  # fmt: skip
    card["reward"] = {"validation": figures, "training": spent, "trained": name}
    write(output, card)


def _shared(batch: int, images: int, workers: int) -> int:
    """The largest batch, at most `batch`, of so many images that the workers can share equally."""
    return max(1, min(batch, images) // workers) * workers


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


def _name(examples: str, gallery: str, network: GeoToken, training: Training, config: GeoTokenTrain, one_by_one: bool) -> str:
    decides: list[Any] = [
        examples,
        gallery,
        asdict(network),
        asdict(training),
        config.loop.workers,
        config.validation,
        config.exclude_above,
    ]
    if not one_by_one:  # else places part the images as rows do, and so they did when some models were trained
        decides.append(LEVEL)
    return f"geotoken-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"
