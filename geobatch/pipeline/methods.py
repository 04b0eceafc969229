"""Which method locates, with which folders, and what of all that decides a row.

A model folder with a card (`geobatch.json`) names its method. A vision-language model as it was published has none: it is asked
zero-shot with `--method geolocsft`, or embeds texts and tiles with `--method ngcg`. GeoCLIP is CLIP as it was published and
four files beside it: `--method geoclip`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from geobatch.actors import Hands
from geobatch.archive.texts import holds_texts
from geobatch.engine import scripted
from geobatch.errors import UserError
from geobatch.methods.geoclip import locate as geoclip
from geobatch.methods.geolocsft import locate as geolocsft
from geobatch.methods.geotoken import locate as geotoken
from geobatch.methods.geotoken.calibration import FILE, Calibration
from geobatch.methods.geotoken.reward import REWARD
from geobatch.methods.ngcg import locate as ngcg
from geobatch.pipeline.embedding import suits
from geobatch.pipeline.folder import (
    CARD,
    RECORD,
    base_of,
    beside,
    card,
    fingerprint_of,
    fingerprint_of_base,
    has_card,
    is_path,
    local_folder,
)
from geobatch.pipeline.ngcg_model import METHOD, Opened, open_model
from geobatch.progress import say
from geobatch.store import Store, StoreConfig, StoreOverride

#: Each has `Locate`, its settings.
METHODS = ("geotoken", "geolocsft", "geoclip", METHOD)


class Asked(Protocol):
    """What of the job's arguments is read here."""

    @property
    def archive(self) -> str:
        """Folder, prefix or file."""

    @property
    def model(self) -> str:
        """Folder, s3:// prefix or hub name."""

    @property
    def gallery(self) -> str | None:
        """Folder or s3:// prefix."""

    @property
    def method(self) -> str | None:
        """Name of the method."""

    @property
    def geotoken(self) -> geotoken.Locate:
        """Settings."""

    @property
    def geolocsft(self) -> geolocsft.Locate:
        """Settings."""

    @property
    def geoclip(self) -> geoclip.Locate:
        """Settings."""

    @property
    def ngcg(self) -> ngcg.Locate:
        """Settings."""

    @property
    def store(self) -> StoreConfig:
        """How buckets are reached."""

    @property
    def archive_store(self) -> StoreOverride:
        """What is different about the archive's."""


@dataclass(frozen=True)
class Chosen:
    """A method that is ready to be put into a river.

    Fields:
        method: its name.
        decides: what of model, gallery and settings decides a row, as JSON.
        river: its stages, from pictures to places.
        side: pixels of the pictures' shorter side that the model was made for, or None.
        far: whether pictures travel beyond the first stage, so that slices must be small.
        texts: the archive's column of texts, "auto" for the one that it has; empty: it holds images.
    """

    method: str
    decides: dict[str, Any]
    river: list[Hands]
    side: int | None = None
    far: bool = False
    texts: str = ""


def choose(store: Store, asked: Asked, workers: int) -> Chosen:
    """Resolves the job's model.

    Raises:
        UserError: there is no such method or folder, or they do not fit each other.
    """
    if asked.method is not None and asked.method not in METHODS:
        raise UserError(f"there is no method {asked.method!r}; use one of {', '.join(METHODS)}")
    if asked.method == "geolocsft" and not has_card(store, asked.model):
        who = geolocsft.Student(base=base_of(store, asked.model, outline=True), form=asked.geolocsft.form)
        return _geolocsft(store, asked, who, {}, workers, geolocsft.SIDE)
    if asked.method == "geoclip":
        return _geoclip(store, asked, workers)
    if asked.method == METHOD:
        return _ngcg(store, asked, open_model(store, asked.model), workers)
    folder = local_folder(store, asked.model, "model")
    about = card(folder)
    if asked.method not in (None, about["method"]):
        raise UserError(f"{asked.model} is a model of {about['method']}, not of {asked.method}; leave --method out")
    if about["method"] == "geotoken":
        return _geotoken(store, asked, folder, about, workers)
    if about["method"] == "geolocsft":
        named = str(about["base"])
        who = geolocsft.Student(
            base=base_of(store, beside(asked.model, named) if is_path(named) else named, outline=True),
            adapter=str(folder / about["adapter"]),
            form=about["form"],
        )
        if is_path(named) and about.get("base_fingerprint") not in (None, fingerprint_of_base(who.base)):
            raise UserError(
                f"{who.base} is not the base that {asked.model} was trained on, or has changed since; restore it or train again"
            )
        adapter = fingerprint_of(folder / about["adapter"], leave=("README.md",))
        side = about.get("config", {}).get("decode", {}).get("side", geolocsft.SIDE)
        return _geolocsft(store, asked, who, {"adapter": adapter}, workers, side)
    if about["method"] == METHOD:
        return _ngcg(store, asked, open_model(store, asked.model), workers)
    raise UserError(f"{asked.model} is of method {about['method']!r}, which this version does not have; use another version")


