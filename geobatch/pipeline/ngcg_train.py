"""An archive of tiles and the texts that describe them become an NGCG encoder: pair, check, train, merge.

What lies in the model's folder:

    geobatch.json           the card: method, base, encoding, temperature, figures
    adapter/                a PEFT adapter that remembers its own alpha, with the history of losses
    merged/                 base and adapter as one checkpoint, which vLLM serves; of a base trained whole, the only weights
    pairs/                  rejected.csv and missing.csv: what the archive and the annotations held that no pair came of

Everything that can be wrong with arguments, base and annotations is found before Ray starts; what is wrong with the archive, in
the first pass over it. Trainable parameters are counted on a model without weights. Two names keep work from being done twice:
the card's "asked" is of the command (archive by name, annotations by content, base, settings), and a finished training of the
same is not looked at again; "name" is of what was learnt from, to the byte, and a training that died is taken up under it. The
number of workers, the size of pieces and of validation's batches are in neither: they may change when memory runs out.

Pairs are kept out for validation by whole places. `--base tiny` begins with random weights and words of its own
(`geobatch.methods.ngcg.small`), made from the texts that are trained on, never from those kept out.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from geobatch.actors import Hands, cluster_gpus, join_cluster, start
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.ngcg.annotations import Annotations, Grouping, read
from geobatch.methods.ngcg.batches import batches_of
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation
from geobatch.methods.ngcg.pairs import Pairs, split
from geobatch.methods.ngcg.small import Small, write_small
from geobatch.methods.ngcg.train import ADAPTER, HISTORY, MERGED, Fit
from geobatch.pipeline.folder import CARD, card, fingerprint, fingerprint_of_base
from geobatch.pipeline.ngcg_base import Base, dry, resolve
from geobatch.pipeline.ngcg_card import card_of, made, tell, write
from geobatch.pipeline.ngcg_model import METHOD
from geobatch.pipeline.pairs import MISSING, REJECTED, Prepared, Source, prepare
from geobatch.progress import Progress, say
from geobatch.store import Store, StoreConfig
from geobatch.train.loop import Loop, Worker, fit
from geobatch.train.merge import merge
from geobatch.train.ready import ready


@dataclass(frozen=True, kw_only=True)
class NgcgTrain:
    """Fine-tunes a multimodal LLM so that a text lies next to the tile it describes."""

    archive: str = ""
    """Where the tiles lie, as for the main job."""
    annotations: str = ""
    """The texts: CSV, JSONL or Parquet with a column of names and one of texts, or the JSON of GeoText-1652 or CVG-Text. A name
    is an image_id or an ending of it."""
    output: str = ""
    """Folder of the model; on several machines one that all of them see, as --pairs and --loop.storage, where given, must
    be. The same command takes up a training that died."""
    base: str = ""
    """Folder, s3:// prefix or hub name of the base (InternVL3.5-HF, SmolVLM, Qwen2.5-VL), or "tiny": SmolVLM's shape in small
    with random weights and words of its own, which is trained with --tuning.whole; default: the preset's."""
    preset: Literal["", "internvl35_1b", "smolvlm_256m", "smolvlm_500m"] = ""
    """A published base; its side and everything else are its own."""
    column: str = "auto"
    """Column of the texts in the annotations."""
    grouping: Grouping = "auto"
    """What shows the same place: "column" (group), "building" (the folder of a name), "name"; "auto" finds out."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    max_bytes: int = ArchiveConfig.max_bytes
    """Encoded bytes above which an image is rejected unread."""
    small: Small = field(default_factory=Small)
    """The size of the base "tiny"."""
    tuning: Tuning = field(default_factory=Tuning)
    """Adapters, batches and optimiser; the paper's by default."""
    validation: Validation = field(default_factory=Validation)
    """What is measured on places kept out of training, and whether the best or the last weights are kept."""
    encoding: Encoding = field(default_factory=Encoding)
    """What a vector is; it goes into the card."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How pictures are decoded; a side that is not given, as which the default counts, is the base's."""
    pairs: str = ""
    """Folder that keeps the decoded pairs for further trainings of the same archive, seen by all machines; default: one beside
    --output, until the training ends."""
    merge: bool = True
    """Also write base and adapter as one checkpoint, which vLLM serves."""
    dry_run: bool = False
    """Print what is trained and what memory it needs, and stop; needs no archive, no weights and no GPU."""
    gpu_gib: float = 80.0
    """GiB of memory of each GPU, for the dry run."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    shard_rows: int = 128
    """Images of one unit of work while decoding, at most; decoded, one of 448 pixels is 0.6 MB."""
    workers: int = 0
    """Actors that decode, at most; 0: one a CPU of this machine, or of all nodes that the cluster
    could have."""
    stages: tuple[str, ...] = ()
    """What single stages ask for instead, as NAME:KEY=VALUE,…: Decode:workers=32 Embed:gpus=0.5,accelerator=L4; KEY is workers,
    least, cpus, gpus, memory (GiB), accelerator, resource.NAME or label.NAME."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


