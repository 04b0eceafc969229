"""The method as a river: pictures in, places out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geobatch.actors import AHEAD, Hands
from geobatch.engine.gallery import read_record
from geobatch.engine.opening import on_gpus
from geobatch.engine.request import GeneratorConfig
from geobatch.methods.geolocsft.agree import Agree, Consensus
from geobatch.methods.geolocsft.ask import Ask, Asking
from geobatch.methods.geolocsft.hint import Hint
from geobatch.methods.geolocsft.prompts import Form, student

#: Pixels of a picture's shorter side where nothing says otherwise: what Gemma 3 reads.
SIDE = 896

#: Slices that one engine works on at a time, so that it does not run dry between them.
AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Locate:
    """Settings of GeoLocSFT."""

    asking: Asking = field(default_factory=Asking)
    """How a picture is asked about."""
    consensus: Consensus = field(default_factory=lambda: Consensus(first=3.0))
    """How several answers become one place."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """How the model is served."""
    engines: int = 1
    """Copies of the model at most, each on GPUs of its own."""
    form: Form = "tag"
    """How a model without a card is asked to answer; a tuned model's card knows how it was taught."""
    hints: int = 0
    """Nearest places of --gallery that the question tells, made by --geolocsft.hint-encoder; 0: none."""
    hint_encoder: str | None = None
    """Folder of the encoder that built the gallery."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """A model that answers.

    Fields:
        base: folder or hub name.
        adapter: folder of a PEFT adapter, or None.
        form: how it answers.
        gallery, encoder: folders for hints, or None.
    """

    base: str
    adapter: str | None = None
    form: Form = "tag"
    gallery: str | None = None
    encoder: str | None = None


def river(who: Student, settings: Locate, workers: int) -> list[Hands]:
    """The stages between decoded pictures and LOCATED."""
    stages = []
    if settings.hints and who.gallery and who.encoder:
        made = {
            "encoder": who.encoder,
            "gallery": who.gallery,
            "count": settings.hints,
            "fingerprint": read_record(Path(who.gallery))["fingerprint"],
        }
        stages.append(Hands(stage=Hint, make=made, workers=workers))
    asks = {
        "base": who.base,
        "adapter": who.adapter,
        "form": who.form,
        "asking": settings.asking,
        "generator": settings.generator,
    }
    gpus = settings.generator.tensor_parallel if on_gpus(who.base, settings.generator) else 0
    stages.append(Hands(stage=Ask, make=asks, workers=settings.engines, gpus=gpus, at_once=AT_ONCE))
    stages.append(Hands(stage=Agree, make={"config": settings.consensus}, cpus=0.5, ahead=AHEAD))
    return stages


def decides(who: Student, settings: Locate) -> dict[str, Any]:
    """Of settings and prompts, what decides a row: how fast it is served, and by whom, does not."""
    prompt = asdict(student(who.form))
    return {
        "asking": asdict(settings.asking),
        "consensus": asdict(settings.consensus),
        "form": who.form,
        "hints": settings.hints,
        "dtype": settings.generator.dtype,
        "context": settings.generator.context,
        "prompt": hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest(),
    }
