"""Images with known places become captions worth training on: the teacher writes through the resumable flow, then curation.

What lies at the output beside the flow's own table:

    curated/captions.parquet   what is kept, with its pictures: what jobs/geolocsft_train.py reads
    curated/sharegpt.json      the same as ShareGPT-style turns, for other trainers; it names
    curated/images/            the pictures as files
    curated/dropped.parquet    what is not kept, with the reason
    curated/account.json       how many of each; written last

Captions are the expensive part and are written once; curation is a function of their table and is made anew by each call, so
another threshold costs seconds. Nothing leaves the cluster unless `--endpoint.url` names where to.

Not covered: curated sets of more than 4 GiB, which are one object here.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.actors import Hands, join_cluster, workers_of
from geobatch.archive.config import ArchiveConfig
from geobatch.benchmark.label import Label
from geobatch.engine.opening import on_gpus
from geobatch.engine.remote import Endpoint
from geobatch.engine.request import GeneratorConfig
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geolocsft.caption import Caption, Writing
from geobatch.methods.geolocsft.curate import Curation, curate
from geobatch.methods.geolocsft.examples import answer_of
from geobatch.methods.geolocsft.locate import AT_ONCE, SIDE
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, Form, student, teacher
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import base_of, fingerprint, fingerprint_of_base
from geobatch.pipeline.geolocate import decoding, tell
from geobatch.pipeline.reach import Reach, reached
from geobatch.progress import Progress, say
from geobatch.schema import CAPTIONS
from geobatch.sink import Snapshot, latest
from geobatch.sink.rows import parquet
from geobatch.store import Store, StoreConfig, StoreOverride, join

#: Raised by hand when a change of the code changes captions that no setting explains.
CAPTION_VERSION = 1

#: Bytes of pictures that one object of the output holds at most.
LARGEST = 4 << 30

#: Pictures on their way to the output at once.
_PUTS = 16

NO_TEACHER = "none"


@dataclass(frozen=True, kw_only=True)
class GeoLocSftCaption:
    """Has a teacher write geo-captions for images with known places, and keeps those worth training on."""

    archive: str
    """Where the images lie, as for the main job."""
    output: str
    """Folder or s3:// prefix of the captions. The same command takes up a run that died, or adds what is new in the archive."""
    teacher: str | None = None
    """Folder, s3:// prefix or hub name of the vision-language model that writes; "none": answers without reasoning or model."""
    endpoint: Endpoint = field(default_factory=Endpoint)
    """A service outside the cluster that writes instead; off unless named, its key comes from the variable OPENAI_API_KEY."""
    truth: str | None = None
    """CSV or Parquet with the coordinates (image_id, latitude, longitude); default: the images' EXIF."""
    form: Form = "tag"
    """How the student of sharegpt.json answers: reasoning and a tag, or the whole geo-caption as JSON."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    max_bytes: int = ArchiveConfig.max_bytes
    """Encoded bytes above which an image is rejected unread."""
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(side=SIDE))
    """How pictures are decoded; teacher and student see them at this size."""
    writing: Writing = field(default_factory=Writing)
    """How the teacher writes."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """How a teacher's folder is served."""
    curation: Curation = field(default_factory=Curation)
    """Which captions are kept."""
    relocate: bool = False
    """Start anew although another teacher or setting made the output."""
    shard_rows: int = 64
    """Images of one unit of work, at most; decoded, one is 3 MB."""
    workers: int = 0
    """Actors that decode, at most; 0: one a CPU of this machine, or of all nodes that the cluster
    could have."""
    teachers: int = 1
    """Copies of the teacher at work, each on GPUs of its own."""
    stages: tuple[str, ...] = ()
    """What single stages ask of the cluster instead, such as Decode:workers=32 Caption:gpus=2,accelerator=A100."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""
    archive_store: StoreOverride = field(default_factory=StoreOverride)
    """What is different about the archive's store."""
    output_store: StoreOverride = field(default_factory=StoreOverride)
    """What is different about the output's store."""


def caption(config: GeoLocSftCaption) -> dict[str, Any]:
    """Runs the job; returns the run's account, with the account of the curation as "curated".

    Raises:
        UserError: the arguments or the output must be resolved first, or not one image got a caption.
        MachineError: workers kept failing; the same call takes the run up again.
    """
    store = Store(config.store)
    named = [config.teacher is not None, bool(config.endpoint.url)]
    if sum(named) != 1:
        raise UserError(f"name one teacher: --teacher FOLDER, --teacher {NO_TEACHER}, or --endpoint.url and --endpoint.model")
    reach = reached(config)
    join_cluster(config.address)  # whether the teacher asks for GPUs depends on what it has
    folder = None
    if config.teacher not in (None, NO_TEACHER):
        folder = base_of(store, config.teacher)
    if config.endpoint.url:
        say(f"pictures and their coordinates are sent to {config.endpoint.url}, as --endpoint.url asks")
    model = fingerprint_of_base(folder) if folder else config.endpoint.model
    account = flow(_flow(config, reach, folder, model))
    if account["new"]:
        tell(account, config.output, placed="written")
    return {**account, "curated": curate_table(Store(reach.output), config)}


