"""A table of places and the truth become the field's figures, a picture, and a JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import pyarrow.compute as pc
from matplotlib.image import imread

from geobatch.benchmark.evaluate import evaluate
from geobatch.benchmark.evaluation import Evaluation
from geobatch.benchmark.metrics import Bootstrap
from geobatch.benchmark.truth import load_truth, truth_from_exif
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import Selection, Selector
from geobatch.methods.geotoken.select import reselected
from geobatch.pipeline.folder import local_folder
from geobatch.progress import say
from geobatch.report.map import picture_of_run
from geobatch.report.plots import picture_of_reliability
from geobatch.sink import read
from geobatch.store import Store, StoreConfig

#: Selectors that a table cannot be judged by later: `evaluate` has its own line, or they need more than the table holds.
_UNTRIED = ("log_probability", "reward", "judge")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judges a table of places against truth."""

    places: str
    """The --output of geolocate_bucket.py."""
    truth: str | None = None
    """CSV or Parquet of image_id, latitude, longitude; default: the images' own EXIF positions."""
    output: str | None = None
    """Folder for `evaluation.json`, `run.png` and `reliability.png`; default: only print."""
    model: str | None = None
    """Folder of the model that located them: its calibration is what other selectors are tried with."""
    selection: Selection = field(default_factory=Selection)
    """Settings with which every other selector is tried on the same candidates."""
    background: str | None = None
    """Picture of the whole Earth, plain equirectangular, 180° W to 180° E, to draw on; default: plain dark."""
    count_missing: bool = False
    """Count images of the truth that the table does not hold as wrong, as published benchmarks do."""
    bootstrap: int = 1000
    """Resamplings for the 95 % intervals."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def evaluate_places(config: Evaluate) -> Evaluation:
    """Runs the job.

    Raises:
        UserError: there is no finished table, no truth, or they do not belong together.
    """
    places = read(config.places, store=config.store)
    if config.truth is None:
        truth = truth_from_exif(places)
    else:
        truth = load_truth(Store(config.store), config.truth)
    others = {}
    if pc.any(pc.is_valid(places["candidates"])).as_py():
        fitted = None if config.model is None else Calibration.load(local_folder(Store(config.store), config.model, "model"))
        for name in (each for each in get_args(Selector) if each not in _UNTRIED):
            selection = replace(config.selection, selector=cast(Selector, name))
            others[name.replace("_", " ")] = reselected(places, selection, fitted)
    found = evaluate(
        places,
        truth,
        others=others,
        count_missing=config.count_missing,
        pool_neighbours=config.selection.neighbours,
        bootstrap=Bootstrap(resamples=config.bootstrap),
    )
    say(found.as_text())
    if config.output is not None:
        _write(Path(config.output), found, config)
    return found


def _write(folder: Path, found: Evaluation, config: Evaluate) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = found.as_dict()
    (folder / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n")
    picture_of_run(
        folder / "run.png",
        latitude=found.latitude,
        longitude=found.longitude,
        true_latitude=found.true_latitude,
        true_longitude=found.true_longitude,
        distances=found.distances,
        background=None if config.background is None else imread(config.background),
        title=f"{found.images:,} images located",
        note=f"{config.places} against {found.truth}",
    )
    if found.calibration:
        points = {
            f"within {one.km:,} km": (
                [each.stated for each in one.bins],
                [each.true for each in one.bins],
                [each.images for each in one.bins],
            )
            for one in found.calibration
        }
        picture_of_reliability(folder / "reliability.png", points, f"{found.images:,} images: stated and true")
    say(f"figures and pictures in {folder}")
