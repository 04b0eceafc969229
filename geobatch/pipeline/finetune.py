"""Curated captions and a base model become a GeoLocSFT student: read, check, train, describe.

What lies in the model's folder: `geobatch.json` (method, base, form, figures), `adapter/` (a PEFT adapter that vLLM loads as
it is, with a model card and the history of losses) and, if asked for, `merged/`, base and adapter as one checkpoint.

Everything that can be wrong with the input is found before Ray starts: every picture is decoded, every answer tokenised and
measured. The trainable parameters are counted on a model without weights. The name of the training holds all that decides its
result, the number of workers excepted: another number goes on from the same checkpoint, with the same batches.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from geobatch.actors import Hands, start
from geobatch.engine.chat import Chat
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geolocsft import architectures, memory
from geobatch.methods.geolocsft.config import PRESETS, Preset, Tuning, Validation
from geobatch.methods.geolocsft.data import Encoder, Examples, halves
from geobatch.methods.geolocsft.describe import describe
from geobatch.methods.geolocsft.examples import Written, read, write
from geobatch.methods.geolocsft.locate import SIDE
from geobatch.methods.geolocsft.prompts import Form
from geobatch.methods.geolocsft.train import HISTORY, Fit
from geobatch.pipeline.folder import CARD, base_of, fingerprint_of_base, is_path, local_folder, written_to
from geobatch.progress import Progress, say
from geobatch.store import Store, StoreConfig
from geobatch.train import lora
from geobatch.train.loop import Loop, Worker, fit
from geobatch.train.merge import merge
from geobatch.train.ready import ready
from geobatch.train.split import LEVEL, shared

ADAPTER, MERGED = "adapter", "merged"

#: Examples that cannot be used, named in the error.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class GeoLocSftTrain:
    """Fine-tunes a vision-language model on curated captions."""

    captions: str = ""
    """What the caption job curated (its output, or a Parquet file or folder of the same columns), or a ShareGPT-style .json."""
    output: str = ""
    """Folder of the model. The same command takes up a training that died."""
    base: str = ""
    """Folder, s3:// prefix or hub name of the base model, of the family Gemma 3 or Qwen2.5-VL; default: the preset's."""
    preset: Literal["", "gemma3_27b", "gemma3_12b", "qwen25vl_3b"] = ""
    """A published base, and whether a GPU holds it whole; the training's settings are the paper's for each."""
    form: Form = "tag"
    """How the student answers: reasoning and a tag, or the geo-caption as JSON."""
    tuning: Tuning = field(default_factory=Tuning)
    """Adapters and training; the paper's by default."""
    validation: Validation = field(default_factory=Validation)
    """What is measured on images kept out of training."""
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(side=SIDE))
    """How pictures are decoded; use the same for the main job."""
    leave_out: bool = False
    """Train without the examples that cannot be used, and count them; by default the job names them and stops."""
    merge: bool = False
    """Also write base and adapter as one checkpoint."""
    dry_run: bool = False
    """Print what the training needs on each GPU and stop; needs no captions, no weights and no GPU."""
    gpu_gib: float = 80.0
    """GiB of memory of each GPU, for the dry run."""
    loop: Loop = field(default_factory=Loop)
    """Workers and checkpoints."""
    address: str | None = None
    """Ray cluster to work on; default: RAY_ADDRESS, else this machine."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""


@dataclass(frozen=True)
class Make:
    """Makes a worker's trainee from files: a value that travels instead of the examples."""

    base: str
    examples: str
    form: Form
    tuning: Tuning
    validation: Validation
    decode: DecodeConfig

    def __call__(self, worker: Worker) -> Fit:
        path = Path(self.examples)
        kept, held = halves(Examples(path, self.decode).places(), self.validation, self.tuning.seed)
        encoder = Encoder(Chat(self.base), self.form, self.tuning.coordinate_weight)
        examples, aside = (Examples(path, self.decode, rows) for rows in (kept, held))
        return Fit(self.base, self.tuning, self.validation, examples, aside, encoder, worker)


