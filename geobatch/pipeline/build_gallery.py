"""Labelled pictures become vectors that know their place, and a gallery over them.

The vectors go through the same flow as places do: sharded, resumable, each image once. The gallery is made last, from the
table's parts, on the driver. Its record names the parts it was made from, so the same command on an archive that has grown
reads the new parts only and appends them; where a part is gone or lost rows (images were replaced), or a setting of the
gallery or what the file of groups says changed, it is built again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from geobatch.actors import Hands, cores
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.label import Label
from geobatch.benchmark.lookup import Lookup
from geobatch.engine.gallery import COLUMNS, GROUP, RECORD, Gallery, Indexing, append, build, load, read_record
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken.embed import Embed
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import fingerprint, fingerprint_of, local_folder
from geobatch.pipeline.geolocate import decoding
from geobatch.progress import say
from geobatch.sink import Snapshot, latest
from geobatch.store import Store, StoreConfig


@dataclass(frozen=True, kw_only=True)
class BuildGallery:
    """Embeds labelled images and indexes them."""

    archive: str
    """Where the images lie, as for the main job."""
    output: str
    """Folder of the gallery. The same command takes up a run that died, or adds what is new in the archive."""
    encoder: str
    """Folder of an image encoder: a `transformers` model, or one trained by geotoken_align.py."""
    truth: str | None = None
    """CSV or Parquet with the coordinates (image_id, latitude, longitude); default: the images' EXIF."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; use the same for the main job."""
    batch: int = 256
    """Pictures the encoder takes at a time."""
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
    """Actors of each heavy stage, at most; 0: one a CPU of this machine."""
    gpus: float = 0.0
    """GPUs of each actor that embeds; fractions share one, 0 embeds on CPUs."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


#: What the jobs that embed on their way to something else have in common with this one.
_SHARED = ("archive", "truth", "include", "exclude", "decode", "workers", "gpus", "address", "store")


def embedded(config: Any, output: Path, encoder: Path) -> Snapshot:
    """The table of vectors at `output` of another job's labelled archive; its settings have the names they have here."""
    shared = {name: getattr(config, name) for name in _SHARED}
    embed_archive(BuildGallery(**shared, output=str(output), encoder=str(encoder)))
    table = latest(Store(config.store), str(output))
    assert table is not None  # the flow has just published it
    return table


def embed_archive(config: BuildGallery) -> dict[str, Any]:
    """The vectors of a labelled archive as a table of GALLERY rows at `config.output`; returns the run's account."""
    store = Store(config.store)
    encoder = local_folder(store, config.encoder, "encoder")
    workers = config.workers or cores()
    decides = {
        "encoder": fingerprint_of(encoder),
        "truth": config.truth,
        "decode": described(config.decode),
        "batch": config.batch,
    }
    return flow(
        Flow(
            archive=ArchiveConfig(uri=config.archive, include=config.include, exclude=config.exclude),
            output=config.output,
            store=config.store,
            method="gallery",
            fingerprint=fingerprint(decides),
            river=[
                decoding(config.decode, workers),
                Hands(stage=Label, make={"truth": config.truth, "store": config.store}),
                Hands(
                    stage=Embed,
                    make={"encoder": str(encoder), "batch": config.batch, "device": "cuda" if config.gpus else "cpu"},
                    workers=workers,
                    gpus=config.gpus,
                ),
            ],
            relocate=config.relocate,
            address=config.address,
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
    account = embed_archive(config)
    folder = Path(config.output.removeprefix("file://"))
    store = Store(config.store)
    table = latest(store, config.output)
    assert table is not None  # the flow has just published it
    gallery = indexed(folder, table, store, config)
    say(f"gallery {folder}: {len(gallery):,} images, {account.get('rejected', 0):,} of this run rejected")
    say(f"  {gallery.record['measured']['says']}")
    return folder


def indexed(folder: Path, table: Snapshot, store: Store, config: BuildGallery) -> Gallery:
    """The gallery of the table's rows: as it is, appended to, or built.

    Raises:
        UserError: as `geobatch.engine.gallery.build`, or the groups are of no image of a gallery that is built.
    """
    parts = {part["path"]: len(part.get("removed", ())) for part in table.parts}
    groups = Groups(store, config.groups) if config.groups else None
    source = {"parts": parts, "groups": config.groups, "groups_sha256": groups.sha256 if groups else None}
    known = read_record(folder) if (folder / RECORD).is_file() and not config.rebuild else {}
    before = known.get("source", {}).get("parts", {})
    same = known.get("indexing") == json.loads(json.dumps(asdict(config.indexing)))
    if before and same and known["source"].get("groups_sha256") == source["groups_sha256"] and before.items() <= parts.items():
        new = [part for part in table.parts if part["path"] not in before]
        if not new:
            return load(folder)
        some = replace(table, record={**table.record, "parts": new})
        return append(folder, _rows(some, store, groups), source)
    vision = Vision(str(local_folder(store, config.encoder, "encoder")), device="cpu")
    views = dict(zip(vision.views, vision.view_sizes, strict=True))
    rows = _rows(table, store, groups)
    return build(folder, rows if groups is None else groups.known(rows), views=views, indexing=config.indexing, source=source)


class Groups:
    """The groups of images, as a CSV or Parquet file with the columns image_id and group says them, both text.

    Args:
        store: reaches the file.
        uri: of the file. Of an image that it names twice the first group counts; an empty group is none.

    Raises:
        UserError: it has no such columns.
    """

    def __init__(self, store: Store, uri: str) -> None:
        data = store.get(uri)
        self.uri, self.sha256 = uri, hashlib.sha256(data).hexdigest()
        named = ["image_id", GROUP]
        kept = csv.ConvertOptions(column_types=dict.fromkeys(named, pa.string()), include_columns=named)  # 00123 is no number
        try:
            read = pq.read_table(io.BytesIO(data), columns=named) if data[:4] == b"PAR1" else None
            found = csv.read_csv(io.BytesIO(data), convert_options=kept) if read is None else read.select(named)
            found = found.cast(pa.schema([(name, pa.large_string()) for name in named]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            raise UserError(f"{uri} has no readable columns image_id and {GROUP} ({error}); correct it") from error
        found = found.filter(pc.and_(pc.is_valid(found["image_id"]), pc.not_equal(found[GROUP], ""))).combine_chunks()
        self._groups = pa.concat_arrays([pa.nulls(0, pa.large_string()), *found[GROUP].chunks])
        self._lookup = Lookup(pa.concat_arrays([pa.nulls(0, pa.large_string()), *found["image_id"].chunks]))

    def of(self, names: pa.ChunkedArray) -> pa.Array:
        """The group (n,) of each image_id, null where there is none."""
        keys = pa.concat_arrays([pa.nulls(0, pa.large_string()), *names.cast(pa.large_string()).chunks])
        rows = self._lookup.find(keys)[0]
        return self._groups.take(pa.array(rows, mask=rows < 0)).cast(pa.string())

    def known(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables.

        Raises:
            UserError: at their end, if none of their rows has a group.
        """
        rows = grouped = 0
        for table in tables:
            rows, grouped = rows + len(table), grouped + len(table) - table[GROUP].null_count
            yield table
        if rows and not grouped:
            raise UserError(f"{self.uri} has a group for none of the images; its image_id must be theirs, such as a/b.jpg")


def _rows(table: Snapshot, store: Store, groups: Groups | None) -> Iterator[pa.Table]:
    """The table's rows, with their groups."""
    for rows in table.tables(store, COLUMNS):
        yield rows if groups is None else rows.append_column(GROUP, groups.of(rows["image_id"]))
