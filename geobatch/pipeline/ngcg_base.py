"""What an NGCG training begins with: a published base, or SmolVLM's shape in small with random weights.

All that can be wrong with a base is found here, on the driver and without its weights: that it is of a family, has a tokenizer
and an image processor, that tiles of the asked side are whole image tokens and that vectors are long enough to be cut. What is
trained of it is counted on the `meta` device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import transformers

from geobatch.errors import UserError
from geobatch.methods.ngcg import families, needs
from geobatch.methods.ngcg.architectures import ARCHITECTURES
from geobatch.methods.ngcg.config import Encoding, Tuning
from geobatch.methods.ngcg.inputs import Inputs
from geobatch.methods.ngcg.small import Small, config_of
from geobatch.pipeline.folder import base_of, fingerprint, fingerprint_of_base, is_path
from geobatch.store import Store

TINY = "tiny"

#: The published bases, by the names of their presets.
PRESETS: Mapping[str, str] = {
    "internvl35_1b": "OpenGVLab/InternVL3_5-1B-HF",
    "smolvlm_256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "smolvlm_500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
}


class Asked(Protocol):
    """What of the job's arguments is read here."""

    @property
    def base(self) -> str:
        """Folder, s3:// prefix, hub name, or "tiny"."""

    @property
    def preset(self) -> str:
        """Name of a published base."""

    @property
    def small(self) -> Small:
        """Size of the tiny one."""

    @property
    def tuning(self) -> Tuning:
        """What is trained."""

    @property
    def encoding(self) -> Encoding:
        """What a vector is."""


@dataclass(frozen=True)
class Base:
    """A base that can be trained.

    Fields:
        named: as the card names it: what was asked for, a relative path made absolute.
        folder: where its files are here; empty for one that is written once its texts are known.
        opened: what workers open: the folder, or a hub name, which each machine has a copy of its own of.
        identity: of what it is.
        side: pixels of a tile.
        counts: what is trained of it, in a line.
    """

    named: str
    folder: str
    opened: str
    identity: str
    side: int
    counts: str


def resolve(store: Store, asked: Asked) -> Base:
    """The base of a job, brought to this machine.

    Raises:
        UserError: there is none, or it cannot be trained as asked.
    """
    if asked.base == TINY:
        return _tiny(asked)
    named = asked.base or PRESETS.get(asked.preset, "")
    if not named:
        raise UserError(
            "there is no base; give --base or --preset, or --base tiny with --tuning.whole for one of random weights"
        )
    folder = base_of(store, named)  # before workers wait for each other within a deadline
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        side = Inputs(folder, asked.encoding, config).side
    except (OSError, ValueError, KeyError, AttributeError) as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{named} has no config, tokenizer or image processor that can be read ({why}); give the whole folder of a model"
        ) from error
    _cut(asked, int(config.get_text_config().hidden_size))
    kept = named if named.startswith("s3://") or not is_path(named) else folder  # this machine's copy is no name elsewhere
    opened = folder if is_path(named) else named
    return Base(kept, folder, opened, fingerprint_of_base(folder), side, needs.said(needs.built(config, asked.tuning)))


def _tiny(asked: Asked) -> Base:
    if not asked.tuning.whole:
        raise UserError("a base of random weights learns nothing through adapters; add --tuning.whole")
    side = asked.encoding.side or asked.small.side
    if side != asked.small.side:
        raise UserError(f"tiles of {side} pixels do not fit a base for {asked.small.side}; give --small.side instead")
    _cut(asked, asked.small.width)
    architecture = config_of(asked.small)
    room, prompt = architecture.text_config.max_position_embeddings, asked.small.tokens + 3 + asked.encoding.end
    if max(asked.encoding.text_tokens, prompt) > room:
        raise UserError(
            f"the base {TINY!r} takes {room:,} tokens, not {asked.encoding.text_tokens:,} of a text or {prompt:,} of a tile; "
            "lower --encoding.text-tokens, or --small.side"
        )
    counts = needs.said(needs.built(architecture, asked.tuning))
    return Base(TINY, "", "", fingerprint({"small": asdict(asked.small)}), side, f"up to {counts}")


def _cut(asked: Asked, width: int) -> None:
    if asked.encoding.dimensions > width:
        raise UserError(f"this base gives {width} numbers; ask for that many --encoding.dimensions at most, or 0 for all")
    whole = asked.encoding.dimensions or width
    if max(asked.tuning.nested, default=0) >= whole:
        raise UserError(f"vectors of {whole} numbers cannot be cut to {asked.tuning.nested}; nest fewer dimensions")


def dry(store: Store, asked: Asked, gpus: int, gib: float) -> str:
    """What the training needs on each GPU, as a table; needs a base's config and nothing else.

    Raises:
        UserError: no base is named, its config cannot be had, or tiles or vectors of the asked sizes do not fit it.
    """
    if asked.base == TINY:
        _tiny(asked)
        architecture: Any = config_of(asked.small)
        side = asked.small.side
    elif asked.base:
        architecture, side = _read(base_of(store, asked.base) if asked.base.startswith("s3://") else asked.base)
    elif asked.preset:
        architecture, side = ARCHITECTURES[asked.preset]()
    else:
        raise UserError("a dry run needs to know the model; give --preset or --base")
    families.of(architecture).prompt(asked.encoding.side or side, architecture)
    _cut(asked, int(architecture.get_text_config().hidden_size))
    name = asked.base or asked.preset
    return needs.report(name, architecture, asked.tuning, asked.encoding, asked.encoding.side or side, gpus, gib)


def _read(base: str) -> tuple[Any, int]:
    """A base's config and the side of its tiles."""
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        return config, Inputs(base, Encoding(), config).side
    except (OSError, ValueError) as error:
        raise UserError(f"{base} has no config that can be read ({str(error).splitlines()[0][:200]}); give --preset") from error
