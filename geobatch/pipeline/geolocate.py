"""The main job: every image of an archive becomes a place or a rejection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.actors import Hands, join_cluster, workers_of
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.texts import holds_texts
from geobatch.errors import UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.geoclip import locate as geoclip
from geobatch.methods.geolocsft import locate as geolocsft
from geobatch.methods.geolocsft.health import COLUMNS, health
from geobatch.methods.geotoken import judge_record
from geobatch.methods.geotoken import locate as geotoken
from geobatch.methods.ngcg import locate as ngcg
from geobatch.pipeline.account import Account
from geobatch.pipeline.account import tell as account_for
from geobatch.pipeline.canary import Cage, Canary
from geobatch.pipeline.deadline import Deadline, Ended, Hurried
from geobatch.pipeline.entry import DONE, ENDED
from geobatch.pipeline.estimate import estimate
from geobatch.pipeline.estimate import tell as foretell
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.folder import fingerprint, is_path
from geobatch.pipeline.frozen import expected
from geobatch.pipeline.journal import Journal
from geobatch.pipeline.machines import payable
from geobatch.pipeline.methods import Chosen, choose
from geobatch.pipeline.night import Night, unspent
from geobatch.pipeline.prices import Prices, load
from geobatch.pipeline.reach import reached
from geobatch.pipeline.sample import Sample
from geobatch.pipeline.watch import Onlooker
from geobatch.progress import say
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig, StoreOverride, join

#: Raised by hand when a change of the code changes answers that no setting explains; old tables are then refused.
ANSWER_VERSION = 2


#: Images of a slice whose pictures travel to a language model: 0.3 MB each at 336 pixels, 2 to 3 MB at 896.
_LARGE_PICTURES = 64


@dataclass(frozen=True, kw_only=True)
class GeolocateBucket(Night):
    """Locates every image of an archive and writes one Parquet table."""

    archive: str
    """Where the images lie: s3://bucket/prefix or a folder (loose images, tar, zip, Parquet below it), one such file, or a
    CSV or Parquet manifest with a `uri` column; with NGCG also texts: CSV, JSON, JSON Lines, Parquet with a column of them."""
    output: str
    """Where the table goes: s3://bucket/prefix or a folder. The same command takes up a run that died."""
    model: str
    """Folder or s3:// prefix of a trained model; with --method geolocsft also a vision-language model as it was published, by
    folder or hub name, to be asked zero-shot; with --method geoclip CLIP ViT-L/14, openai/clip-vit-large-patch14; with --method
    ngcg also a multimodal LLM as it was published."""
    gallery: str | None = None
    """Folder or s3:// prefix of a gallery; default: the one that the model's folder names."""
    method: str | None = None
    """How to locate; default: what the model's folder names."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension; with any given, nothing else is."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    max_bytes: int = ArchiveConfig.max_bytes
    """Encoded bytes above which an image is rejected unread."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; with GeoLocSFT a side that is not given, as which the default counts, is what the student was
    trained at, or 896."""
    geotoken: geotoken.Locate = field(default_factory=geotoken.Locate)
    """Settings of the method GeoToken."""
    geolocsft: geolocsft.Locate = field(default_factory=geolocsft.Locate)
    """Settings of the method GeoLocSFT."""
    geoclip: geoclip.Locate = field(default_factory=geoclip.Locate)
    """Settings of the method GeoCLIP."""
    ngcg: ngcg.Locate = field(default_factory=ngcg.Locate)
    """Settings of the method NGCG, by texts or photographs."""
    no_exif: bool = False
    """Leave EXIF coordinates and capture time out of the table."""
    coarsen: float = 0.0
    """Round every coordinate that is written to a grid of this many km."""
    relocate: bool = False
    """Start the table at --output anew although another model, gallery or setting made it; where this one did, it changes
    nothing, so that the same command goes on with what an earlier one began."""
    shard_rows: int = ArchiveConfig.shard_rows
    """Images of one unit of work, at most; never more than 64 where a language model sees the pictures, which are large."""
    workers: int = 0
    """Actors of each heavy stage, at most; 0: one a CPU of this machine, or of all nodes that the cluster
    could have."""
    address: str | None = None
    """Ray cluster to work on ("auto", or its address); default: RAY_ADDRESS, else this machine."""
    stages: tuple[str, ...] = ()
    """What single stages ask of the cluster instead, such as Decode:workers=32 Embed:gpus=0.5,accelerator=L4,workers=8."""
    prices: str | None = None
    """JSON of what an hour of each kind of machine costs, over the table that is built in."""
    log: str | None = None
    """File for one line of JSON a slice; - is standard error."""
    dry_run: bool = False
    """Say what the run would take, out of a sample of it. Nothing of it stays at --output; it costs what its minutes cost.
    --deadline and --max-cost end the sample early; a --deadline that comes while the archive is listed ends with status 4 and
    no estimate."""
    sample: Sample = field(default_factory=Sample)
    """How much --dry-run looks at."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""
    archive_store: StoreOverride = field(default_factory=StoreOverride)
    """What is different about the archive's store."""
    output_store: StoreOverride = field(default_factory=StoreOverride)
    """What is different about the output's store."""


