"""The method as a river: texts or photographs in, places out.

    texts:                           Say ──▶ Embed ──▶ Match
    photographs, embedded directly:       Decode ──▶ Embed ──▶ Match
    photographs, described first:         Decode ──▶ Describe ──▶ Embed ──▶ Match

Where a photograph is embedded directly it goes through the side that tiles go through, which has seen tiles only: it finds
what looks like it, so it suits pictures from above. A photograph from the street is better described.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from geobatch.actors import AHEAD, Hands
from geobatch.engine.gallery import load, read_record
from geobatch.engine.opening import on_gpus
from geobatch.engine.request import GeneratorConfig
from geobatch.errors import UserError
from geobatch.methods.ngcg.area import Area, known_countries
from geobatch.methods.ngcg.describe import Describe, Describing
from geobatch.methods.ngcg.match import Match, placed
from geobatch.methods.ngcg.say import Say
from geobatch.methods.ngcg.serve import Model, Serving
from geobatch.store import StoreConfig


@dataclass(frozen=True, kw_only=True)
class Locate:
    """Settings of NGCG."""

    queries: Literal["auto", "texts", "photographs"] = "auto"
    """What the archive holds; "auto": texts where it is a CSV, JSON, JSON Lines or Parquet file (or a folder of such) with a
    column of texts and none of images or URIs."""
    column: str = "auto"
    """Column of the texts; "auto": text, caption, description, query or sentence, the first that is there."""
    k: int = 10
    """Most similar tiles that are candidates."""
    area: Area = field(default_factory=Area)
    """Where rows may be found."""
    describe: str = ""
    """Folder or hub name of a vision-language model that puts photographs into words; empty: they are embedded as they are."""
    describing: Describing = field(default_factory=Describing)
    """How it is asked."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """How it is served."""
    engines: int = 1
    """Copies of it at most, each on GPUs of its own."""
    serving: Serving = field(default_factory=Serving)
    """How the encoder is served."""
    shards: int = 0
    """Actors that hold a part of the gallery each, for one that outgrows a machine's memory; 0: Match opens all of it."""
    gallery_gpus: float = 0.0
    """GPUs of the Match actor; above 0 the gallery is searched there, where FAISS is built for it. Not with `shards`."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.engines < 1:
            raise UserError(f"{self.k} candidates by {self.engines} engines are none; give at least 1 of both")
        if self.shards and self.gallery_gpus:
            raise UserError("shards of a gallery are searched on the CPU; ask for shards or for gallery-gpus, not for both")
        if self.describe and self.queries == "texts":
            raise UserError("texts need no --ngcg.describe, which puts photographs into words; leave one out")


def river(
    model: Model, gallery: Path, settings: Locate, workers: int, texts: bool = False, store: StoreConfig | None = None
) -> list[Hands]:
    """The stages between Say or Decode and LOCATED, each with its hands.

    Args:
        model: the encoder.
        gallery: folder that build_gallery.py made with it.
        settings: of the method; the describing model is a local folder by now.
        workers: actors of each heavy stage, at most.
        texts: whether the archive holds texts.
        store: reaches the area's file of points.

    Raises:
        UserError: the gallery has no places, or an area is of no country.
    """
    from geobatch.methods.ngcg.embed import AT_ONCE, hands  # torch and the networks, which other methods' jobs do without

    placed(load(gallery), str(gallery))
    known_countries(settings.area.countries)
    stages = []
    if settings.describe:
        gpus = settings.generator.tensor_parallel if on_gpus(settings.describe, settings.generator) else 0
        make: dict[str, Any] = {
            "model": settings.describe,
            "describing": settings.describing,
            "generator": settings.generator,
        }
        stages.append(Hands(stage=Describe, make=make, workers=settings.engines, gpus=gpus, at_once=AT_ONCE))
    side: Literal["texts", "pictures"] = "texts" if texts or settings.describe else "pictures"
    stages.append(hands(model, settings.serving, side, workers))
    match = {
        "gallery": str(gallery),
        "k": settings.k,
        "area": settings.area,
        "store": store,
        "fingerprint": read_record(gallery)["fingerprint"],
        "gpu": settings.gallery_gpus > 0,
        "shards": settings.shards,
    }
    stages.append(Hands(stage=Match, make=match, gpus=settings.gallery_gpus, ahead=AHEAD))
    return stages


def saying() -> Hands:
    """The stage that a river over texts begins with, in the place of Decode."""
    return Hands(stage=Say, cpus=0.5, ahead=AHEAD)


def decides(settings: Locate, texts: bool) -> dict[str, Any]:
    """Of settings and prompt, what decides a row: on what and how fast it is computed does not.

    The encoder, the gallery, the describing model and the area's file are the caller's to fingerprint.
    """
    described = {}
    if settings.describe:
        generator = settings.generator
        described = {**settings.describing.decides(), "dtype": generator.dtype, "context": generator.context}
    return {
        "queries": "texts" if texts else "photographs",
        "column": settings.column if texts else None,
        "k": settings.k,
        "area": {**asdict(settings.area), "file": None},
        "describing": described,
        "dtype": settings.serving.dtype,
        "quantise": settings.serving.quantise,
    }