def _flow(config: GeoLocSftCaption, reach: Reach, folder: str | None, model: str) -> Flow:
    decides = {
        "caption_version": CAPTION_VERSION,
        "teacher": model or NO_TEACHER,
        "prompt": [teacher(0, 0, "").system, teacher(0, 0, "").question, GEO_CAPTION] if model else None,
        "writing": described(config.writing) if model else None,
        "served": [config.generator.dtype, config.generator.context] if folder else None,
        "truth": config.truth,
        "decode": described(config.decode),
        "max_bytes": config.max_bytes,
    }
    workers = workers_of(config.workers, config.address)
    make = {"teacher": folder, "endpoint": config.endpoint, "writing": config.writing, "generator": config.generator}
    gpus = 0
    if folder and on_gpus(folder, config.generator):
        gpus = config.generator.tensor_parallel
    return Flow(
        archive=ArchiveConfig(
            uri=config.archive,
            include=config.include,
            exclude=config.exclude,
            max_bytes=config.max_bytes,
            shard_rows=config.shard_rows,
        ),
        output=config.output,
        store=reach.output,
        archive_store=reach.archive,
        method="captions",
        fingerprint=fingerprint(decides),
        river=[
            decoding(config.decode, workers),
            Hands(stage=Label, make={"truth": config.truth, "store": config.store}),
            Hands(stage=Caption, make=make, workers=config.teachers, gpus=gpus, at_once=AT_ONCE if model else 1),
        ],
        relocate=config.relocate,
        address=config.address,
        stages=config.stages,
        what="captioned",
    )


def curate_table(store: Store, config: GeoLocSftCaption) -> dict[str, Any]:
    """Curates the newest table at `config.output` and writes `curated/`; returns its account.

    Raises:
        UserError: not one caption is in the table, or more is kept than one object holds.
    """
    table = latest(store, config.output)
    assert table is not None  # the flow has just published it
    names = [name for name in CAPTIONS.names if name != "image"]
    rows = pa.concat_tables(list(table.tables(store, names)))
    rows = rows.filter(pc.is_null(rows["reason"])).drop_columns(["status", "stage", "reason", "detail"])
    if not len(rows):
        raise UserError(f"not one image of {config.archive} got a caption; the reasons are in the table at {config.output}")
    settings = config.curation
    if config.teacher == NO_TEACHER:
        settings = replace(settings, reasoning=False)
    curated = curate(rows, settings)
    kept = _with_pictures(store, table, curated.kept)
    folder = join(config.output, "curated")
    images = _write_images(store, folder, kept)
    store.put(join(folder, "captions.parquet"), parquet(kept))
    store.put(join(folder, "sharegpt.json"), sharegpt(kept, images, config.form))
    store.put(join(folder, "dropped.parquet"), parquet(curated.dropped))
    drops = curated.counts()
    account = {"captions": len(rows), "kept": len(kept), "dropped": drops, "table": table.version}
    store.put(join(folder, "account.json"), json.dumps(account).encode())
    say(f"kept {len(kept):,} of {len(rows):,} captions, in {config.output.rstrip('/')}/curated")
    for reason, count in drops.items():
        if count:
            say(f"  dropped, {reason}: {count:,}")
    return account


def _with_pictures(store: Store, table: Snapshot, kept: pa.Table) -> pa.Table:
    """The kept rows with their `image`, read part by part."""
    wanted = kept["image_id"].combine_chunks()
    parts, size = [], 0
    for rows in table.tables(store, ["image_id", "image"]):
        parts.append(rows.filter(pc.is_in(rows["image_id"], value_set=wanted)))
        size += parts[-1]["image"].nbytes
        if size > LARGEST:
            raise UserError(f"the kept pictures exceed {LARGEST >> 30} GiB; lower --curation.target or --decode.side")
    found = pa.concat_tables(parts)
    order = pc.index_in(wanted, value_set=found["image_id"].combine_chunks())
    return kept.append_column(CAPTIONS.field("image"), found["image"].take(order))


def _write_images(store: Store, folder: str, kept: pa.Table) -> list[str]:
    """Writes each picture as a file and removes those of another curation; returns their names below `folder`."""
    names: list[str] = []
    with Progress("written", len(kept), unit="pictures") as progress, ThreadPoolExecutor(_PUTS) as pool:
        for batch in kept.select(["image_id", "image"]).to_batches(max_chunksize=64):
            images = batch["image"].to_pylist()
            fresh = [_file_name(*pair) for pair in zip(batch["image_id"].to_pylist(), images, strict=True)]
            list(pool.map(lambda name, image: store.put(join(folder, name), image), fresh, images))
            names += fresh
            progress.add(len(fresh))
    wanted = {name.rpartition("/")[2] for name in names}
    there = [item.uri for page in store.objects(join(folder, "images")) for item in page]
    store.delete([uri for uri in there if uri.rpartition("/")[2] not in wanted])
    return names


def _file_name(image_id: str, image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpg"
    return f"images/{hashlib.sha256(image_id.encode()).hexdigest()[:24]}.{kind}"


def sharegpt(kept: pa.Table, images: list[str], form: Form) -> bytes:
    """Curated captions as a JSON list of ShareGPT-style examples.

    Each has `images` (one path, relative to the file), `system`, and `conversations`: the student's question behind the mark
    `<image>`, and the answer, whose coordinates are the truth's, whatever the teacher wrote.
    """
    prompt = student(form)
    examples = []
    columns = (kept[name].to_pylist() for name in ("caption", "latitude", "longitude"))
    for path, text, latitude, longitude in zip(images, *columns, strict=True):
        answer = answer_of(latitude, longitude, text, form)
        turns = [{"from": "human", "value": f"<image>{prompt.question}"}, {"from": "gpt", "value": answer}]
        examples.append({"images": [path], "system": prompt.system, "conversations": turns})
    return json.dumps(examples, ensure_ascii=False, indent=1).encode()