def geolocate(config: GeolocateBucket) -> dict[str, Any]:
    """Runs the main job; returns the account of the run (see `geobatch.pipeline.flow.flow`) with the exit status that it
    deserves, "status" (`geobatch.pipeline.night`). With `dry_run` it is what `geobatch.pipeline.estimate.estimate` says.

    Raises:
        UserError: something about the arguments or the output must be resolved first.
        MachineError: workers kept failing; the same call takes the run up again.
    """
    ends = config.ends()
    prices = load(Store(config.store), config.prices)
    if config.max_cost is not None:
        payable(prices, config.address)
    chosen, job = _job(config)
    if config.dry_run:
        return _estimated(config, job, prices, ends)
    last: dict[str, Any] = {}
    status, usd = DONE, config.max_cost
    while True:
        watched = _watched(config, job, prices, ends, usd)
        account = flow(watched)
        if account["new"]:
            tell(account, config.output)
            account_for(account)
        if not account.get("left"):
            _diagnosed(account, config, chosen, Store(job.store))
        found, line = config.verdict(account)
        if line is not None:
            say(line)
        last, status = (account if account["new"] or not last else last), status or found
        if not config.again(account):
            return {**last, "status": status}
        if (usd := unspent(watched.watches)) is not None and usd <= 0:
            say("--max-cost is spent with that run; the same command goes on with what it did not hold")
            return {**last, "status": status or ENDED}
        job = replace(job, relocate=False)  # what is to be done anew is done


def _estimated(config: GeolocateBucket, job: Flow, prices: Prices, ends: datetime | None) -> dict[str, Any]:
    """What a dry run says, with its status."""
    table = latest(Store(job.store), job.output)
    if table is not None and config.relocate and table.record["fingerprint"] != job.fingerprint:
        table = None
    source = Hurried(job.source, (Onlooker() if ends is None else Deadline(ends)).enough)
    plans = expected(job.archive, Store(job.store), table, config.wanted(), source)
    try:
        told = estimate(job, plans, config.sample, prices, lambda account: config.bounds(account, ends, config.max_cost))
    except Ended as early:
        say(f"dry run: ended while the archive was listed, {early}; give a later --deadline, or list less by --sample.listed")
        return {"dry_run": True, "ended": str(early), "status": ENDED}
    foretell(told, config.output)
    return {**told, "status": DONE}


def _job(config: GeolocateBucket) -> tuple[Chosen, Flow]:
    """The river that the arguments ask for; nothing of it runs yet."""
    reach = reached(config)
    join_cluster(config.address)  # whether engines ask for GPUs depends on what it has
    workers = workers_of(config.workers, config.address)
    chosen = choose(Store(config.store), config, workers)
    if not chosen.texts and chosen.method != "ngcg" and holds_texts(Store(reach.archive), config.archive, config.exclude):
        raise UserError(
            f"{config.archive} holds texts, and {chosen.method} reads photographs; use a model of --method ngcg, or leave the "
            "texts out with --exclude"
        )
    decode = replace(config.decode, exif=not config.no_exif)
    rows = min(config.shard_rows, _LARGE_PICTURES) if chosen.far else config.shard_rows
    if chosen.side is not None and decode.side == DecodeConfig.side:
        decode = replace(decode, side=chosen.side)
    decides = {
        "answer_version": ANSWER_VERSION,
        "method": chosen.method,
        **chosen.decides,
        "decode": None if chosen.texts else decode.decides(),
        "coarsen": config.coarsen,
    }
    return chosen, Flow(
        archive=ArchiveConfig(
            uri=config.archive,
            include=config.include,
            exclude=config.exclude,
            max_bytes=config.max_bytes,
            shard_rows=rows,
            texts=chosen.texts,
        ),
        output=config.output,
        store=reach.output,
        archive_store=reach.archive,
        method=chosen.method,
        fingerprint=fingerprint(decides),
        river=[ngcg.saying() if chosen.texts else decoding(decode, workers), *chosen.river],
        coarsen_km=config.coarsen,
        relocate=config.relocate,
        address=config.address,
        stages=config.stages,
        wanted=config.wanted(),
    )