@dataclass(frozen=True)
class Make:
    """Makes a worker's trainee from files: a value that travels instead of the pairs."""

    base: str
    path: str
    tuning: Tuning
    validation: Validation
    encoding: Encoding

    def halves(self) -> tuple[Pairs, Pairs]:
        """The pairs to train on and those kept out."""
        pairs = Pairs(Path(self.path))
        kept, held = split(pairs.groups, self.validation.share, self.validation.pairs, self.tuning.seed)
        return pairs.subset(kept), pairs.subset(held)

    def __call__(self, worker: Worker) -> Fit:
        """The trainee of one worker."""
        kept, held = self.halves()
        return Fit(self.base, self.tuning, self.validation, kept, held, self.encoding, worker)


def ngcg_train(config: NgcgTrain) -> dict[str, Any]:
    """Runs the job; returns the model's card, nothing for a dry run.

    Raises:
        UserError: the arguments, the base, the annotations or the archive must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    if config.dry_run:
        say(dry(Store(config.store), config, config.loop.workers, config.gpu_gib))
        return {}
    _checked(config)
    _enough(config)
    store = Store(config.store)
    base = resolve(store, config)
    annotations = read(store, config.annotations, config.column, config.grouping)
    batches_of(annotations.numbers, config.tuning.batch, config.tuning.distinct)
    places = len(np.unique(annotations.numbers))
    say(f"annotations: {len(annotations):,} names of {places:,} places, told apart by {annotations.grouping}")
    source = _source(config, base.side)
    output = Path(config.output).resolve()  # training workers have a directory of their own
    asked = fingerprint({"pairs": source.decides(annotations), "base": base.identity, "settings": _settings(config)})
    about = made(output, "asked", asked)
    if about is None:
        say(f"{base.named}: {base.counts}")
        about = _learnt(config, base, source, annotations, output) | {"asked": asked}
        write(output, about)
    if config.merge and not about["merged"]:  # after the card: what is trained can be used, whatever becomes of this
        shutil.rmtree(output / MERGED, ignore_errors=True)
        merge(Path(base.folder), output / ADAPTER, output / MERGED)
        about["merged"] = MERGED
        write(output, about)
    shutil.rmtree(_work(output), ignore_errors=True)
    tell(output, about)
    return about


def _checked(config: NgcgTrain) -> None:
    """What the arguments alone show to be wrong."""
    for name in ("archive", "annotations", "output"):
        if not getattr(config, name):
            raise UserError(f"nothing is given as --{name}; say where the {name} {'goes' if name == 'output' else 'lies'}")
    for place, what in ((config.output, "a model is"), (config.pairs, "pairs are")):
        if place.startswith("s3://"):
            raise UserError(f"{what} written to a folder, not to {place}; copy it into the bucket afterwards")
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not _ours(output))):
        raise UserError(f"{output} holds something else than a model of this job; choose another --output")
    workers = config.loop.workers
    if config.tuning.batch % workers:
        raise UserError(f"a batch of {config.tuning.batch} cannot be shared equally by {workers} workers; give a multiple")
    if config.loop.parallel != "ddp":
        raise UserError("every worker of NGCG holds the whole network; leave --loop.parallel at ddp")


def _enough(config: NgcgTrain) -> None:
    """That there is a GPU for each worker that wants one, and that a cluster can train at all."""
    join_cluster(config.address)
    workers = config.loop.workers
    there = cluster_gpus() or torch.cuda.device_count()
    if config.loop.gpu and there < workers:
        raise UserError(
            f"{workers} workers with a GPU each are asked for, and {there:g} GPUs are here; lower --loop.workers, or leave "
            "--loop.gpu out"
        )
    ready(config.loop, Path(config.output), config.address)


def _ours(output: Path) -> bool:
    """Whether a folder may be replaced: a model of this job, or one that its driver died before describing."""
    if not (output / CARD).is_file():
        return (output / HISTORY).is_file() and any((output / name).is_dir() for name in (ADAPTER, MERGED))
    return bool(card(output).get("method") == METHOD)


def _source(config: NgcgTrain, side: int) -> Source:
    return Source(
        archive=ArchiveConfig(
            uri=config.archive,
            include=config.include,
            exclude=config.exclude,
            max_bytes=config.max_bytes,
            shard_rows=config.shard_rows,
        ),
        annotations=config.annotations,
        column=config.column,
        grouping=config.grouping,
        decode=replace(config.decode, side=side) if config.decode.side == DecodeConfig.side else config.decode,
        workers=config.workers,
        stages=config.stages,
        address=config.address,
        store=config.store,
    )


def _settings(config: NgcgTrain) -> list[dict[str, Any]]:
    """What of the settings decides the model: that a step is cut into pieces bounds its memory only, and whole training has no
    adapters."""
    tuning, validation, encoding = (asdict(each) for each in (config.tuning, config.validation, config.encoding))
    for name in ("micro_batch", *(("lora",) if config.tuning.whole else ())):
        del tuning[name]
    del validation["batch"]
    return [tuning, validation, encoding]


def _work(output: Path) -> Path:
    return output.parent / f".{output.name}.work"


def _learnt(config: NgcgTrain, base: Base, source: Source, annotations: Annotations, output: Path) -> dict[str, Any]:
    """Pairs, then training; returns the card."""
    hands = Hands(stage=Make, workers=config.loop.workers, cpus=config.loop.cpus)
    start([*source.river(), hands], config.address)
    prepared = prepare(source, Path(config.pairs).resolve() if config.pairs else _work(output) / "pairs", annotations)
    make = Make(base.opened, str(prepared.path), config.tuning, config.validation, config.encoding)
    kept, held = make.halves()
    batches_of(kept.groups, config.tuning.batch, config.tuning.distinct)
    if not base.folder:
        decides = {"pairs": prepared.written.digest, "small": asdict(config.small), "held": held.rows.tolist()}
        folder = write_small(_work(output) / f"base-{fingerprint(decides)[:16]}", kept.every_text(), config.small)
        make = replace(make, base=str(folder))
    identity = fingerprint_of_base(base.folder or make.base)
    decides = {"pairs": prepared.written.digest, "base": identity, "settings": _settings(config)}
    name = f"ngcg-{fingerprint(decides)[:16]}"
    known = made(output, "name", name)
    if known is not None:
        return known
    spent = _trained(config, make, (len(kept), len(held)), output, name)
    _kept(prepared, output)
    about = {
        "base": base.named,
        "base_fingerprint": identity,
        "encoding": asdict(config.encoding),
        "config": {
            "tuning": asdict(config.tuning),
            "validation": asdict(config.validation),
            "workers": config.loop.workers,
        },
        "name": name,
    }
    return card_of(about, prepared, (len(kept), len(held)), spent)


def _trained(config: NgcgTrain, make: Make, pairs: tuple[int, int], output: Path, name: str) -> dict[str, float]:
    """Trains on Ray, telling how far it is; returns its figures."""
    tuning = config.tuning
    say(f"training on {pairs[0]:,} pairs, {pairs[1]:,} kept out, in batches of {tuning.batch}, {config.loop.workers} workers")
    with Progress("trained", tuning.steps, unit="steps") as progress:

        def watch(step: int, steps: int, loss: float) -> None:
            progress.total = steps
            progress.add(step - progress.done, f"loss {loss:.3f}")

        return fit(make, output, name=name, loop=config.loop, watch=watch)


def _kept(prepared: Prepared, output: Path) -> None:
    """Puts what no pair came of beside the model; the pairs' own folder may go."""
    (output / "pairs").mkdir(parents=True, exist_ok=True)
    for name in (REJECTED, MISSING):
        shutil.copy2(prepared.folder / name, output / "pairs" / name)
