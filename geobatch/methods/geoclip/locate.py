"""The method as a river: pictures in, places out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geobatch.actors import Hands
from geobatch.engine.vision import Precision
from geobatch.methods.geoclip.config import Matching
from geobatch.methods.geoclip.embed import Embed
from geobatch.methods.geoclip.match import Match
from geobatch.methods.geoclip.weights import find, logit_scale

#: The backbone that the published head was trained on.
BACKBONE = "openai/clip-vit-large-patch14"


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
    embed = {"model": backbone, "head": str(files.head), "batch": settings.batch, "precision": settings.precision}
    match = {
        "encoder": str(files.location),
        "places": str(files.places),
        "scale": logit_scale(files.scale),
        "matching": settings.matching,
        "device": "cuda" if settings.gpus else "cpu",
    }
    return [
        Hands(stage=Embed, make=embed, workers=workers, gpus=settings.gpus),
        Hands(stage=Match, make=match, workers=workers, gpus=settings.gpus),
    ]


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
