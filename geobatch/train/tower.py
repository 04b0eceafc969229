"""Low-rank adapters on an encoder of `transformers`, image or text, and the encoder they melt into.

LoRA (arXiv 2106.09685) on every linear projection of the layer stack, whatever it is called: CLIP, SigLIP, ViT, DINOv2 and BERT
each have other names, but in all of them a projection of a layer has the layer's number in its full name. Adapters are made in
place, so that the trunk is still its own class, and an optimiser that is given what asks for a gradient trains just them: rank
16 on CLIP ViT-L/14's image half is 7.1 of 311 million parameters.

`melted` gives the encoder back without a trace of them, W + (alpha / r)·B·A in each place, which is what is saved: inference
needs no peft and costs nothing more.

Not covered: convolutions, so ResNets and ConvNeXts have nothing to adapt; quantised trunks.
"""

from __future__ import annotations

import copy
import re
from typing import Any, cast

import torch
from torch import nn

from geobatch.errors import UserError

#: What peft calls the one adapter of a module, and puts into the names of its parameters.
_ADAPTER = "default"


def adapt(trunk: nn.Module, rank: int, alpha: int | None = None, dropout: float = 0.0, seed: int = 0) -> int:
    """Freezes `trunk` and puts adapters into it; returns how many parameters they have.

    Args:
        trunk: a model of `transformers`; changed in place.
        rank: of each adapter (r).
        alpha: numerator of the scale alpha / r; default: 2 r.
        dropout: share of an adapter's inputs dropped in training.
        seed: of the first weights, drawn on the CPU in the order of the modules' names.

    Raises:
        UserError: the rank is below 1, or it has no linear projections in numbered layers.
    """
    import peft  # 0.6 s, and only who adapts needs it

    if rank < 1:
        raise UserError(f"LoRA of rank {rank} is none; use a rank of at least 1")
    names = [name for name, part in trunk.named_modules() if isinstance(part, nn.Linear) and re.search(r"\.\d+\.", name)]
    if not names:
        raise UserError(f"{type(trunk).__name__} has no linear projections in layers for LoRA; train without --lora-rank")
    trunk.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=names)
    peft.inject_adapter_in_model(config, trunk, adapter_name=_ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for name, parameter in sorted(trunk.named_parameters()):
        if not parameter.requires_grad:
            continue
        count += parameter.numel()
        if ".lora_A." in name:
            noise = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(noise, a=5**0.5, generator=generator)
            parameter.data.copy_(noise)
    return count


def melted(trunk: nn.Module) -> nn.Module:
    """A copy of `trunk` on the CPU with its adapters, if any, in its weights."""
    from peft.tuners.lora import LoraLayer

    copied = copy.deepcopy(trunk).cpu()
    adapted = [(name, part) for name, part in copied.named_modules() if isinstance(part, LoraLayer)]
    for name, part in adapted:
        cast(Any, part).merge()
        parent, _, last = name.rpartition(".")
        setattr(copied.get_submodule(parent), last, cast(Any, part).get_base_layer())
    if hasattr(copied, "peft_config"):
        del copied.peft_config
    return copied
