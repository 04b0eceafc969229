"""Labelled pictures, map tiles or texts become vectors that know their place, and a gallery over them.

The vectors go through the same flow as places do: sharded, resumable, each image once. The gallery is made last, from the
table's parts, on the driver. Its record names the parts it was made from, so the same command on an archive that has grown
reads the new parts only and appends them; where a part is gone or lost rows (images were replaced), or a setting of the
gallery or what the file of groups says changed, it is built again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from geobatch.actors import workers_of
from geobatch.benchmark.survey import Places
from geobatch.engine.gallery import COLUMNS, FOOTPRINT, GROUP, RECORD, Gallery, Indexing, append, build, load, read_record
from geobatch.errors import REASONS, UserError
from geobatch.image import DecodeConfig
from geobatch.methods.ngcg.serve import Serving
from geobatch.pipeline.embedding import Embedding, embedding
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.folder import fingerprint
from geobatch.pipeline.groups import Groups
from geobatch.progress import say
from geobatch.sink import Snapshot, latest
from geobatch.sink.table import removed
from geobatch.store import Store, StoreConfig


@dataclass(frozen=True, kw_only=True)
class BuildGallery:
    """Embeds labelled images, map tiles or texts and indexes them."""

    archive: str
    """Where the images or texts lie, as for the main job."""
    output: str
    """Folder of the gallery. The same command takes up a run that died, or adds what is new in the archive."""
    encoder: str
    """Folder of an image encoder: a `transformers` model, or one trained by geotoken_align.py. For tiles and texts of NGCG:
    a model of ngcg_train.py, or a multimodal LLM as it was published."""
    truth: str | None = None
    """CSV or Parquet with the coordinates (image_id, latitude, longitude), and where it has a column footprint_km or size_m the
    side of the ground that a tile shows; default: the images' EXIF, or with NGCG what --places finds."""
    places: Places = "auto"
    """Where places come from: truth, names (that begin with coordinates), xyz, tms or quadkey addresses of tiles, geotiff tags,
    exif; none makes a gallery that is only retrieved from. auto: truth where it is given, else exif; with NGCG truth, geotiff,
    names and xyz, the first that knows a tile."""
    footprint_km: float = 0.0
    """Side in km of the ground that a tile shows, where neither address, tags nor truth say it; 0: not known."""
    texts: str = ""
    """Column of texts, or auto, of an archive of CSV, JSON, JSON Lines or Parquet files; NGCG embeds them."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; use the same for the main job. With NGCG a side that is not given is the encoder's own."""
    batch: int = 256
    """Pictures an image encoder takes at a time."""
    serving: Serving = field(default_factory=Serving)
    """How NGCG's encoder is served."""
    groups: str | None = None
    """CSV or Parquet with the columns image_id and group (a photographer, a burst). In training images of one group are no
    neighbours of each other, where the training image is in the gallery too: of another nobody knows the group. A file that
    was edited builds the gallery again."""
    indexing: Indexing = field(default_factory=Indexing)
    """How the gallery is stored and searched."""
    rebuild: bool = False
    """Build the gallery again from its vectors although new images could be appended; pays once it has doubled."""
    relocate: bool = False
    """Start anew although another encoder or setting made the output."""
    workers: int = 0
    """Actors of each heavy stage, at most; 0: one a CPU of this machine, or of all nodes that the cluster
    could have."""
    gpus: float = 0.0
    """GPUs of each actor that embeds; fractions share one, 0 embeds on CPUs."""
    stages: tuple[str, ...] = ()
    """What single stages ask for instead, as NAME:KEY=VALUE,…: Decode:workers=32 Embed:gpus=0.5,accelerator=L4; KEY is workers,
    least, cpus, gpus, memory (GiB), accelerator, resource.NAME or label.NAME."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


#: What the jobs that embed on their way to something else have in common with this one.
_SHARED = ("archive", "truth", "include", "exclude", "decode", "workers", "gpus", "stages", "address", "store")


def embedded(config: Any, work: Path, encoder: Path) -> Snapshot:
    """The table of vectors of another job's labelled archive; its settings have the names they have here.

    Args:
        work: gets the table, in a folder named by what decides it: an attempt that was killed binds no other.
    """
    store = Store(config.store)
    asked = BuildGallery(**{name: getattr(config, name) for name in _SHARED}, output="", encoder=str(encoder))
    by = embedding(asked, store, workers_of(config.workers, config.address))
    output = work / f"features-{fingerprint({'rows': by.decides, 'archive': asdict(by.archive)})[:16]}"
    embed_archive(replace(asked, output=str(output)), by)
    table = latest(store, str(output))
    assert table is not None  # the flow has just published it
    return table


def embed_archive(config: BuildGallery, by: Embedding | None = None) -> dict[str, Any]:
    """The vectors of a labelled archive as a table of GALLERY rows at `config.output`; returns the run's account."""
    store = Store(config.store)
    by = by or embedding(config, store, workers_of(config.workers, config.address))
    return flow(
        Flow(
            archive=by.archive,
            output=config.output,
            store=config.store,
            method="gallery",
            fingerprint=fingerprint(by.decides),
            river=by.river,
            relocate=config.relocate,
            address=config.address,
            stages=config.stages,
            what="embedded",
        )
    )


