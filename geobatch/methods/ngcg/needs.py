"""What a training needs on each GPU, before anything is downloaded: the figures behind `--dry-run`.

Parameters are counted on a model on the `meta` device, which has shapes and no bytes. What autograd keeps for the backward pass
is not derived but seen: one layer of the language model and one of the vision tower, adapters and all, are run on this CPU with
the very arithmetic of the training, and the storages that autograd holds are added up; the other layers hold as much.

    weights     a frozen base in the training's precision; trained weights in float32, and under bf16 their copies
    training    gradients and AdamW's two moments, 12 bytes for each trained number
    kept        micro-batch x (layers x a text's tokens + layers x a tile's tokens + tower's layers x a tile's patches)
    overhead    CUDA's context, NCCL's buffers where GPUs talk, a tenth of what is kept for gaps: customary figures

A text is taken at its longest, a pair as one text and one tile (and its hard negatives). Held against what autograd keeps of
whole tiny models of three families, it is 0.9 to 1.1 of it (`tests`); against a GPU it was not held.

Not covered: what is alive only for a moment (DoRA multiplies its two matrices out, one layer at a time), validation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from geobatch.errors import UserError
from geobatch.methods.ngcg import families
from geobatch.methods.ngcg.config import Encoding, Tuning
from geobatch.train import lora

GIB = 1 << 30

#: CUDA's context and the workspaces of its libraries; NCCL's buffers. Customary figures, not measured.
CONTEXT, TALK = round(0.6 * GIB), round(1.0 * GIB)

#: What the allocator loses between blocks, as a share of what is kept. Customary, not measured.
FRAGMENTED = 0.10

#: Where the layers of each kind of model lie below `model`.
_LAYERS = {
    "internvl": ("language_model", "vision_tower.encoder.layer"),
    "idefics3": ("text_model", "vision_model.encoder.layers"),
    "smolvlm": ("text_model", "vision_model.encoder.layers"),
    "qwen2_5_vl": ("language_model", "visual.blocks"),
}


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU, by what they are for; see the top."""

    weights: int
    training: int
    kept: int
    overhead: int

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps, all layers: of one text at its longest, and of one tile."""

    text: int
    tile: int


def built(architecture: Any, tuning: Tuning) -> Any:
    """The network without weights, with what is trained of it.

    Raises:
        UserError: another family, or adapters that it has no modules for.
    """
    families.of(architecture)
    with torch.device("meta"):
        model: Any = transformers.AutoModelForImageTextToText.from_config(architecture, attn_implementation="sdpa")
    if not tuning.whole:
        return lora.attach(model, tuning.lora)
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        head.requires_grad_(False)  # without logits a head of its own gets no gradient
    return model


def counted(model: nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all of them, of what `built` gave."""
    parameters = list(model.parameters())
    return sum(each.numel() for each in parameters if each.requires_grad), sum(each.numel() for each in parameters)


def said(model: nn.Module) -> str:
    """What is trained, in a line."""
    trained, total = counted(model)
    modules = lora.counts(model).modules
    if modules:
        return str(lora.counts(model))
    return f"{trained:,} of {total:,} parameters are trained"


