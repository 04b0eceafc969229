"""Weights in 8 bits, by torchao, in place: one scale an output channel, and one a token for what goes in.

A vector needs one pass over its whole prompt, so what counts is arithmetic, not how fast weights are read as when words are
written one by one. Hence inputs are rounded to 8 bits, too, and multiplied as integers. Two layers of SmolVLM-256M's and
InternVL3.5-1B's feed-forward on one core of an AMD EPYC with VNNI, 1,024 tokens, milliseconds:

                                576 ↔ 1536     1024 ↔ 3072     error of the output
    float32                         43.3           150.3
    bfloat16                        20.3            64.1
    8 bits, weights alone           45.6           167.2             0.6 %
    8 bits, both (taken)            20.9            57.7             1.3 %

So on hardware with bfloat16 it is memory that 8 bits save (a quarter of float32's, half of bfloat16's), and time on hardware
without. Below a hundred tokens a batch they are slower than float32.

Not covered: 4 bits, word embeddings, convolutions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from geobatch.errors import UserError


def quantise(network: nn.Module, device: str = "cpu") -> int:
    """Holds the linear layers of `network` in 8 bits, in place; returns how many.

    Layers that are not a multiple of 8 wide stay as they are, and so does the head over the vocabulary, which no vector needs.

    Args:
        device: where it will compute; CPUs without VNNI sum up in 16 bits and get 7-bit numbers.

    Raises:
        UserError: torchao is not installed, or the network has no such layer.
    """
    try:
        with _quiet():
            from torchao.quantization import (  # type: ignore[import-untyped]
                Int8DynamicActivationInt8WeightConfig,
                quantize_,
            )
            from torchao.utils import should_reduce_range  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f"8-bit weights need torchao ({error}); install it, or serve without --serving.quantise") from None
    found = [name for name, module in network.named_modules() if _linear(module, name)]
    if not found:
        raise UserError("this model has no linear layers to hold in 8 bits; serve it without --serving.quantise")
    narrow = bool(should_reduce_range(torch.device(device)))
    how = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=narrow)
    quantize_(network, how, filter_fn=_linear)
    return len(found)


def held_bytes(network: nn.Module) -> int:
    """Bytes of the network's weights, without the head over the vocabulary."""
    parts = {id(each): each for name, each in network.named_parameters() if "lm_head" not in name}
    total = 0
    for each in parts.values():
        inner = [getattr(each, name) for name in ("qdata", "scale") if hasattr(each, name)]
        total += sum(piece.numel() * piece.element_size() for piece in inner or [each])
    return total


def _linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and "lm_head" not in name and not (module.in_features % 8 or module.out_features % 8)


@contextmanager
def _quiet() -> Iterator[None]:
    """torchao tells, when it is imported, of every kernel for other hardware that it does not load."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