def finetune(config: GeoLocSftTrain) -> dict[str, Any]:
    """Runs the job; returns the model's card, nothing for a dry run.

    Raises:
        UserError: the arguments, the captions or the base must be resolved.
        MachineError: workers kept dying; the same call goes on from the last checkpoint.
    """
    preset = PRESETS[config.preset]() if config.preset else None
    loop = replace(config.loop, parallel="fsdp") if preset and preset.parallel == "fsdp" else config.loop
    if config.dry_run:
        say(_needs(config, preset, loop))
        return {}
    for name in ("captions", "output"):
        if not getattr(config, name):
            raise UserError(f"nothing is given as --{name}; say where the {name} {'are' if name == 'captions' else 'goes'}")
    if config.tuning.batch % loop.workers:
        raise UserError(f"a batch of {config.tuning.batch} cannot be shared equally by {loop.workers} workers; give a multiple")
    output = written_to(config.output, "a model", _ours).resolve()  # training workers have a directory of their own
    store = Store(config.store)
    base = _base(store, config, preset)
    ready(loop, output, config.address)
    work = output.parent / f".{output.name}.work"
    path = work / "examples.arrow"
    written = _written(store, config, base, path)
    places = Examples(path, config.decode).places()
    kept, held = halves(places, config.validation, config.tuning.seed)
    identity = fingerprint_of_base(base)
    name = _name(written, identity, config, bool(len(held)) and shared(*places))
    card = _made(output, name)
    if card is None:
        if left := written.examples - len(kept) - len(held):
            say(f"{left:,} more examples of the place that is kept out are not trained on either")
        if (output / CARD).is_file():
            say(f"the model at {output} was trained otherwise, and is replaced when this training ends")
        say(f"{Path(base).name}: {_counted(base, config.tuning)}")
        make = Make(base, str(path), config.form, config.tuning, config.validation, config.decode)
        spent = _trained(config, loop, make, (len(kept), len(held)), output, name)
        named = config.base if config.base.startswith("s3://") else base  # a copy of this machine's is no name elsewhere
        card = {**_card(config, named, identity, len(kept), len(held), spent), "name": name}
        (output / ADAPTER / "README.md").write_text(describe(card, written.digest))
        (output / CARD).write_text(json.dumps(card, indent=1) + "\n")
    if config.merge and "merged" not in card:  # after the card: what is trained can be used, whatever becomes of this
        _merge(base, output)
        card["merged"] = MERGED
        (output / CARD).write_text(json.dumps(card, indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    _told(output, card)
    return card


def _trained(
    config: GeoLocSftTrain, loop: Loop, make: Make, images: tuple[int, int], output: Path, name: str
) -> dict[str, float]:
    """Trains on Ray, telling how far it is; returns its figures."""
    start([Hands(stage=Make, workers=loop.workers, cpus=loop.cpus)], config.address)
    steps = config.tuning.steps or max(1, math.ceil(config.tuning.epochs * images[0] / config.tuning.batch))
    say(f"training on {images[0]:,} images, {images[1]:,} kept out: {steps:,} steps of {config.tuning.batch}, "
        f"{loop.workers} workers, {loop.parallel}")  # fmt: skip
    with Progress("trained", steps, unit="steps") as progress:

        def watch(step: int, steps: int, loss: float) -> None:
            progress.add(step - progress.done, f"loss {loss:.3f}")

        return fit(make, output / ADAPTER, name=name, loop=loop, watch=watch)


def _ours(output: Path) -> bool:
    """Whether a model of this job is there, one that its driver died before describing, or nothing in a model's place."""
    if (output / CARD).is_file():
        return bool(json.loads((output / CARD).read_text()).get("method") == "geolocsft")
    return (output / ADAPTER / HISTORY).is_file() or not any((output / name).exists() for name in (ADAPTER, MERGED))


def _made(output: Path, name: str) -> dict[str, Any] | None:
    """The card of a training that has ended already, so that the same command does not begin it again."""
    path = output / CARD
    card: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return card if card.get("name") == name and (output / ADAPTER).is_dir() else None


def _needs(config: GeoLocSftTrain, preset: Preset | None, loop: Loop) -> str:
    """The table of the dry run."""
    if config.base or preset is None:
        if not config.base:
            raise UserError("a dry run needs to know the model; give --preset or --base")
        architecture: Any = transformers.AutoConfig.from_pretrained(config.base)
    else:
        architecture = getattr(architectures, config.preset)()
    if config.tuning.lora.vision:
        raise UserError("the dry run does not know what adapters on the vision tower need; leave --tuning.lora.vision off")
    plan = memory.Plan(
        rank=config.tuning.lora.rank,
        tokens=config.tuning.cutoff,
        micro_batch=config.tuning.micro_batch,
        sharding=loop.parallel,
        gpus=loop.workers,
        gib=config.gpu_gib,
    )
    return memory.report(architecture, plan, config.base or config.preset)


def _base(store: Store, config: GeoLocSftTrain, preset: Preset | None) -> str:
    """The base as a local folder, or as a hub name that every worker resolves."""
    base = config.base or (preset.base if preset else "")
    if not base:
        raise UserError("there is no base model; give --base or --preset")
    if is_path(base):
        return str(local_folder(store, base, "base model"))
    base_of(store, base)  # fetched here, before workers wait for each other within a deadline
    return base


def _written(store: Store, config: GeoLocSftTrain, base: str, path: Path) -> Written:
    encoder = Encoder(Chat(base), config.form)
    with Progress("checked", unit="examples") as progress:
        found = read(store, config.captions, config.form)
        written = write(found, path, encoder, config.decode, config.tuning.cutoff, progress.add)
    if written.faults and not config.leave_out:
        first = "; ".join(f"{fault.image_id}: {fault.reason}" for fault in written.faults[:_NAMED])
        more = f"; and {len(written.faults) - _NAMED:,} more" if len(written.faults) > _NAMED else ""
        raise UserError(f"{len(written.faults):,} examples cannot be used ({first}{more}); mend them, or pass --leave-out")
    for reason, count in Counter(fault.reason.split(" (")[0].split(":")[0] for fault in written.faults).most_common():
        say(f"left out, {reason}: {count:,}")
    if written.long:
        say(f"left out, longer than {config.tuning.cutoff:,} tokens: {len(written.long):,}, {written.long[0]} for one")
    if not written.examples:
        raise UserError(f"not one example of {config.captions} can be trained on; see what was left out")
    return written


def _counted(base: str, tuning: Tuning) -> lora.Counts:
    config = transformers.AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    return lora.counts(lora.attach(model, tuning.lora))


def _name(written: Written, base: str, config: GeoLocSftTrain, places_shared: bool) -> str:
    settings = [asdict(each) for each in (config.tuning, config.validation, config.decode)]
    decides: list[Any] = [written.digest, base, config.form, *settings]
    if places_shared:  # else the split is the same as by rows, and so is what was trained when it was
        decides.append(LEVEL)
    return f"geolocsft-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]}"


def _card(config: GeoLocSftTrain, base: str, identity: str, kept: int, held: int, spent: dict[str, float]) -> dict[str, Any]:
    figures = {key: _plain(value) for key, value in spent.items()}
    measured = {name.removeprefix("validation_"): value for name, value in figures.items() if name.startswith("validation_")}
    return {
        "method": "geolocsft",
        "base": base,
        "base_fingerprint": identity,
        "adapter": ADAPTER,
        "form": config.form,
        "images": kept,
        "validation": {"images": held, **measured} if measured else {},
        "training": {name: value for name, value in figures.items() if not name.startswith("validation_")},
        "config": {"tuning": asdict(config.tuning), "decode": asdict(config.decode), "workers": config.loop.workers},
    }


def _plain(value: float) -> float | None:
    """A number as JSON can hold it."""
    return round(value, 5) if math.isfinite(value) else None


def _merge(base: str, output: Path) -> None:
    folder = Path(base)
    if not folder.is_dir():
        folder = Path(base_of(Store(None), base))
    shutil.rmtree(output / MERGED, ignore_errors=True)
    merge(folder, output / ADAPTER, output / MERGED)


def _told(output: Path, card: dict[str, Any]) -> None:
    figures = card["validation"]
    say(f"model {output}: {card['training']['steps']:,.0f} steps, loss {card['training']['loss']}")
    if figures:
        median = "no answer" if figures["median_km"] is None else f"{figures['median_km']:,.1f} km off in the median"
        say(f"on {figures['images']:,} images kept out: {median}, {100 * figures['within_25km']:.1f} % within 25 km, "
            f"{100 * figures['answered']:.1f} % of answers name a place")  # fmt: skip
