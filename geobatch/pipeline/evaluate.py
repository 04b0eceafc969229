"""A table of places and the truth become the field's figures, the analyses, a picture, a JSON file, and if asked for a page.

What is written is made on this machine and goes through the store, so that `--output` may be in a bucket; that it answers is
found out before any work.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.image import imread

from geobatch.benchmark import landcover
from geobatch.benchmark.analyses import ALL, Analysis
from geobatch.benchmark.choices import CHOSEN
from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.evaluation import Evaluation
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.lists import Chooser
from geobatch.benchmark.places import HELD, LISTS, Places
from geobatch.benchmark.predictions import is_file, load_predictions
from geobatch.benchmark.published import PlaceBenchmark
from geobatch.benchmark.regions import Regions
from geobatch.benchmark.truth import Truth, load_truth, truth_from_exif
from geobatch.engine.gallery import Gallery, load
from geobatch.engine.geocode import Geocoder, country_names
from geobatch.errors import UserError
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import Selection, Selector
from geobatch.methods.geotoken.select import reselected
from geobatch.pipeline.folder import CARD, beside, card, local_folder
from geobatch.pipeline.report import Report, report
from geobatch.pipeline.report_tables import names_of
from geobatch.progress import say
from geobatch.report.map import picture_of_run
from geobatch.report.plots import picture_of_comparison, picture_of_reliability
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig, join, split

#: Selectors that a table cannot be judged by later: `evaluate` has its own line, or they need more than the table holds.
_UNTRIED = ("log_probability", "reward", "judge")

#: What is written into the output folder.
FIGURES, FAILED, SEEDS = "evaluation.json", "failed.csv", "seeds.parquet"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judges a table of places against truth."""

    places: str
    """The --output of geolocate_bucket.py, or a CSV or Parquet file of another system's predictions."""
    truth: str | None = None
    """CSV or Parquet of image_id, latitude, longitude, or CVG-Text's test.json; default: the images' own EXIF positions."""
    output: str | None = None
    """Folder, here or in a bucket, for `evaluation.json`, `failed.csv`, `run.png`, `reliability.png`, with --against
    `against.png` and with --seeds `seeds.parquet`, the spread of each image; default: only print."""
    report: str | None = None
    """HTML file, here or in a bucket, for a page of the same places, truth, --against, gallery and figures, as report.py
    makes it."""
    benchmark: PlaceBenchmark | None = None
    """Published benchmark that the truth is of: others' published figures are printed, and missing images count as wrong."""
    against: tuple[str, ...] = ()
    """Further tables or prediction files, compared image by image over the images that both hold."""
    seeds: tuple[str, ...] = ()
    """Outputs of the same job with other seeds, for how much of a place is chance."""
    model: str | None = None
    """Folder of the model that located them: other selectors are tried with its calibration, and its gallery is analysed."""
    gallery: str | None = None
    """Folder of the gallery that was retrieved from; default: the model's."""
    analyses: tuple[Analysis, ...] = ALL
    """Which analyses are made, of those that the inputs allow; country, region and city are told without any."""
    selection: Selection = field(default_factory=Selection)
    """Settings with which every other selector is tried on the same candidates."""
    background: str | None = None
    """Picture of the whole Earth, plain equirectangular, 180° W to 180° E, to draw on; default: plain dark."""
    count_missing: bool = False
    """Count images of the truth that a table (this, --against, --seeds) does not hold as wrong, as published benchmarks do."""
    bootstrap: int = 1000
    """Resamplings for the 95 % intervals."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def evaluate_places(config: Evaluate) -> Evaluation:
    """Runs the job.

    Raises:
        UserError: there is no finished table, no truth, or they do not belong together; nothing can be written where figures
            or the page are to go.
    """
    store = Store(config.store)
    for uri in filter(None, (config.output, config.report)):
        if split(uri).bucket is not None:
            store.require_credentials(uri)
    places, version = _places(store, config.places)
    truth = _truth(store, config, places)
    found = evaluate(
        places,
        truth,
        beside=Beside(
            choosers=_choosers(store, config, places),
            against={name: _held(store, name) for name in config.against},
            seeds={name: _held(store, name) for name in config.seeds},
            gallery=_gallery(store, config) if config.analyses else None,
            regions=_regions(),
            cover=(landcover.NAMES, landcover.cover_at) if "cover" in config.analyses and landcover.here() else None,
        ),
        count_missing=config.count_missing or config.benchmark is not None,
        pool_neighbours=config.selection.neighbours,
        bootstrap=Bootstrap(resamples=config.bootstrap),
        analyses=config.analyses,
    )
    found = replace(found, benchmark=config.benchmark, places=split(config.places).uri.rstrip("/"), table=version)
    say(found.as_text())
    with TemporaryDirectory(prefix="geobatch-evaluation-") as made:
        if config.output is not None or config.report is not None:
            _make(Path(made), found, config)
        if config.output is not None:
            for path in sorted(Path(made).iterdir()):
                store.put(join(config.output, path.name), path.read_bytes())
            say(f"figures and pictures in {config.output}")
        if config.report is not None:
            report(_page(store, config, config.report, str(Path(made, FIGURES))))
    return found


def _page(store: Store, config: Evaluate, output: str, figures: str) -> Report:
    """What the page is of; a gallery's density is drawn from its table, which a folder that was copied may lack."""
    gallery = _named(store, config)
    return Report(
        places=config.places,
        output=output,
        truth=config.truth,
        evaluation=(figures,),
        compare=config.against,
        gallery=gallery if gallery is not None and latest(store, gallery) is not None else None,
        store=config.store,
    )


