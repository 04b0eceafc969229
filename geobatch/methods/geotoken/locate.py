"""The method as a river: pictures in, places out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from geobatch.actors import AHEAD, Hands
from geobatch.engine.gallery import load, read_record
from geobatch.engine.opening import on_gpus
from geobatch.engine.vision import Precision
from geobatch.errors import UserError
from geobatch.methods.geotoken.config import Sampling, Selection
from geobatch.methods.geotoken.embed import Embed
from geobatch.methods.geotoken.judge import Judge, JudgeSettings
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.methods.geotoken.reward import REWARD, Reward
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.select import Select

#: Parts of a model's folder.
ENCODER, NETWORK = "encoder", "geotoken"

#: Slices that one judge works on at a time, so that its engine does not run dry between them.
AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Locate:
    """Settings of GeoToken."""

    sampling: Sampling = field(default_factory=Sampling)
    """How candidates are drawn."""
    selection: Selection = field(default_factory=Selection)
    """How one of them becomes the place."""
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    """Who looks at the picture again and decides between the places."""
    batch: int = 256
    """Pictures that the encoder takes at a time."""
    precision: Precision = "auto"
    """Arithmetic of the encoder."""
    neighbours: int = 0
    """Neighbours retrieved, of which the network reads as many as it was made for; 0: just these."""
    shards: int = 0
    """Actors that hold a part of the gallery each; 0: every Retrieve actor opens all of it. Select maps it whole either way."""
    gpus: float = 0.0
    """GPUs of each Embed, Sample and Reward actor; fractions share one."""
    gallery_gpus: float = 0.0
    """GPUs of the Retrieve actor; above 0 the gallery is searched there, where FAISS is built for it. Not with `shards`."""


def river(model: Path, gallery: Path, settings: Locate, workers: int) -> list[Hands]:
    """Embed → Retrieve → Sample → Select, each with its hands; Reward before Select and Judge behind it where they are asked.

    Args:
        model: folder that geotoken_train.py made.
        gallery: folder that build_gallery.py made.
        settings: of the method; the judge's model is a local folder by now.
        workers: actors of each heavy stage, at most.

    Raises:
        UserError: the selector is "judge" and nobody judges, or "reward" and the model has no reward model; a gallery in
            shards is to be searched on GPUs.
    """
    if settings.shards and settings.gallery_gpus:
        raise UserError("shards of a gallery are searched on the CPU; ask for shards or for gallery_gpus, not for both")
    network = GeoTokenModel.load(model / NETWORK).config
    device = "cuda" if settings.gpus else "cpu"
    embed = {
        "encoder": str(model / ENCODER),
        "batch": settings.batch,
        "precision": settings.precision,
        "keep_picture": settings.judge.asked,
        "device": device,
    }
    retrieve = {
        "gallery": str(gallery),
        "neighbours": max(network.neighbours, settings.neighbours),
        "between": network.between,
        "shards": settings.shards,
        "fingerprint": read_record(gallery)["fingerprint"],
        "gpu": settings.gallery_gpus > 0,
    }
    rewarded = settings.selection.selector == "reward"
    if rewarded and not (model / REWARD).is_dir():
        raise UserError(
            f"the selector is the reward and {model} has no reward model; train one with geotoken_train.py --reward"
        )
    sample = {"model": str(model / NETWORK), "sampling": settings.sampling, "device": device, "pass_on": rewarded}
    select = {
        "selection": selection(settings).suited(network.between),
        "gallery": str(gallery),
        "calibration": str(model),
        "fingerprint": retrieve["fingerprint"],
    }
    stages = [
        Hands(stage=Embed, make=embed, workers=workers, gpus=settings.gpus),
        Hands(stage=Retrieve, make=retrieve, gpus=settings.gallery_gpus, ahead=AHEAD),
        Hands(stage=Sample, make=sample, workers=workers, gpus=settings.gpus),
    ]
    if rewarded:
        reward = {"model": str(model / REWARD), "device": device}
        stages.append(Hands(stage=Reward, make=reward, workers=workers, gpus=settings.gpus))
    stages.append(Hands(stage=Select, make=select, ahead=AHEAD))
    if settings.judge.asked:
        told = settings.judge
        local = bool(told.model) and on_gpus(told.model, told.generator)
        gpus = told.generator.tensor_parallel if local else 0
        make = {"settings": told, "selection": select["selection"], "calibration": str(model)}
        stages.append(Hands(stage=Judge, make=make, workers=told.engines, gpus=gpus, at_once=AT_ONCE))
    return stages


def selection(settings: Locate) -> Selection:
    """What `Select` does; before a judge it is what an image falls back on, the default where the selector is "judge".

    Raises:
        UserError: the selector is "judge" and nobody judges.
    """
    if settings.selection.selector != "judge":
        return settings.selection
    if not settings.judge.asked:
        raise UserError("the selector is the judge and there is none; give its folder with judge.model, or judge.endpoint.url")
    return replace(settings.selection, selector=Selection().selector)


def decides(settings: Locate) -> dict[str, Any]:
    """Of settings and prompts, what decides a row: on what and how fast it is computed does not.

    The folders of the model, the gallery and the judge are the caller's to fingerprint.
    """
    told = asdict(replace(settings, selection=selection(settings)))
    named = {name: told[name] for name in ("sampling", "selection", "precision", "neighbours")}
    named["sampling"] = {name: value for name, value in told["sampling"].items() if name not in ("batch", "compile")}
    return {**named, "judge": settings.judge.decides()}


def gallery_fingerprint(gallery: Path) -> str:
    """What of a gallery decides a row."""
    return load(gallery).fingerprint
