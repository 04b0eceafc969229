"""Labelled pictures become an image encoder that knows near from far (GeoToken's phase 1).

Decoding goes through the same resumable flow as places do; the pictures are then packed into one array that the training
workers map into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from geobatch.actors import Hands, cores, start
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.label import Label
from geobatch.engine import pixels
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken.align import Align, align, pack, write_small
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import fingerprint, fingerprint_of, local_folder
from geobatch.pipeline.geolocate import decoding
from geobatch.progress import Progress, say
from geobatch.sink import Snapshot, latest
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop

COLUMNS = ["picture", "picture_width", "picture_height", "latitude", "longitude"]


@dataclass(frozen=True, kw_only=True)
class GeoTokenAlign:
    """Trains an image encoder on labelled images."""

    archive: str
    """Where the training images lie, as for the main job."""
    output: str
    """Folder of the trained encoder. The same command takes up a training that died."""
    encoder: str = "small"
    """What to begin with: folder of a `transformers` image model (CLIP ViT-L/14 in the paper), or "small": a ResNet of 0.3 M
    parameters with random weights, for aerial crops."""
    truth: str | None = None
    """CSV or Parquet with the coordinates; default: the images' EXIF."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    preset: str = "paper"
    """How to learn, to begin with: "paper" (heads on a frozen encoder, against coordinates) or "small" (all of it, against
    pictures of near places); the settings below override both."""
    steps: int | None = None
    """Training steps; default: the preset's."""
    batch: int | None = None
    """Pictures a step, over all workers; default: the preset's."""
    learning_rate: float | None = None
    """Highest learning rate; default: the preset's."""
    seed: int = 0
    """Seed of the first weights, the batches and the changes."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    workers: int = 0
    """Actors of each heavy stage while decoding, at most; 0: one a CPU of this machine."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def align_encoder(config: GeoTokenAlign) -> Path:
    """Runs the job; returns the encoder's folder.

    Raises:
        UserError: the arguments must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    if config.preset not in ("paper", "small"):
        raise UserError(f'there is no preset {config.preset!r}; use "paper" or "small"')
    output = Path(config.output)
    work = (output.parent / f".{output.name}.work").resolve()  # training workers have a directory of their own
    store = Store(config.store)
    encoder = _beginning(config, work, store)
    settings = Align() if config.preset == "small" else Align.paper()
    named: dict[str, Any] = {
        "steps": config.steps,
        "batch": config.batch,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
    }
    settings = replace(settings, **{key: value for key, value in named.items() if value is not None})
    pictures = _decoded(config, work / "pictures", store)
    count = pack(pictures.tables(store, COLUMNS), work / "arrays", pixels.read(encoder / pixels.FILE))
    decides = [fingerprint_of(encoder), pictures.record["fingerprint"], count, asdict(settings), config.loop.workers]
    name = f"align-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"
    start([Hands(stage=Loop, workers=config.loop.workers, cpus=config.loop.cpus)], config.address)
    say(
        f"aligning the encoder: {count:,} pictures, {settings.steps:,} steps of {settings.batch}, {config.loop.workers} workers"
    )
    with Progress("aligned", settings.steps, unit="steps") as progress:

        def watch(step: int, steps: int, loss: float) -> None:
            progress.add(step - progress.done, f"loss {loss:.3f}")

        align(settings, str(encoder), work / "arrays", output, name=name, loop=config.loop, watch=watch)
    shutil.rmtree(work, ignore_errors=True)
    say(f"encoder {output}")
    return output


def _beginning(config: GeoTokenAlign, work: Path, store: Store) -> Path:
    if config.encoder != "small":
        return local_folder(store, config.encoder, "encoder")
    folder = work / "small"
    write_small(folder)
    return folder.resolve()


def _decoded(config: GeoTokenAlign, output: Path, store: Store) -> Snapshot:
    workers = config.workers or cores()
    flow(
        Flow(
            archive=ArchiveConfig(uri=config.archive, include=config.include, exclude=config.exclude),
            output=str(output),
            store=config.store,
            method="pictures",
            fingerprint=fingerprint({"decode": described(config.decode), "truth": config.truth}),
            river=[
                decoding(config.decode, workers),
                Hands(stage=Label, make={"truth": config.truth, "store": config.store}),
            ],
            address=config.address,
            what="decoded",
        )
    )
    table = latest(store, str(output))
    assert table is not None  # the flow has just published it
    return table