def _places(store: Store, uri: str) -> tuple[Places, int | None]:
    """A finished table, its lists read as they are needed, and its version; or a file of predictions, which has none.

    Raises:
        UserError: it is neither.
    """
    if is_file(uri):
        return Places.of(_predicted(store, uri)), None
    table = latest(store, uri)
    if table is None:
        raise UserError(f"{uri} holds no finished table; run geolocate_bucket.py with this --output until it says so")
    # Parts of older versions lack columns: they are asked for none by name.
    held = [part.select([name for name in HELD if name in part.column_names]) for part in table.tables(store)]
    if not held:
        raise UserError(f"the table at {uri} has no rows; check that the archive holds images")
    lists: Callable[[], Iterator[pa.Table]] = partial(table.tables, store, list(LISTS))
    whole = pa.concat_tables(held, promote_options="default").combine_chunks()
    return Places(held=whole, lists=lists), table.version


def _predicted(store: Store, uri: str) -> pa.Table:
    table, notes = load_predictions(store, uri)
    for note in notes:
        say(note)
    return table


def _held(store: Store, uri: str) -> pa.Table:
    """Names and places of another table."""
    return _places(store, uri)[0].held.select(["image_id", "latitude", "longitude"])


def _truth(store: Store, config: Evaluate, places: Places) -> Truth:
    return truth_from_exif(places.held) if config.truth is None else load_truth(store, config.truth)


def _choosers(store: Store, config: Evaluate, places: Places) -> dict[str, Chooser]:
    """Every other selector, tried on the table's own candidates."""
    if not any(pc.any(pc.is_valid(table["candidates"])).as_py() for table in places.lists()):
        return {}
    fitted = None if config.model is None else Calibration.load(local_folder(store, config.model, "model"))
    return {
        name.replace("_", " "): partial(
            reselected, selection=replace(config.selection, selector=cast(Selector, name)), calibration=fitted
        )
        for name in get_args(Selector)
        if name not in _UNTRIED
    }


@cache
def _regions() -> Regions | None:
    """The gazetteer, once a process: it takes a second; None, and a line that says so, where its data are not installed."""
    try:
        return Regions(Geocoder.load(), country_names())
    except UserError as error:
        say(f"country, region and city are not judged: {error}")
        return None


def _named(store: Store, config: Evaluate) -> str | None:
    """The gallery that is named here or by the model."""
    if config.gallery is not None or config.model is None:
        return config.gallery
    folder = local_folder(store, config.model, "model")
    said = card(folder).get("gallery") if (folder / CARD).is_file() else None
    return beside(config.model, said) if isinstance(said, str) else None


def _gallery(store: Store, config: Evaluate) -> Gallery | None:
    named = _named(store, config)
    return None if named is None else load(local_folder(store, named, "gallery"))


def _make(folder: Path, found: Evaluation, config: Evaluate) -> None:
    """The files of an output."""
    document: dict[str, Any] = found.as_dict()
    (folder / FIGURES).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    with (folder / FAILED).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image_id", "reason"), *found.failed])
    if found.spread is not None:
        pq.write_table(found.spread, folder / SEEDS, compression="zstd")
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
    if found.rivals:
        _compare(folder / "against.png", found, config.places.rstrip("/"))
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


def _compare(path: Path, found: Evaluation, places: str) -> None:
    """The picture of ours and theirs over the images that are compared with every one of them; none where there is none."""
    these = np.all([rival.compared for rival in found.rivals.values()], axis=0)
    if not these.any():
        say(f"no image is in all tables: {path.name} is not drawn; compare with one at a time")
        return
    every = [found.distances[CHOSEN], *(rival.km for rival in found.rivals.values())]
    names = names_of([places, *found.rivals])
    picture_of_comparison(
        path,
        dict(zip(names, (km[these] for km in every), strict=True)),
        title=f"{these.sum():,} images, {len(every)} systems",
        note=f"against {found.truth}",
    )