def _geotoken(store: Store, asked: Asked, folder: Path, about: dict[str, Any], workers: int) -> Chosen:
    named = asked.gallery or (beside(asked.model, about["gallery"]) if about.get("gallery") else None)
    if named is None:
        raise UserError(f"{asked.model} names no gallery; give --gallery, made by jobs/build_gallery.py")
    gallery = local_folder(store, named, "gallery")
    suits(gallery, folder / geotoken.ENCODER)
    settings, judge = asked.geotoken, {}
    if settings.judge.model:
        base = base_of(store, settings.judge.model, outline=True)
        if not _speaks(base):
            raise UserError(f"{base} holds no vision-language model (no config.json); a judge is one")
        settings = replace(settings, judge=replace(settings.judge, model=base))
        judge = {"judge": fingerprint_of_base(base)}
    if settings.judge.endpoint.url:
        say(f"pictures and the places proposed for them are sent to {settings.judge.endpoint.url}, as "
            "--geotoken.judge.endpoint.url asks")  # fmt: skip
    fitted = Calibration.load(folder) if settings.selection.calibrated else None
    selector = geotoken.selection(settings).selector
    if fitted is not None and fitted.selector != selector:
        say(f"{asked.model} is calibrated for places chosen by {fitted.selector}: what is stated of places chosen by "
            f"{selector} goes through maps fitted to others")  # fmt: skip
    decides = {
        "model": fingerprint_of(folder, leave=(CARD, RECORD, *_unread(settings))),
        "gallery": geotoken.gallery_fingerprint(gallery),
        "settings": geotoken.decides(settings),
        **judge,
    }
    return Chosen("geotoken", decides, geotoken.river(folder, gallery, settings, workers), far=settings.judge.asked)


def _unread(settings: geotoken.Locate) -> list[str]:
    """Parts of the model's folder that these settings do not open: what happens to them decides no row."""
    selection = settings.selection
    return [name for name, read in ((REWARD, selection.selector == "reward"), (FILE, selection.calibrated)) if not read]


def _speaks(base: str) -> bool:
    """Whether a folder holds a vision-language model, or a table that answers for one."""
    return any((Path(base) / name).is_file() for name in ("config.json", scripted.FILE))


def _geoclip(store: Store, asked: Asked, workers: int) -> Chosen:
    # A name of the hub stays a name: all of that repository is four times what one framework reads.
    backbone = str(local_folder(store, asked.model, "CLIP", outline=True)) if is_path(asked.model) else asked.model
    settings = asked.geoclip
    if settings.weights is not None:
        settings = replace(settings, weights=str(local_folder(store, settings.weights, "GeoCLIP weights")))
    decides = {**geoclip.decides(settings), "base": fingerprint_of_base(backbone)}
    return Chosen("geoclip", decides, geoclip.river(backbone, settings, workers))


def _geolocsft(store: Store, asked: Asked, who: geolocsft.Student, trained: dict[str, Any], workers: int, side: int) -> Chosen:
    settings = asked.geolocsft
    if not _speaks(who.base):
        raise UserError(f"{who.base} holds no vision-language model (no config.json); give the whole folder of one")
    decides = {**geolocsft.decides(who, settings), "base": fingerprint_of_base(who.base), **trained}
    if settings.hints:
        if asked.gallery is None or settings.hint_encoder is None:
            raise UserError("hints come from a gallery and its encoder; give --gallery and --geolocsft.hint-encoder")
        gallery = local_folder(store, asked.gallery, "gallery")
        encoder = local_folder(store, settings.hint_encoder, "encoder")
        suits(gallery, encoder)
        decides |= {"gallery": geotoken.gallery_fingerprint(gallery), "encoder": fingerprint_of(encoder)}
        who = replace(who, gallery=str(gallery), encoder=str(encoder))
    return Chosen("geolocsft", decides, geolocsft.river(who, settings, workers), side, far=True)


def _ngcg(store: Store, asked: Asked, encoder: Opened, workers: int) -> Chosen:
    settings = asked.ngcg
    named = asked.gallery or (beside(asked.model, encoder.card["gallery"]) if encoder.card.get("gallery") else None)
    if named is None:
        raise UserError("no gallery is named; give --gallery, made by jobs/build_gallery.py --encoder with the same model")
    gallery = local_folder(store, named, "gallery")
    encoder.suits(gallery)
    texts = settings.queries == "texts" or (settings.queries == "auto" and _said(asked))
    described = {}
    if texts and settings.describe:
        raise UserError(f"{asked.archive} holds texts, which need no --ngcg.describe; leave it out")
    if settings.describe:
        base = base_of(store, settings.describe, outline=True)
        if not _speaks(base):
            raise UserError(f"{base} holds no vision-language model (no config.json); photographs are described by one")
        settings = replace(settings, describe=base)
        described = {"describes": fingerprint_of_base(base)}
    decides = {
        "model": encoder.fingerprint,
        "gallery": geotoken.gallery_fingerprint(gallery),
        "settings": ngcg.decides(settings, texts),
        "points": settings.area.decides(store)["file"],
        **described,
    }
    river = ngcg.river(encoder.model, gallery, settings, workers, texts, asked.store)
    side = geolocsft.SIDE if settings.describe else encoder.side
    return Chosen(METHOD, decides, river, side, far=not texts, texts=settings.column if texts else "")


def _said(asked: Asked) -> bool:
    """Whether the archive is one of texts: a column of them is named, or it looks like one."""
    return asked.ngcg.column != "auto" or holds_texts(Store(asked.archive_store.over(asked.store)), asked.archive)