def _watched(config: GeolocateBucket, job: Flow, prices: Prices, ends: datetime | None, usd: float | None) -> Flow:
    """The run with all that looks on; watches know one run each, so that every one gets its own."""
    account = Account(prices, config.address)
    journal = (Journal(config.log),) if config.log is not None else ()
    canary = None
    if config.canary is not None and config.canary_truth is not None:
        cage = Cage(
            archive=replace(job.archive, uri=config.canary),
            truth=config.canary_truth,
            model=config.model if is_path(config.model) else None,
            fingerprint=job.fingerprint,
            stop=config.canary_stop,
        )
        canary = Canary(cage, Store(job.source), Store(job.store), Store(config.store))
    return replace(job, watches=(account, *config.watches(account, ends, usd), *journal), canary=canary)


def _diagnosed(account: dict[str, Any], config: GeolocateBucket, chosen: Chosen, store: Store) -> None:
    """Adds to the account what a finished run's rows say of the model's health, and of a judge."""
    run = account["run"]
    if chosen.method == "geolocsft" and (found := diagnose(store, config.output, run)):
        account["health"] = found
    judged = chosen.method == "geotoken" and config.geotoken.judge.asked
    if judged and (found := diagnose(store, config.output, run, "judge", JUDGED)):
        account["judge"] = found
        say(judge_record.line(found))


def decoding(config: DecodeConfig, workers: int) -> Hands:
    """The stage that every river over images begins with."""
    return Hands(stage=Decode, make={"config": config}, workers=workers, deadline=0.0)


Examine = tuple[tuple[str, ...], Callable[[Iterable[pa.Table]], dict[str, Any]]]

#: What `diagnose` reads of a language model's answers and of a judge's, and makes of them.
HEALTH: Examine = (COLUMNS, lambda rows: health(rows).record())
JUDGED: Examine = (judge_record.COLUMNS, judge_record.judged)


def diagnose(store: Store, output: str, run: str, name: str = "health", examine: Examine = HEALTH) -> dict[str, Any] | None:
    """Looks at a finished run's rows, says what is wrong ("ills"), and keeps the record as `runs/RUN/NAME.json`.

    Done once a run: None where the record is there. A driver that dies between the table and this leaves it to the next call.
    """
    uri = join(output, "runs", run, f"{name}.json")
    if store.exists(uri):
        return None
    table = latest(store, output)
    assert table is not None  # the flow has published it
    columns, look = examine
    rows = table.of_run(run).tables(store, list(dict.fromkeys(["run", *columns])))
    record = look(each.filter(pc.equal(each["run"], run)) for each in rows)
    store.put_if_absent(uri, json.dumps(record, indent=1).encode())
    for ill in record["ills"]:
        say(f"warning: {ill}")
    return record


def tell(account: dict[str, Any], output: str, placed: str = "placed") -> None:
    """Says what became of a run's images; `placed` is the word for those that live."""
    say(f"run {account['run']}: read {account['read']:,} = {placed} {account['placed']:,} + rejected {account['rejected']:,}")
    for reason, count in sorted(account["reasons"].items(), key=lambda each: -each[1]):
        say(f"  rejected, {reason}: {count:,}")
    if account["skipped"] or account["known"]:
        say(f"  passed over: {account['skipped']:,} that are no images by name, {account['known']:,} already in the table")
    say(f"table {account['table']} at {output}")