def kept(model: Any, tuning: Tuning, encoding: Encoding, side: int) -> Kept:
    """What autograd keeps of a text and of a tile of `side` pixels, through the network that `built` gave."""
    network = model if tuning.whole else model.get_base_model()
    config = network.config
    language_at, tower_at = _LAYERS[config.model_type]
    language: Any = network.model.get_submodule(language_at)
    tower: Any = network.model.get_submodule(tower_at)
    family = families.of(config)
    around = 3  # marks before and behind a tile's tokens
    tokens = (side // family.unit(config)) ** 2 + around
    vision = config.vision_config
    patch = vision.patch_size[0] if isinstance(vision.patch_size, (list, tuple)) else vision.patch_size
    patches = (side // patch) ** 2 + (config.model_type == "internvl")  # its tower has one token for the whole picture
    seen = _seen(_layer(tower[0], tuning), patches, int(vision.hidden_size), tuning)
    return Kept(
        text=len(language.layers) * _read(language, encoding.text_tokens, tuning),
        tile=len(language.layers) * _read(language, tokens, tuning) + len(tower) * seen,
    )


def _layer(layer: nn.Module, tuning: Tuning) -> nn.Module:
    """A layer of the `meta` model on this CPU, full of zeros, frozen weights as the training holds them."""
    made = copy.deepcopy(layer).to_empty(device="cpu").train()
    for parameter in made.parameters():
        parameter.data = torch.zeros_like(
            parameter.data, dtype=torch.bfloat16 if tuning.bf16 and not parameter.requires_grad else torch.float32
        )
    return made


def _read(language: Any, tokens: int, tuning: Tuning) -> int:
    """Bytes kept of one sequence by one layer of a language model."""
    layer = _layer(language.layers[0], tuning)
    rotary = type(language.rotary_emb)(language.config)
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
    width = int(language.config.hidden_size)

    def run(count: int) -> None:
        states = _states(count, tokens, width, tuning)
        where = torch.arange(tokens).expand(count, tokens)
        if language.config.model_type.startswith("qwen2_5_vl"):  # positions in time, rows and columns
            where = where.expand(3, count, tokens)
        layer(states, attention_mask=mask, position_embeddings=rotary(states, where))

    return _held(layer, tuning, run)


def _seen(layer: Any, patches: int, width: int, tuning: Tuning) -> int:
    """Bytes kept of one tile by one layer of a vision tower."""

    def run(count: int) -> None:
        if hasattr(layer, "attn"):  # Qwen's takes rows of patches, where each tile ends, and their rotations
            head = width // int(layer.attn.num_heads)
            around = (torch.ones(count * patches, head), torch.zeros(count * patches, head))
            ends = torch.arange(count + 1, dtype=torch.int32) * patches
            layer(_states(count, patches, width, tuning).flatten(0, 1), cu_seqlens=ends, position_embeddings=around)
        elif hasattr(layer, "self_attn"):
            layer(_states(count, patches, width, tuning), None)
        else:
            layer(_states(count, patches, width, tuning))

    return _held(layer, tuning, run)


def _states(count: int, tokens: int, width: int, tuning: Tuning) -> Tensor:
    dtype = torch.bfloat16 if tuning.bf16 and not tuning.whole else torch.float32
    return torch.zeros(count, tokens, width, dtype=dtype, requires_grad=True)


def _held(layer: nn.Module, tuning: Tuning, run: Callable[[int], None]) -> int:
    """Bytes that autograd holds more for two rows than for one: what rows share (masks, copies of weights) is in neither."""
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}

    def bytes_of(count: int) -> int:
        held: dict[int, tuple[Any, int]] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = (storage, storage.nbytes())  # alive, so that no other gets its address
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=tuning.bf16):
            run(count)
        return sum(size for _, size in held.values())

    return bytes_of(2) - bytes_of(1)


def need(model: Any, tuning: Tuning, encoding: Encoding, side: int, gpus: int) -> Need:
    """Bytes on each of `gpus`."""
    trained, total = counted(model)
    frozen = (2 if tuning.bf16 else 4) * (total - trained)
    part = tuning.batch // gpus
    pairs = min(tuning.micro_batch or part, part)
    each = kept(model, tuning, encoding, side)
    tiles = 1 + (tuning.hard_negatives if tuning.hard_every else 0)
    alive = pairs * (each.text + tiles * each.tile)
    return Need(
        weights=frozen + (4 + (2 if tuning.bf16 and tuning.whole else 0)) * trained,
        training=12 * trained,
        kept=alive,
        overhead=CONTEXT + (TALK if gpus > 1 else 0) + round(FRAGMENTED * alive),
    )


def report(name: str, architecture: Any, tuning: Tuning, encoding: Encoding, side: int, gpus: int, gib: float) -> str:
    """A table a person reads and a verdict.

    Args:
        side: of a tile, pixels.
        gib: memory of each GPU.

    Raises:
        UserError: another family, or the batch cannot be shared.
    """
    if tuning.batch % gpus:
        raise UserError(f"a batch of {tuning.batch} cannot be shared equally by {gpus} workers; give a multiple")
    model = built(architecture, tuning)
    found = need(model, tuning, encoding, side, gpus)
    part = tuning.batch // gpus
    pairs = min(tuning.micro_batch or part, part)
    rows = [
        ("weights", found.weights),
        ("gradients and AdamW", found.training),
        (f"kept of {pairs} pairs at a time", found.kept),
        ("CUDA, NCCL, gaps", found.overhead),
        ("in all", found.total),
    ]
    table = "\n".join(f"  {what:<28}{size / GIB:>8.2f} GiB" for what, size in rows)
    verdict = f"fits: {found.total / GIB:.1f} of {gib:g} GiB"
    if found.total > gib * GIB:
        most = int((gib * GIB - found.total) / (found.kept / pairs * (1 + FRAGMENTED)) + pairs)
        cure = f"take a --tuning.micro-batch of {most}" if most > 0 else "take larger GPUs or a smaller base"
        verdict = f"does not fit: {found.total / GIB:.1f} of {gib:g} GiB; {cure}"
    sizes = f"{gpus} x {gib:g} GiB, tiles of {side} pixels, texts of {encoding.text_tokens} tokens"
    return f"{name}: {said(model)}\n{sizes}\n{table}\n{verdict}"
