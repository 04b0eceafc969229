"""A model learns how sure it may be: its places for images whose truth is known become `calibration.json` in its folder.

`geotoken_train` does this itself on the images it keeps out. This job is for what the model meets later: another camera,
another region, other settings of the draws. The images must be in neither its training nor its gallery, and the figures
that prove the calibration must come from others again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geobatch.benchmark.truth import load_truth, truth_from_exif
from geobatch.errors import UserError
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.calibration import FILE, Calibration
from geobatch.methods.geotoken.config import Selection
from geobatch.pipeline.folder import CARD, card
from geobatch.progress import say
from geobatch.schema import RADII_KM
from geobatch.sink import read
from geobatch.store import Store, StoreConfig


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fits a model's calibration to a table that it made."""

    places: str
    """The --output of geolocate_bucket.py for labelled images that the model was not trained on."""
    model: str
    """Folder of the model that made it, on this machine; `calibration.json` is written there, in place of one that is."""
    truth: str | None = None
    """CSV or Parquet of image_id, latitude, longitude; default: the images' own EXIF positions."""
    selection: Selection = field(default_factory=Selection)
    """How places will be chosen: the fit is for this selector's places, or the default's where it needs more than the table."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def calibrate(config: Calibrate) -> Calibration:
    """Runs the job.

    Raises:
        UserError: there is no finished table, no such model, or too few images with a known place.
    """
    folder = Path(config.model.removeprefix("file://"))
    if not folder.is_dir():
        raise UserError(f"{config.model} is no folder of this machine, where calibration.json is to go; copy the model here")
    if card(folder)["method"] != "geotoken":
        raise UserError(f"{folder / CARD} names another method; only models of GeoToken are calibrated")
    places = read(config.places, store=config.store)
    if config.truth is None:
        truth = truth_from_exif(places)
    else:
        truth = load_truth(Store(config.store), config.truth)
    found = truth.match(places["image_id"].to_pylist())
    latitude, longitude = (np.where(found >= 0, values[found], np.nan) for values in (truth.latitude, truth.longitude))
    fitted = fit(places, latitude, longitude, config.selection)
    fitted.save(folder)
    errors = ", ".join(f"{100 * fitted.figures[f'error_{km}km']:.1f} % at {km:,} km" for km in RADII_KM)
    say(f"{folder / FILE}: fitted to {fitted.images:,} images placed by {fitted.selector}; expected calibration error {errors}")
    return fitted