def build_gallery(config: BuildGallery) -> Path:
    """Runs the job; returns the gallery's folder.

    Raises:
        UserError: the arguments must be resolved, or no image had a place.
    """
    if "://" in config.output and not config.output.startswith("file://"):
        raise UserError("the index is built on this machine; give --output as a local folder and copy it to the bucket after")
    store = Store(config.store)
    by = embedding(config, store, workers_of(config.workers, config.address))
    account = embed_archive(config, by)
    for reason, count in sorted(account.get("reasons", {}).items(), key=lambda each: -each[1]):
        say(f"rejected, {reason}: {count:,} ({REASONS[reason]})")  # before the index: where all are, it says no more than that
    folder = Path(config.output.removeprefix("file://"))
    table = latest(store, config.output)
    assert table is not None  # the flow has just published it
    gallery = indexed(folder, table, store, config, by)
    what = "texts" if config.texts else "images"
    say(f"gallery {folder}: {len(gallery):,} {what}, {account.get('rejected', 0):,} of this run rejected")
    say(f"  {gallery.record['measured']['says']}")
    return folder


def indexed(folder: Path, table: Snapshot, store: Store, config: BuildGallery, by: Embedding | None = None) -> Gallery:
    """The gallery of the table's rows: as it is, appended to, or built.

    Args:
        by: what made the rows; opened here without.

    Raises:
        UserError: as `geobatch.engine.gallery.build`, or the groups are of no image of a gallery that is built.
    """
    parts = {part["path"]: len(removed(part)) for part in table.parts}
    groups = Groups(store, config.groups) if config.groups else None
    source = {
        "parts": parts,
        "holds": "texts" if config.texts else "pictures",
        "groups": config.groups,
        "groups_sha256": groups.sha256 if groups else None,
    }
    known = read_record(folder) if (folder / RECORD).is_file() and not config.rebuild else {}
    before = known.get("source", {}).get("parts", {})
    same = known.get("indexing") == json.loads(json.dumps(asdict(config.indexing)))
    if before and same and known["source"].get("groups_sha256") == source["groups_sha256"] and before.items() <= parts.items():
        new = [part for part in table.parts if part["path"] not in before]
        if not new:
            return load(folder)
        some = replace(table, record={**table.record, "parts": new})
        return append(folder, _rows(some, store, groups), source)
    by = by or embedding(config, store, 1)
    rows = _rows(table, store, groups)
    return build(
        folder,
        rows if groups is None else groups.known(rows),
        views=by.views(),
        indexing=config.indexing,
        source=source,
        encoder=by.encoder,
    )


def _rows(table: Snapshot, store: Store, groups: Groups | None) -> Iterator[pa.Table]:
    """The table's rows, with their groups; parts of older versions know no footprints."""
    for part in table.tables(store):
        rows = part.select([*COLUMNS, *(name for name in (FOOTPRINT,) if name in part.column_names)])
        yield rows if groups is None else rows.append_column(GROUP, groups.of(rows["image_id"]))
