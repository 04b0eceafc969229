"""What embeds a gallery's pictures or texts: an encoder of images, or NGCG's of texts and tiles, as stages of a river.

    an encoder of images      Decode ──▶ Survey ──▶ Embed          (or Survey first, where names or tags hold the places)
    NGCG's, of tiles          Survey ──▶ Decode ──▶ Embed
    NGCG's, of texts          Survey ──▶ Say ──▶ Embed

A folder is NGCG's if its card says so, or if it holds a multimodal LLM as it was published (`methods.ngcg.families`). With an
encoder of images places come from the truth file or else from EXIF, unless --places says otherwise: photographs are not looked
upon as tiles because of how they are called. With NGCG's the default asks tile by tile (`benchmark.survey`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.survey import Places, Survey
from geobatch.engine.gallery import read_record
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.geotoken.embed import Embed
from geobatch.methods.ngcg import embed as ngcg
from geobatch.methods.ngcg.families import FAMILIES
from geobatch.methods.ngcg.say import Say
from geobatch.methods.ngcg.serve import Serving
from geobatch.pipeline.flow import described
from geobatch.pipeline.folder import CARD, card, fingerprint_of, fingerprint_of_weights, local_folder
from geobatch.pipeline.ngcg_model import METHOD, Opened, open_model
from geobatch.store import Store, StoreConfig

_KINDS = tuple(kind for family in FAMILIES for kind in family.kinds)
_LARGE_PICTURES = 64  # of a slice: 0.6 MB each at 448 pixels, 0.8 at 512


class Asked(Protocol):
    """What of a job's arguments is read here (`geobatch.pipeline.build_gallery.BuildGallery`)."""

    @property
    def archive(self) -> str:
        """Where the images or texts lie."""

    @property
    def encoder(self) -> str:
        """Folder of the encoder."""

    @property
    def truth(self) -> str | None:
        """File of coordinates."""

    @property
    def places(self) -> Places:
        """Where places come from."""

    @property
    def footprint_km(self) -> float:
        """Of tiles that state none."""

    @property
    def texts(self) -> str:
        """Column of texts, or nothing."""

    @property
    def include(self) -> tuple[str, ...]:
        """Globs."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Globs."""

    @property
    def decode(self) -> DecodeConfig:
        """How pictures are decoded."""

    @property
    def batch(self) -> int:
        """Pictures at a time, of an encoder of images."""

    @property
    def serving(self) -> Serving:
        """How NGCG's encoder is served."""

    @property
    def gpus(self) -> float:
        """Of each actor that embeds."""

    @property
    def store(self) -> StoreConfig:
        """How buckets are reached."""


@dataclass(frozen=True)
class Embedding:
    """An encoder in its river.

    Fields:
        archive: what is read, and as what.
        river: the stages between Read and Write.
        decides: what decides a row, as JSON.
        views: names and sizes of a vector's views, in order; None for one. Opens the encoder.
        encoder: fingerprint by which a gallery knows its own encoder.
    """

    archive: ArchiveConfig
    river: list[Hands]
    decides: dict[str, Any]
    views: Callable[[], dict[str, int] | None]
    encoder: str


def embedding(asked: Asked, store: Store, workers: int) -> Embedding:
    """Opens the encoder's folder and puts the river together.

    Raises:
        UserError: there is no such encoder, or settings do not fit it.
    """
    if asked.truth is not None and asked.places not in ("auto", "truth"):
        raise UserError(f"--places {asked.places} does not read --truth {asked.truth}; leave one of both out")
    if asked.footprint_km < 0:
        raise UserError(f"--footprint-km {asked.footprint_km} is no size; give the side of the ground that a tile shows")
    if _is_ngcg(local_folder(store, asked.encoder, "encoder", outline=True)):
        return _ngcg(asked, open_model(store, asked.encoder), workers)  # its base may lie beside it in the bucket
    if asked.texts or asked.places == "none":
        flag = f"--texts {asked.texts}" if asked.texts else "--places none"
        raise UserError(f"{asked.encoder} is an encoder of images that looks for places; {flag} needs a model of ngcg_train.py")
    return _images(asked, local_folder(store, asked.encoder, "encoder"), workers)


