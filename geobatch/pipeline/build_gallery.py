"""Labelled pictures become vectors that know their place, and a FAISS index over them.

The vectors go through the same flow as places do: sharded, resumable, each image once. The index is built last, from the
table's parts, on the driver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geobatch.actors import Hands, cores
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.label import Label
from geobatch.engine.gallery import COLUMNS, build
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken.embed import Embed
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import fingerprint, fingerprint_of, local_folder
from geobatch.pipeline.geolocate import decoding
from geobatch.progress import say
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig


@dataclass(frozen=True, kw_only=True)
class BuildGallery:
    """Embeds labelled images and indexes them."""

    archive: str
    """Where the images lie, as for the main job."""
    output: str
    """Folder of the gallery. The same command takes up a run that died, or adds what is new in the archive."""
    encoder: str
    """Folder of an image encoder: a `transformers` model, or one trained by geotoken_align.py."""
    truth: str | None = None
    """CSV or Parquet with the coordinates (image_id, latitude, longitude); default: the images' EXIF."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; use the same for the main job."""
    batch: int = 256
    """Pictures the encoder takes at a time."""
    relocate: bool = False
    """Start anew although another encoder or setting made the output."""
    workers: int = 0
    """Actors of each heavy stage, at most; 0: one a CPU of this machine."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def embed_archive(config: BuildGallery) -> dict[str, Any]:
    """The vectors of a labelled archive as a table of GALLERY rows at `config.output`; returns the run's account."""
    store = Store(config.store)
    encoder = local_folder(store, config.encoder, "encoder")
    workers = config.workers or cores()
    decides = {
        "encoder": fingerprint_of(encoder),
        "truth": config.truth,
        "decode": described(config.decode),
        "batch": config.batch,
    }
    return flow(
        Flow(
            archive=ArchiveConfig(uri=config.archive, include=config.include, exclude=config.exclude),
            output=config.output,
            store=config.store,
            method="gallery",
            fingerprint=fingerprint(decides),
            river=[
                decoding(config.decode, workers),
                Hands(stage=Label, make={"truth": config.truth, "store": config.store}),
                Hands(stage=Embed, make={"encoder": str(encoder), "batch": config.batch}, workers=workers),
            ],
            relocate=config.relocate,
            address=config.address,
            what="embedded",
        )
    )


def build_gallery(config: BuildGallery) -> Path:
    """Runs the job; returns the gallery's folder.

    Raises:
        UserError: the arguments must be resolved, or no image had a place.
    """
    if "://" in config.output and not config.output.startswith("file://"):
        raise UserError("the index is built on this machine; give --output as a local folder and copy it to the bucket after")
    account = embed_archive(config)
    folder = Path(config.output.removeprefix("file://"))
    store = Store(config.store)
    table = latest(store, config.output)
    assert table is not None  # the flow has just published it
    gallery = build(folder, table.tables(store, COLUMNS))
    say(f"gallery {folder}: {len(gallery):,} images, {account.get('rejected', 0):,} of this run rejected")
    return folder
