"""The method as a river: pictures in, places out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from geobatch.actors import Hands
from geobatch.engine.gallery import load
from geobatch.engine.vision import Precision
from geobatch.methods.geotoken.config import Sampling, Selection
from geobatch.methods.geotoken.embed import Embed
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.select import Select

#: Parts of a model's folder.
ENCODER, NETWORK = "encoder", "geotoken"


@dataclass(frozen=True, kw_only=True)
class Locate:
    """Settings of GeoToken."""

    sampling: Sampling = field(default_factory=Sampling)
    """How candidates are drawn."""
    selection: Selection = field(default_factory=Selection)
    """How one of them becomes the place."""
    batch: int = 256
    """Pictures that the encoder takes at a time."""
    precision: Precision = "auto"
    """Arithmetic of the encoder."""
    neighbours: int = 0
    """Neighbours retrieved, of which the network reads as many as it was made for; 0: just these."""
    gpus: float = 0.0
    """GPUs of each Embed and each Sample actor; fractions share one."""


def river(model: Path, gallery: Path, settings: Locate, workers: int) -> list[Hands]:
    """Embed → Retrieve → Sample → Select, each with its hands.

    Args:
        model: folder that geotoken_train.py made.
        gallery: folder that build_gallery.py made.
        settings: of the method.
        workers: actors of each heavy stage, at most.
    """
    network = GeoTokenModel.load(model / NETWORK).config
    embed = {"encoder": str(model / ENCODER), "batch": settings.batch, "precision": settings.precision}
    retrieve = {
        "gallery": str(gallery),
        "neighbours": max(network.neighbours, settings.neighbours),
        "between": network.between,
    }
    sample = {"model": str(model / NETWORK), "sampling": settings.sampling, "device": "cuda" if settings.gpus else "cpu"}
    return [
        Hands(stage=Embed, make=embed, workers=workers, gpus=settings.gpus),
        Hands(stage=Retrieve, make=retrieve),
        Hands(stage=Sample, make=sample, workers=workers, gpus=settings.gpus),
        Hands(stage=Select, make={"selection": settings.selection.suited(network.between), "gallery": str(gallery)}),
    ]


def gallery_fingerprint(gallery: Path) -> str:
    """What of a gallery decides a row."""
    return load(gallery).fingerprint
