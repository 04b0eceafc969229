"""The method as a river: pictures in, places out; and its last stage alone, for encoders that were aligned here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geobatch.actors import Hands
from geobatch.engine import heads
from geobatch.engine.vision import Precision
from geobatch.errors import UserError
from geobatch.methods.geoclip.config import Matching
from geobatch.methods.geoclip.embed import Embed
from geobatch.methods.geoclip.match import Match
from geobatch.methods.geoclip.weights import find, logit_scale

#: The view that Geo-Alignment trains against places, where an encoder has several.
LOCATION = "location"


@dataclass(frozen=True, kw_only=True)
class Locate:
    """Settings of GeoCLIP."""

    weights: str | None = None
    """Folder of the published weights and coordinates, the same on every machine; default: the installed geoclip package's."""
    matching: Matching = field(default_factory=Matching)
    """How a vector becomes a place."""
    batch: int = 64
    """Pictures that CLIP takes at a time."""
    precision: Precision = "auto"
    """Arithmetic of CLIP; the head and all that follows is float32."""
    gpus: float = 0.0
    """GPUs of each Embed and each Match actor; fractions share one."""


def river(backbone: str, settings: Locate, workers: int) -> list[Hands]:
    """Embed → Match, each with its hands.

    Args:
        backbone: folder or hub name of CLIP ViT-L/14.
        settings: of the method.
        workers: actors of each stage, at most.

    Raises:
        UserError: a file of the weights is missing or holds something else.
    """
    files = find(Path(settings.weights) if settings.weights else None)
    device = "cuda" if settings.gpus else "cpu"
    embed = {
        "model": backbone,
        "head": str(files.head),
        "batch": settings.batch,
        "precision": settings.precision,
        "device": device,
    }
    match = {
        "encoder": str(files.location),
        "places": str(files.places),
        "scale": logit_scale(files.scale),
        "matching": settings.matching,
        "device": device,
    }
    return [
        Hands(stage=Embed, make=embed, workers=workers, gpus=settings.gpus),
        Hands(stage=Match, make=match, workers=workers, gpus=settings.gpus),
    ]


def aligned(
    encoder: Path, places: Path, matching: Matching | None = None, scale: float = 40.0, view: str = LOCATION, workers: int = 1
) -> Hands:
    """Match for vectors of an image encoder that was aligned here with a location encoder: GeoCLIP-style retrieval.

    Args:
        encoder: folder of the image encoder, with the `gps.json` of the location encoder in it.
        places: CSV of coordinates, or a gallery's folder, whose places are then the answers.
        matching: how a vector becomes a place.
        scale: factor of the cosines before the softmax, as learned in training; the most similar place does not depend on it,
            the probabilities do.
        view: the one that was trained against places; an encoder of one view has no other.
        workers: actors at most.

    Raises:
        UserError: the encoder has several views and none of that name.
    """
    found = heads.read(encoder)
    part = None
    if len(found) > 1:
        if view not in found:
            raise UserError(
                f"{encoder} has the views {', '.join(found)} and no {view}; name the one that was trained on places"
            )
        channels = next(head.channels for head in found.values() if head is not None)
        sizes = [channels if head is None else head.config.size for head in found.values()]
        at = list(found).index(view)
        part = (sum(sizes[:at]), sizes[at])
    make = {"encoder": str(encoder), "places": str(places), "scale": scale, "matching": matching, "view": part}
    return Hands(stage=Match, make=make, workers=workers)


def decides(settings: Locate) -> dict[str, Any]:
    """Of weights and settings, what decides a row: where the files lie and how fast they are served does not.

    Raises:
        UserError: a file of the weights is missing.
    """
    return {
        "weights": find(Path(settings.weights) if settings.weights else None).fingerprint,
        "matching": asdict(settings.matching),
        "precision": settings.precision,
    }