def suits(gallery: Path, encoder: Path) -> None:
    """A gallery made by hand, which has no source, may be of anybody; older ones do not say.

    Raises:
        UserError: the gallery's vectors are of another encoder of images than the one in that folder is now.
    """
    record = read_record(gallery)
    maker = record.get("encoder") if record.get("source") else None
    if maker is not None and maker != fingerprint_of_weights(encoder) and maker != fingerprint_of(encoder):  # as older ones say
        raise UserError(
            f"{gallery} is a gallery of another encoder than {encoder}, or of that one before it was trained again; build it "
            "again with jobs/build_gallery.py --relocate and this encoder"
        )


def _is_ngcg(folder: Path) -> bool:
    if (folder / CARD).is_file():
        return card(folder).get("method") == METHOD
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return kind in _KINDS


def _images(asked: Asked, encoder: Path, workers: int) -> Embedding:
    places: Places = asked.places
    if places == "auto":
        places = "exif" if asked.truth is None else "truth"
    decides: dict[str, Any] = {
        "encoder": fingerprint_of(encoder),
        "truth": asked.truth,
        "decode": described(asked.decode),
        "batch": asked.batch,
    }
    if places not in ("truth", "exif"):
        decides["places"] = places
    if asked.footprint_km:
        decides["footprint_km"] = asked.footprint_km
    make = {"encoder": str(encoder), "batch": asked.batch, "device": "cuda" if asked.gpus else "cpu"}

    def views() -> dict[str, int]:
        vision = Vision(str(encoder), device="cpu")
        return dict(zip(vision.views, vision.view_sizes, strict=True))

    return Embedding(
        archive=ArchiveConfig(uri=asked.archive, include=asked.include, exclude=asked.exclude),
        river=[
            *_placed(asked, places, Hands(stage=Decode, make={"config": asked.decode}, workers=workers, deadline=0.0)),
            Hands(stage=Embed, make=make, workers=workers, gpus=asked.gpus),
        ],
        decides=decides,
        views=views,
        encoder=fingerprint_of_weights(encoder),
    )


def _ngcg(asked: Asked, opened: Opened, workers: int) -> Embedding:
    if asked.texts and asked.places in ("exif", "geotiff"):
        raise UserError(f"texts have no {asked.places} places; use --places truth, names or none")
    side: Literal["texts", "pictures"] = "texts" if asked.texts else "pictures"
    gpus = asked.gpus or asked.serving.gpus
    serving = replace(asked.serving, gpus=gpus)
    decode = asked.decode
    if decode.side == DecodeConfig.side:
        decode = replace(decode, side=opened.side)
    decides: dict[str, Any] = {
        "encoder": opened.fingerprint,
        "texts": asked.texts,
        "truth": asked.truth,
        "places": asked.places,
        "footprint_km": asked.footprint_km,
        "dtype": serving.dtype,
        "quantise": serving.quantise,
        **({} if asked.texts else {"decode": described(decode)}),
    }
    first = (
        Hands(stage=Say, cpus=0.5)
        if asked.texts
        else Hands(stage=Decode, make={"config": decode}, workers=workers, deadline=0.0)
    )
    embed = ngcg.hands(opened.model, serving, side, workers, 0 if asked.texts else _LARGE_PICTURES)
    rows = {} if asked.texts else {"shard_rows": _LARGE_PICTURES}
    return Embedding(
        archive=ArchiveConfig(uri=asked.archive, include=asked.include, exclude=asked.exclude, texts=asked.texts, **rows),
        river=[*_placed(asked, asked.places, first), embed],
        decides=decides,
        views=lambda: None,
        encoder=opened.fingerprint,
    )


def _placed(asked: Asked, places: Places, opens: Hands) -> list[Hands]:
    """Survey and the stage that opens the bytes. EXIF is known only then; a truth file keeps the order it always had."""
    make = {"places": places, "truth": asked.truth, "store": asked.store, "footprint_km": asked.footprint_km}
    survey = Hands(stage=Survey, make=make)
    return [opens, survey] if places in ("truth", "exif") else [survey, opens]
